"""Figures of a run, each from plain data. Only matplotlib's object interface: no pyplot, no global state, no display.

Names of classes and files come from data. `label` makes them safe to draw: no mathtext, no control characters, no glyphs that
the font lacks (which matplotlib would warn about), limited length.
"""

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ft2font import FT2Font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from fusionjax import files
from fusionjax.evaluation.classification import ClassRow
from fusionjax.interpret.maps import Example

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe and Ito, Color Universal Design (2008): distinguishable for colour-blind readers."""
NUMBERED, NAMED = 20, 60
"""Maximum number of classes for which a confusion matrix shows counts, and class names."""
_FONT = FontProperties(family="DejaVu Sans")  # comes with matplotlib
_INK = "#333333"


def label(text: str, limit: int = 32) -> str:
    """Returns text that matplotlib draws literally: at most `limit` characters, with the middle elided."""
    glyphs = _glyphs()
    text = "".join(
        c if ord(c) in glyphs else "\N{REPLACEMENT CHARACTER}" for c in " ".join(str(text).split())
    )
    if len(text) > limit:
        text = f"{text[: limit // 2]}…{text[len(text) - (limit - limit // 2 - 1) :]}"
    return text.replace("$", r"\$")


def save(figure: Figure, path: Path, dpi: int = 160) -> Path:
    """Writes a PNG in one step: the file is whole or absent. Returns its path."""
    path = Path(path)
    with files.replacing(path) as part:
        figure.savefig(part, format="png", dpi=dpi, facecolor="white")
    return path


def confusion_matrix(
    matrix: np.ndarray, class_names: Sequence[str], title: str = "Confusion matrix"
) -> Figure:
    """Draws a confusion matrix.

    Up to 20 classes it shows names and counts, coloured by the share of the row; up to 60, names and counts on a logarithmic
    colour scale; above, class indices in place of names.

    Args:
        matrix: (C, C) int, rows true, columns predicted.
        class_names: C names.
        title: of the figure.

    Returns:
        Figure.

    Raises:
        ValueError: sizes do not agree.
    """
    matrix = np.asarray(matrix)
    c = len(class_names)
    if matrix.shape != (c, c) or not c:
        raise ValueError(f"a confusion matrix {matrix.shape} does not fit {c} class names")
    if c > NUMBERED:
        side = 7.0 if c > NAMED else 5.0 + 0.12 * c
        shown, bar = np.ma.masked_equal(matrix, 0), "images (log scale)"
        style: dict[str, Any] = {
            "norm": LogNorm(1, max(2, matrix.max())),
            "cmap": matplotlib.colormaps["viridis_r"].with_extremes(bad="white"),
        }
    else:
        side = 3.4 + 0.55 * c
        shown, bar = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1), "share of the true class"
        style = {"vmin": 0, "vmax": 1, "cmap": "Blues"}
    figure, axes = _figure(side + 0.8, side, title)
    picture = axes.imshow(shown, interpolation="nearest", **style)
    colour_bar = figure.colorbar(picture, ax=axes, label=bar, shrink=0.8)
    colour_bar.outline.set_visible(False)
    if c > NUMBERED:
        colour_bar.ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        colour_bar.ax.yaxis.set_major_formatter(_percent)
        for (i, j), share in np.ndenumerate(shown):
            if matrix[i, j]:
                ink = "white" if share > 0.55 else "black"
                axes.text(j, i, str(matrix[i, j]), ha="center", va="center", color=ink, fontsize=9)
    if c <= NAMED:
        size = 9 if c <= NUMBERED else 6
        names = [label(name, 24) for name in class_names]
        axes.set_xticks(range(c), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=size)
        axes.set_yticks(range(c), names, fontsize=size)
        axes.tick_params(length=0)
        axes.set(xlabel="predicted class", ylabel="true class")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="predicted class (index)", ylabel="true class (index)")
    axes.spines[:].set_visible(c > NUMBERED)
    return figure


def curves(records: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draws training loss, accuracies and learning rate by step, one panel each.

    Args:
        records: of metrics.jsonl: `step` and flat keys. Keys with the word `loss` under `train/` are losses; keys with the
            word `accuracy` are accuracies, except balanced ones and bounds of intervals; the learning rate ends in
            `learning_rate` or `lr`. If a step was logged twice, as after a resume, the later record is used; values that are
            not finite are skipped.

    Returns:
        Figure with one panel for each of the three that is present; None if there is none.
    """
    logged = points_by_step(records)
    loss = {k: v for k, v in logged.items() if k.startswith("train/") and _is(k, "loss")}
    accuracy = {k: v for k, v in logged.items() if _is(k, "accuracy")}
    rate = {k: v for k, v in logged.items() if k.split("/")[-1] in ("learning_rate", "lr")}
    panels = [(loss, "Loss in training", "loss (nats)"), (accuracy, "Accuracy", "accuracy")]
    panels = [panel for panel in (*panels, (rate, "Learning rate", "learning rate")) if panel[0]]
    if not panels:
        return None
    parts = sorted({_part(key) for key in loss | accuracy})  # a branch keeps its colour, a split its dashes
    splits = sorted({key.split("/")[0] for key in accuracy} - {"train"})
    dashes = {"train": "--"} | {split: ("-", "-.", ":")[i % 3] for i, split in enumerate(splits)}
    figure = _blank(4.4 * len(panels), 3.4)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (data, title, unit) in zip(grid, panels, strict=True):
        apply_style(axes, title)
        for key, (steps, values) in sorted(data.items()):
            style = dashes.get(key.split("/")[0], "-") if data is accuracy else "-"
            colour = _INK if data is rate else PALETTE[parts.index(_part(key)) % len(PALETTE)]
            marker = "o" if len(steps) <= 30 else None
            axes.plot(steps, values, style, color=colour, marker=marker, ms=3.5, lw=1.4, label=label(key, 40))
        axes.set(xlabel="step", ylabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if data is accuracy:
            axes.yaxis.set_major_formatter(_percent)
        if data is rate:
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        if len(data) > 1:
            axes.legend(fontsize=8, frameon=False)
    return figure


def per_class_bars(rows: Sequence[ClassRow], most: int = 30) -> Figure | None:
    """Draws the recall of each class, lowest on top; of more than `most` classes, those with the lowest recall.

    Args:
        rows: of a `Result`. Classes without examples are left out.
        most: maximum number of bars.

    Returns:
        Figure; None if no class has an example.
    """
    present = sorted((row for row in rows if row.support), key=lambda row: (row.recall, row.name))
    if not present:
        return None
    shown = present[:most]
    title = (
        "Recall of each class"
        if len(shown) == len(present)
        else f"The {most} of {len(present)} classes with the lowest recall"
    )
    figure, axes = _figure(7.2, 1.3 + 0.3 * len(shown), title)
    axes.barh(range(len(shown)), [row.recall for row in shown], color=PALETTE[0], height=0.7)
    for i, row in enumerate(shown):
        right = round(row.recall * row.support)
        axes.text(
            row.recall + 0.01,
            i,
            f"{_percent(row.recall)}  ({right} of {row.support})",
            va="center",
            fontsize=8.5,
            color=_INK,
        )
    axes.set_yticks(range(len(shown)), [label(row.name) for row in shown], fontsize=9)
    axes.set_xlim(0, 1.22)  # room for the numbers
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_ylim(len(shown) - 0.4, -0.6)  # the first on top
    axes.xaxis.set_major_formatter(_percent)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("recall: share of the class's images that are classified correctly")
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_bounds(0, 1)
    axes.grid(axis="y", visible=False)
    return figure


def attention_rows(
    examples: Sequence[Example], title: str = "", *, map_name: str = "attention rollout"
) -> Figure | None:
    """Draws one row per example: the input, its map, the patches that GLCA selects. Empty columns are left out.

    Args:
        examples: to show.
        title: of the figure.
        map_name: name of the map.

    Returns:
        Figure; None without examples.
    """
    if not examples:
        return None
    pictures = [(e.image, e.overlay(), e.selection()) for e in examples]
    heads = ("input", map_name, "patches that GLCA selects")
    columns = [j for j in range(3) if any(row[j] is not None for row in pictures)]
    figure = _blank(2.7 * max(len(columns), 2), 2.75 * len(examples) + 0.5)
    grid = figure.subplots(len(examples), len(columns), squeeze=False)
    for i, (example, row) in enumerate(zip(examples, pictures, strict=True)):
        for axes, j in zip(grid[i], columns, strict=True):
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color("#CCCCCC")
            axes.set_visible(row[j] is not None)
            if row[j] is not None:
                axes.imshow(row[j])
            if i == 0 and j:
                axes.set_title(heads[j], fontsize=9, color=_INK)
        grid[i][0].set_title(_verdict(example), fontsize=8.5, color=_INK, loc="left")
    if title:
        figure.suptitle(label(title, 80), fontsize=11)
    return figure


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(FT2Font(findfont(_FONT)).get_charmap())


def _verdict(example: Example) -> str:
    probability = _percent(example.probability)
    if example.true == example.predicted:
        return f"{label(example.true)}\ncorrect ({probability})"
    return f"true: {label(example.true, 26)}\npredicted: {label(example.predicted, 20)} ({probability})"


def _blank(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))


