"""Figures of the embeddings of two modalities: one joint map, and the similarities of all pairs of examples.

As in `figures`: plain data in, matplotlib figures out, written by `figures.save`.
"""

import importlib.util
import warnings
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from fusionjax.errors import UserError
from fusionjax.evaluation.mantel import unit_rows
from fusionjax.interpret.figures import PALETTE, label

MUTED = ("#CC6677", "#332288", "#DDCC77", "#117733", "#88CCEE", "#882255", "#44AA99", "#999933", "#AA4499")
"""Nine colours that colour-blind readers can distinguish; Tol, SRON technical note EPS/TN/09-002, 2021."""
MOST_MAPPED, MOST_COMPARED = 2000, 400
"""Maximum number of pairs in a map, and in a heat map; of more, as many are drawn at random."""
_REST, _INK = "#BBBBBB", "#333333"
_NEIGHBOURS, _DISTANCE = 15, 0.25
_STREAM = 0x3A9  # separates these random draws from others with the same seed


def check_umap() -> None:
    """Checks that umap-learn is installed, without importing it; called at the start of a run.

    Raises:
        UserError: umap-learn is not installed.
    """
    if importlib.util.find_spec("umap") is None:
        raise UserError(
            'the joint map of embeddings needs the package umap-learn: pip install "fusionjax[spectral]"'
        )


