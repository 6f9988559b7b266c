"""Rank lists of a retrieval result: each query beside its nearest images, with correct and wrong ones marked."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from fusionjax.interpret.figures import label

RIGHT, WRONG = "#009E73", "#D55E00"
"""Green and red of Okabe and Ito; solid and dashed, ✓ and ✗ say the same without colour."""
_INK, _QUERY = "#333333", "#333333"
_MARK = {True: "✓", False: "✗"}


@dataclass(frozen=True, eq=False)
class Entry:
    """One query and its ranked list, nearest first, without junk and without removed entries.

    Attributes:
        name: of the query (identity, camera), shown below it.
        query: (H, W, 3) uint8.
        images: of the list, each (H, W, 3) uint8 of any size.
        right: for each image of the list, whether it has the query's identity.
        scores: for each image of the list, larger is nearer; None to show none.
        names: for each image of the list; None to show none.
        average_precision: of the query, 0 … 1; None if it has no match or is not to be shown.
        matches: number of matches in the whole gallery; None if unknown.

    Raises:
        ValueError: lengths do not agree, or an image is not (H, W, 3) uint8.
    """

    name: str
    query: np.ndarray
    images: Sequence[np.ndarray]
    right: Sequence[bool]
    scores: Sequence[float] | None = None
    names: Sequence[str] | None = None
    average_precision: float | None = None
    matches: int | None = None

    def __post_init__(self) -> None:
        for what in ("right", "scores", "names"):
            values = getattr(self, what)
            if values is not None and len(values) != len(self.images):
                raise ValueError(f"{len(values)} {what} for {len(self.images)} images of a rank list")
        for image in (self.query, *self.images):
            image = np.asarray(image)
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise ValueError(f"an image must be (H, W, 3) uint8, not {image.shape} {image.dtype}")


def rank_list(
    entries: Sequence[Entry],
    title: str = "",
    *,
    score_name: str = "similarity",
    marks: tuple[str, str] = ("same identity", "another identity"),
) -> Figure | None:
    """Draws one row per query: the query, then its list from rank 1; `figures.save` writes the figure.

    A correct image has a solid green border and ✓, a wrong one a dashed red border and ✗.

    Args:
        entries: queries, drawn in this order.
        title: of the figure.
        score_name: name of the numbers below the images, for the legend.
        marks: names of correct and wrong images, for the legend.

    Returns:
        Figure; None without entries or if all lists are empty.
    """
    columns = max((len(e.images) for e in entries), default=0)
    if not columns:
        return None
    tall = float(np.median([e.query.shape[0] / e.query.shape[1] for e in entries]))
    lines = 1 + any(e.names is not None for e in entries)
    width = 1.15
    height = width * min(max(tall, 0.6), 2.2) + 0.42 + 0.14 * lines
    head = 0.75 if title else 0.45
    figure = Figure(
        figsize=(width * (columns + 1.6) + 0.2, height * len(entries) + head),
        layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.05, wspace=0, hspace=0.02),
    )
    grid = figure.subplots(
        len(entries), columns + 2, squeeze=False, gridspec_kw={"width_ratios": [1.25, 0.12, *[1] * columns]}
    )
    for row, entry in zip(grid, entries, strict=True):
        for axes in row:
            axes.set_axis_off()
        _picture(row[0], entry.query, _QUERY, "-", 1.2)
        row[0].set_title("query", fontsize=8.5, color=_INK)
        row[0].text(0.5, -0.03, _caption(entry), transform=row[0].transAxes, **_UNDER)
        for i, (axes, image) in enumerate(zip(row[2:], entry.images, strict=False)):
            right = bool(entry.right[i])
            colour = RIGHT if right else WRONG
            _picture(axes, image, colour, "-" if right else (0, (3, 1.5)), 3)
            axes.set_title(f"{i + 1} {_MARK[right]}", fontsize=9, color=colour, fontweight="bold")
            under = [] if entry.names is None else [label(entry.names[i], 16)]
            under += [] if entry.scores is None else [f"{entry.scores[i]:.3f}"]
            axes.text(0.5, -0.03, "\n".join(under), transform=axes.transAxes, **_UNDER)
    scored = any(e.scores is not None for e in entries)
    keys = [
        Line2D([], [], color=RIGHT, lw=3, label=f"✓ {marks[0]}"),
        Line2D([], [], color=WRONG, lw=3, ls=(0, (3, 1.5)), label=f"✗ {marks[1]}"),
        *([Line2D([], [], ls="", label=f"number: {label(score_name, 40)}")] if scored else []),
    ]
    figure.legend(
        handles=keys, loc="outside lower center", ncols=len(keys), fontsize=8.5, frameon=False, handlelength=3
    )
    if title:
        figure.suptitle(label(title, 80), fontsize=11, color=_INK)
    return figure


_UNDER = {"ha": "center", "va": "top", "fontsize": 7.5, "color": _INK}


def _caption(entry: Entry) -> str:
    lines = [label(entry.name, 22)]
    if entry.matches == 0:
        lines.append("no match in the gallery")
    elif entry.average_precision is not None:
        lines.append(f"AP {entry.average_precision:.2f}")
    if entry.matches:
        found = int(np.sum(entry.right))
        lines.append(f"{found} of {entry.matches} found here")
    return "\n".join(lines)


def _picture(
    axes: Axes, image: np.ndarray, colour: str, style: str | tuple[int, tuple[float, ...]], width: float
) -> None:
    axes.imshow(image, aspect="equal")
    axes.set_axis_on()
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=width, linestyle=style)