def _words(key: str) -> list[str]:
    return re.split("[/_]", key)


def _is(key: str, kind: str) -> bool:
    words = _words(key)
    return kind in words and not {"balanced", "low", "high", "weight"} & set(words)


def _part(key: str) -> str:
    """Returns the part of a model that a key measures, usually the branch; "" for the whole model."""
    return "/".join(word for word in _words(key)[1:] if word not in ("loss", "accuracy"))


def _percent(value: float, position: float | None = None) -> str:
    return f"{100 * value:.0f}\N{NO-BREAK SPACE}%"


def _figure(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    figure = _blank(width, height)
    axes = figure.subplots()
    apply_style(axes, title)
    axes.grid(axis="both", visible=False)
    return figure, axes


def apply_style(axes: Axes, title: str, grid: Literal["x", "y"] = "y", colour: str = "#DDDDDD") -> None:
    """Title at the left, no frame above and at the right, and a thin grid behind the data.

    Args:
        axes: of a figure.
        title: of any length; it is shortened.
        grid: axis of the grid lines, "x" or "y".
        colour: of the grid lines.
    """
    axes.set_title(label(title, 80), fontsize=11, loc="left", color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color=colour, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, colors=_INK)


def points_by_step(records: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    """Returns key → steps and values, ordered by step; of a step that was logged twice, the later record is used."""
    points: dict[str, dict[float, float]] = {}
    for record in records:
        step = record.get("step")
        if not isinstance(step, int | float):
            continue
        for key, value in record.items():
            if key != "step" and isinstance(value, int | float) and math.isfinite(value):
                points.setdefault(key, {})[step] = float(value)
    return {key: (sorted(p), [p[s] for s in sorted(p)]) for key, p in points.items()}