def joint_coordinates(
    first: np.ndarray, second: np.ndarray, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Maps both modalities to one plane, with one UMAP of all their embeddings together.

    Separate maps of the modalities would not be comparable, because each has its own axes. Neighbours are determined by the
    angle between embeddings; the map is initialised with the principal components, which tends to preserve large distances.

    Args:
        first, second: (N, D) float embeddings, row i of both of the same example; at least 3 rows.
        seed: of UMAP; the same seed gives the same map on one machine.

    Returns:
        Two arrays (N, 2) float32.

    Raises:
        UserError: umap-learn is not installed, there are fewer than 3 pairs, or embeddings are not finite.
        ValueError: shapes do not agree.

    Source: McInnes, Healy & Melville, arXiv 1802.03426.
    """
    check_umap()
    first, second = _units(first, second)
    if len(first) < 3:
        raise UserError(f"a joint map of {len(first)} pairs: it needs at least 3")
    with warnings.catch_warnings():  # UMAP says on import that another class of it would need TensorFlow
        warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)
        from umap import UMAP
    together = np.concatenate([first, second]).astype(np.float32)
    # On unit vectors Euclidean neighbours are the same as cosine neighbours. UMAP is reproducible with one thread only.
    reducer = UMAP(
        n_neighbors=min(_NEIGHBOURS, len(together) - 1),
        metric="euclidean",
        min_dist=_DISTANCE,
        init="pca",
        random_state=seed,
        n_jobs=1,
    )
    points = np.asarray(reducer.fit_transform(together), np.float32)
    return points[: len(first)], points[len(first) :]


def joint_map(
    first: np.ndarray,
    second: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    names: tuple[str, str],
    title: str = "Both modalities in one map (UMAP)",
    lines: int = 60,
    seed: int = 0,
) -> Figure:
    """Draws the embeddings of both modalities: colours are classes, markers are modalities, thin lines join pairs.

    Of more than `MOST_MAPPED` pairs, as many are drawn at random. Of more than nine classes, only the nine with the most
    examples have a colour.

    Args:
        first, second: (N, D) float embeddings, row i of both of the same example.
        labels: (N,) int, class indices.
        class_names: of all classes.
        names: of the modalities.
        title: of the figure.
        lines: number of pairs to join, drawn at random; all if there are fewer.
        seed: of the map and the random draws.

    Returns:
        Figure.

    Raises:
        UserError, ValueError: as for `joint_coordinates`.
    """
    first, second = _units(first, second)
    labels = _labels(labels, first, class_names)
    total, rng = len(first), np.random.default_rng([_STREAM, seed])
    kept = _draw(rng, total, MOST_MAPPED)
    labels = labels[kept]
    points = joint_coordinates(first[kept], second[kept], seed=seed)
    colour, shown = _colours(labels)
    figure = Figure(figsize=(8.6, 6.2), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    axes = figure.subplots()
    joined = _draw(rng, len(kept), lines)
    axes.plot(
        *(np.stack([points[0][joined, k], points[1][joined, k]]) for k in range(2)),
        color=_INK, lw=0.6, alpha=0.6, zorder=2.5,
    )  # fmt: skip
    size = float(np.clip(6000 / len(kept), 5, 26))
    order = rng.permutation(len(kept))  # no class lies on top of the others
    paint = [colour[c] for c in labels[order]]
    (x, y), (x2, y2) = (p[order].T for p in points)
    axes.scatter(x, y, s=size, c=paint, marker="o", lw=0, alpha=0.85, zorder=2)
    axes.scatter(x2, y2, s=size * 1.3, facecolors="none", edgecolors=paint, marker="^", lw=0.9, zorder=3)
    axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[:].set_color("#CCCCCC")
    counted = f"{len(kept):,} pairs" if len(kept) == total else f"{len(kept):,} of {total:,} pairs"
    axes.set_title(label(title, 80), fontsize=11, loc="left", color=_INK)
    axes.set_xlabel(
        f"{counted}; lines join {'all' if len(joined) == len(kept) else f'{len(joined)} of them'}. Near points are similar; "
        "distances between distant groups mean little.",
        fontsize=8.5, color=_INK, loc="left",
    )  # fmt: skip
    _map_legend(
        figure, names, [(class_names[c], colour[c]) for c in shown], len(set(labels.tolist())) - len(shown)
    )
    return figure


def similarity_map(
    first: np.ndarray,
    second: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    names: tuple[str, str],
    title: str = "Similarities between the modalities",
    seed: int = 0,
) -> Figure:
    """Draws the cosine similarity of every example in one modality with every example in the other, both sorted by class.

    A bright diagonal means that pairs are close; bright blocks on it are classes. Of more than `MOST_COMPARED` examples, as
    many are drawn at random; the means below the title are over the examples shown.

    Args:
        first: (N, D) float embeddings, the rows.
        second: (N, D) float embeddings, the columns; row i of both of the same example.
        labels, class_names, names, title: as for `joint_map`.
        seed: of the random draw.

    Returns:
        Figure.

    Raises:
        UserError: there is no pair, or embeddings are not finite.
        ValueError: shapes do not agree.
    """
    first, second = _units(first, second)
    labels = _labels(labels, first, class_names)
    if not len(first):
        raise UserError("a similarity map of no pairs: there is nothing to show")
    kept = _draw(np.random.default_rng([_STREAM, seed]), len(first), MOST_COMPARED)
    kept = kept[np.argsort(labels[kept], kind="stable")]
    cosines, sorted_labels, n = first[kept] @ second[kept].T, labels[kept], len(kept)
    figure = Figure(figsize=(8.4, 7.2), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    axes = figure.subplots()
    low, high = (
        np.percentile(cosines, 1),
        cosines.max(),
    )  # a few outliers below would leave the rest one colour
    picture = axes.imshow(
        cosines, cmap="viridis", vmin=low, vmax=max(high, low + 1e-3), interpolation="nearest"
    )
    bar = figure.colorbar(
        picture,
        ax=axes,
        label="cosine similarity",
        shrink=0.8,
        extend="min" if cosines.min() < low else "neither",
    )
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=9, colors=_INK)
    _class_axes(axes, sorted_labels, class_names)
    shown = f"{n:,} examples" if n == len(first) else f"{n:,} of {len(first):,} examples"
    axes.set_xlabel(
        f"{label(names[1])}: {shown}{', sorted by class' if len(set(sorted_labels.tolist())) > 1 else ''}",
        color=_INK,
        fontsize=9.5,
    )
    axes.set_ylabel(f"{label(names[0])}: the same examples", color=_INK, fontsize=9.5)
    axes.set_title(
        f"{label(title, 80)}\n{_means(cosines, sorted_labels)}", fontsize=10.5, loc="left", color=_INK
    )
    axes.spines[:].set_visible(False)
    return figure


def _means(cosines: np.ndarray, labels: np.ndarray) -> str:
    pair = np.eye(len(labels), dtype=bool)
    same = (labels[:, None] == labels) & ~pair
    groups = [("a pair", pair), ("others of its class", same), ("other classes", ~same & ~pair)]
    rounded = [(name, round(float(cosines[where].mean()), 2) + 0.0) for name, where in groups if where.any()]
    text = ", ".join(f"{name} {mean:.2f}" for name, mean in rounded)
    return f"mean: {text}".replace("-", "−")


def _class_axes(axes: Axes, labels: np.ndarray, class_names: Sequence[str]) -> None:
    """Lines between the classes and, where it has room, each class's name in the middle of its rows."""
    known, starts, counts = np.unique(labels, return_index=True, return_counts=True)
    if len(known) <= 60:
        for start in starts[1:]:
            for line in (axes.axhline, axes.axvline):
                line(start - 0.5, color="white", lw=0.6 if len(known) <= 20 else 0.4, alpha=0.7)
    size, angle, least = (8.5, 45, 0.024) if len(known) <= 12 else (7.5, 90, 0.016)
    roomy = (counts >= least * len(labels)) & (len(known) > 1)
    middles = (starts + (counts - 1) / 2)[roomy]
    texts = [label(class_names[c], 24) for c in known[roomy]]
    axes.set_xticks(
        middles, texts, rotation=angle, ha="right", va="center", rotation_mode="anchor", fontsize=size
    )
    axes.set_yticks(middles, texts, fontsize=size)
    axes.tick_params(length=0, colors=_INK)


def _map_legend(
    figure: Figure, names: tuple[str, str], classes: Sequence[tuple[str, str]], rest: int
) -> None:
    keys = [
        Line2D([], [], ls="", marker="o", ms=6, mew=0, color=_INK, label=label(names[0])),
        Line2D([], [], ls="", marker="^", ms=6, mew=1.1, mfc="none", color=_INK, label=label(names[1])),
    ]
    if len(classes) + rest > 1:
        colours = [
            *classes,
            *([(f"{rest} other {'classes' if rest > 1 else 'class'}", _REST)] if rest else []),
        ]
        keys.append(Line2D([], [], ls="", label=""))
        keys += [
            Line2D([], [], ls="", marker="s", ms=7, color=c, label=label(text, 28)) for text, c in colours
        ]
    figure.legend(handles=keys, loc="outside right upper", fontsize=9, frameon=False, labelcolor=_INK)


def _colours(labels: np.ndarray) -> tuple[dict[int, str], list[int]]:
    """Returns class → colour, and the classes with a colour of their own, in order."""
    known, counts = np.unique(labels, return_counts=True)
    palette = PALETTE if len(known) <= len(PALETTE) else MUTED
    own = np.sort(known[np.argsort(-counts, kind="stable")[: len(palette)]]).tolist()
    colour = dict(zip(own, palette, strict=False))
    return {c: colour.get(c, _REST) for c in known.tolist()}, own


def _draw(rng: np.random.Generator, n: int, most: int) -> np.ndarray:
    return np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False))


def _labels(labels: np.ndarray, embeddings: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != (len(embeddings),):
        raise ValueError(f"labels {labels.shape} are not one for each of {len(embeddings)} pairs")
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(class_names):
        raise ValueError(f"labels {labels.min()} … {labels.max()} do not fit {len(class_names)} class names")
    return labels


def _units(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns both as float64 with rows of unit length; a row of zeros stays zero."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(f"embeddings {first.shape} and {second.shape} are not two (N, D) of one space")
    first = unit_rows(first, "the first modality's embeddings")
    return first, unit_rows(second, "the second modality's embeddings")
