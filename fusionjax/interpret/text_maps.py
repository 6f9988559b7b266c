"""Figures of the attention between an image and a text in both directions: words of its text, or a bank of descriptions."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patheffects import withStroke
from scipy import ndimage

from fusionjax.interpret.figures import PALETTE, label
from fusionjax.interpret.rank_list import RIGHT, WRONG
from fusionjax.interpret.text_attention import (
    Reading,
    TextExample,
    is_aside,
    is_special,
    merge_pieces,
    most_read,
    pool,
    regions_to_words,
    strongest_words,
    words_to_regions,
)

__all__ = ("BANK_TEXT", "WORDS_TEXT", "Reading", "TextExample", "bank_figure", "figure", "merge_pieces", "most_read",
           "pool", "regions_to_words", "strongest_words", "words_to_regions")  # fmt: skip

WORDS_TEXT = (
    "Attention between image and text in both directions. Small images: the words that get most attention from the image, "
    "and the regions that each of them attends to; yellow is the largest weight, black is none. The number is the largest "
    "weight as a multiple of the uniform weight; a word whose attention is uniform is purple everywhere. Coloured image: the "
    "word that each region attends to most, in the same colours; all other words are grey. Bars: the share of the regions' "
    "attention that each word gets. Special tokens, such as [CLS], and punctuation come last, are pale, and are left out of "
    "the coloured image. Attention shows where information can flow, not what the prediction is based on."
)
"""Explains a `figure` of words, for the report."""
BANK_TEXT = (
    "The descriptions, of all classes, that get most attention from the regions of the image, each with its share of the "
    "attention; the dotted mark is the share under uniform attention. Right, for the first few: the regions that attend to "
    "them; yellow is the largest weight, black is none, and the number is the largest weight as a multiple of the mean. "
    "Attention shows where information can flow, not what the prediction is based on."
)
"""Explains a `bank_figure`, for the report."""

_INK, _SOFT, _PALE, _OTHER = "#333333", "#6b6b6b", "#cfcfcf", "#999999"
_BARS = 14  # largest number of words in a row
_CELLS = 2.5  # inches, width of the image with a word in each region
_OUTLINE = [withStroke(linewidth=2, foreground="white")]  # keeps a text legible on any background


def figure(examples: Sequence[TextExample], title: str = "", *, count: int = 6) -> Figure | None:
    """Draws the attention between images and texts, one row per example.

    A row has the image with its prediction; the regions that the words with most attention attend to; the word that each
    region attends to most; and the share of the regions' attention that each word gets (`WORDS_TEXT`). Examples with a bank of
    descriptions are drawn by `bank_figure`. Write the figure with `figures.save`.

    Args:
        examples: drawn in this order.
        title: title of the figure.
        count: number of words (of a bank: descriptions) whose regions are drawn, each with its own colour, 1 to 6.

    Returns:
        The figure; None without examples.

    Raises:
        ValueError: `count` is out of range, or only some of the examples have a bank.
    """
    if any(e.classes is not None for e in examples):
        return bank_figure(examples, title, count=count)
    if not 1 <= count <= len(PALETTE):
        raise ValueError(f"count={count} must be 1 to {len(PALETTE)}, the number of colours")
    if not examples:
        return None
    columns = -(-count // 2) if count > 2 else count
    widths = [2.1, 1.5 * columns, _CELLS, 2.9]
    out, parts = _rows(len(examples), sum(widths), 4.0, title)
    for part, example in zip(parts, examples, strict=True):
        part.suptitle(_sentence(example), fontsize=9, color=_INK, x=0.01, ha="left")
        image, words, cells, bars = part.subfigures(1, 4, squeeze=False, width_ratios=widths)[0]
        readings = words_to_regions(example, most_read(example, count))
        colours = {
            r.index: _PALE if is_aside(example.words[r.index]) else PALETTE[k] for k, r in enumerate(readings)
        }
        _head(image, "image")
        _image(image.subplots(), example)
        _head(words, "regions that each word attends to (yellow: most)")
        names = [_word(example, r.index, 18) for r in readings]
        grid = words.subplots(-(-count // columns), columns, squeeze=False)
        _maps(grid, readings, names, [colours[r.index] for r in readings], "uniform")
        _head(cells, "word that each region attends to most")
        _cells(cells.subplots(), example, colours)
        _head(bars, "share of the regions' attention")
        _bars(bars.subplots(), example, colours)
    return out


def bank_figure(
    examples: Sequence[TextExample], title: str = "", *, count: int = 6, maps: int = 3
) -> Figure | None:
    """Draws the attention of images over a bank of descriptions, one row per example.

    A row has the image with its prediction; the descriptions that get most attention, each with its class; and, for the first
    few of them, the regions that attend to them (`BANK_TEXT`).

    Args:
        examples: all with `classes`.
        title: title of the figure.
        count: number of descriptions.
        maps: number of descriptions with a map, at most `count`.

    Returns:
        The figure; None without examples.

    Raises:
        ValueError: an example has no `classes`, or `count` or `maps` is below 1.
    """
    for example in examples:
        _classes(example)
    if count < 1 or maps < 1:
        raise ValueError(f"count={count} and maps={maps} must be 1 or more")
    if not examples:
        return None
    maps = min(maps, count)
    widths = [2.1, 5.4, 1.6 * maps]
    out, parts = _rows(len(examples), sum(widths), 0.7 + 0.6 * max(count, 4), title)
    for part, example in zip(parts, examples, strict=True):
        shares = example.shares()
        order = [int(i) for i in np.argsort(-shares, kind="stable")[:count]]
        image, bars, regions = part.subfigures(1, 3, squeeze=False, width_ratios=widths)[0]
        _head(image, "image")
        _image(image.subplots(), example, _of_class(example, shares))
        _head(bars, f"descriptions with most attention, of {len(shares)}")
        _descriptions(bars.subplots(), example, order, shares)
        _head(regions, "regions that attend to them")
        readings = regions_to_words(example, order[:maps])
        names = [
            textwrap.wrap(f"{k + 1}  {_classes(example)[i]}", 22, max_lines=2, placeholder="…")
            for k, i in enumerate(order[:maps])
        ]
        grid = regions.subplots(1, maps, squeeze=False)
        _maps(grid, readings, [_lines(name) for name in names], [_PALE] * len(names), "mean")
    return out


def _rows(n: int, width: float, height: float, title: str) -> tuple[Figure, Sequence[SubFigure]]:
    """Returns a figure with n rows, and the rows."""
    head = 0.35 if title else 0
    layout = ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.05, wspace=0.02, hspace=0.04)
    out = Figure(figsize=(width + 0.3, n * height + head), layout=layout)
    if title:
        out.suptitle(label(title, 80), fontsize=11, color=_INK)
    return out, list(out.subfigures(n, 1, squeeze=False)[:, 0])


def _maps(
    grid: np.ndarray, readings: Sequence[Reading], names: Sequence[str], colours: Sequence[str], unit: str
) -> None:
    """Draws maps in a grid of axes; unused axes stay empty."""
    for axes in grid.flat[len(readings) :]:
        axes.set_visible(False)
    for axes, r, name, colour in zip(grid.flat, readings, names, colours, strict=False):
        _picture(axes, r.picture, colour, 1 if colour == _PALE else 2.5)
        axes.set_title(name, fontsize=8.5, color=_INK, pad=4)
        under = f"largest: {r.peak:.1f} × {unit}" if r.peak >= 1.05 else "uniform"
        axes.set_xlabel(under if r.peak else "no attention", fontsize=7.5, color=_SOFT, labelpad=3)


def _head(part: SubFigure, text: str) -> None:
    part.suptitle(text, fontsize=8.5, color=_SOFT)


def _image(axes: Axes, example: TextExample, more: str = "") -> None:
    right = example.true == example.predicted
    _picture(axes, example.image, _PALE, 1)
    if right:
        lines = [label(example.true, 28)]
    else:
        lines = [f"true: {label(example.true, 24)}", f"predicted: {label(example.predicted, 20)}"]
    probability = f"{100 * example.probability:.0f}\N{NO-BREAK SPACE}%"
    lines += [f"✓ correct ({probability})" if right else f"✗ wrong ({probability})"]
    lines += [label(example.name, 28), *([more] if more else [])]
    axes.set_xlabel("\n".join(lines), fontsize=8.5, color=_INK, labelpad=5)


def _cells(axes: Axes, example: TextExample, colours: Mapping[int, str]) -> None:
    """Draws each region in the colour of its word, and the word once in each connected area of equal words, if it fits."""
    strongest, (h, w) = strongest_words(example), example.grid
    height, width = example.image.shape[:2]
    grey = np.asarray(example.image, np.float64) @ (0.299, 0.587, 0.114)
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255, extent=(0, w, h, 0))
    tint = np.zeros((h, w, 4))
    for place, word in np.ndenumerate(strongest):
        tint[place] = (*to_rgb(colours.get(int(word), _OTHER)), 0.0 if word < 0 else 0.6)
    axes.imshow(tint, extent=(0, w, h, 0), interpolation="nearest")
    axes.vlines(np.arange(1, w), 0, h, colors="white", lw=0.4, alpha=0.5)
    axes.hlines(np.arange(1, h), 0, w, colors="white", lw=0.4, alpha=0.5)
    axes.set(xticks=[], yticks=[], xlim=(0, w), ylim=(h, 0), aspect=(height / h) / (width / w), anchor="N")
    axes.spines[:].set_visible(False)
    inches = _CELLS * 0.92 * min(1.0, width / height)
    size = min(7.5, 72 * inches * height / width / h * 0.8)
    for word in np.unique(strongest[strongest >= 0]):
        for row, start, stop in _longest_runs(strongest == word):
            room = int((stop - start) * 72 * inches / w / (0.62 * size))
            text = example.words[word]
            text = text if len(text) <= room else f"{text[: room - 1]}…" if room >= 5 else ""
            x, y = (start + stop) / 2, row + 0.5
            axes.text(x, y, label(text), ha="center", va="center", fontsize=size, path_effects=_OUTLINE)


def _longest_runs(mask: np.ndarray) -> list[tuple[int, int, int]]:
    """Returns (row, start, stop) of the longest horizontal run of each connected area; of several, the middle one."""
    patches, n = ndimage.label(mask)
    out = []
    for k in range(1, n + 1):
        runs = []
        for row in np.flatnonzero((patches == k).any(1)):
            edges = np.flatnonzero(np.diff(np.r_[0, patches[row] == k, 0]))
            runs += [(int(row), int(a), int(b)) for a, b in edges.reshape(-1, 2)]
        longest = max(b - a for _, a, b in runs)
        runs = [run for run in runs if run[2] - run[1] == longest]
        out.append(runs[len(runs) // 2])
    return out


def _bars(axes: Axes, example: TextExample, colours: Mapping[int, str]) -> None:
    shares, words = example.shares(), example.words
    # A word with a map always has a bar.
    first = sorted(range(len(words)), key=lambda i: (i not in colours, -shares[i], i))
    shown = sorted(first[:_BARS])
    paint = [colours.get(i, _PALE if is_aside(words[i]) else _OTHER) for i in shown]
    axes.barh(range(len(shown)), shares[shown], color=paint, height=0.7)
    even = 1 / max(len(shares), 1)
    most = max(even, shares.max(initial=0))
    for k, i in enumerate(shown):
        _number(axes, shares[i], k, even, most, 0.26)
    axes.set_yticks(range(len(shown)), [_word(example, i, 16) for i in shown], fontsize=8)
    for tick, i in zip(axes.get_yticklabels(), shown, strict=True):
        tick.set_color(_SOFT if is_aside(words[i]) else _INK)
    notes = ["in text order"]
    if len(shown) < len(words):
        rest = _percent(shares.sum() - shares[shown].sum())
        notes.append(f"{len(words) - len(shown)} other words: {rest} in total")
    notes.append(f"dotted: uniform attention ({_percent(even)})")
    axes.axvline(even, color=_INK, lw=0.8, ls=":", zorder=0, visible=bool(shown))
    _share_axes(axes, most, _BARS, notes if shown else ["no text"], "right")


def _descriptions(axes: Axes, example: TextExample, order: Sequence[int], shares: np.ndarray) -> None:
    """Draws one bar per description, with its class above and its text below."""
    even = 1 / max(len(shares), 1)
    most = max(even, shares.max(initial=0))
    for k, i in enumerate(order):
        name = _classes(example)[i]
        kind = 0 if name == example.true else 1 if name == example.predicted else 2
        note = ("  ✓ true class", "  ✗ predicted class", "")[kind]
        axes.text(0, k - 0.4, f"{k + 1}  {label(name, 56)}{note}", va="center", fontsize=8.5, color=_INK)
        axes.barh(k - 0.17, shares[i], color=(RIGHT, WRONG, _OTHER)[kind], height=0.17)
        axes.vlines(even, k - 0.29, k - 0.05, color=_INK, lw=1.2, ls=":")
        _number(axes, shares[i], k - 0.17, even, most, 0.12)
        text = textwrap.wrap(str(example.words[i]), 88, max_lines=2, placeholder=" …")
        axes.text(0, k - 0.01, _lines(text), va="top", fontsize=7.5, color=_SOFT, linespacing=1.1)
    _share_axes(axes, most, len(order), [f"dotted: uniform attention ({_percent(even)})"], "left")
    axes.set_yticks([])


def _number(axes: Axes, share: float, at: float, even: float, most: float, room: float) -> None:
    """Writes a share beside its bar, clear of the dotted line; `room` is the width of the text as a fraction of `most`."""
    start = even if share <= even < share + room * most else share
    axes.text(start + 0.02 * most, at, _percent(share), va="center", fontsize=7.5, color=_INK)


def _share_axes(
    axes: Axes, most: float, slots: int, notes: Sequence[str], loc: Literal["left", "right"]
) -> None:
    axes.set(xlim=(0, most * 1.2), ylim=(slots - 0.4, -0.6), xticks=[])
    axes.tick_params(length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(_PALE)
    axes.set_xlabel("\n".join(notes), fontsize=7.5, color=_SOFT, loc=loc)


def _of_class(example: TextExample, shares: np.ndarray) -> str:
    own = np.asarray([name == example.true for name in _classes(example)], np.bool_)
    if not own.any():
        return ""
    got, even = _percent(shares[own].sum()), _percent(own.mean())
    return f"descriptions of the true class\nget {got} of the attention\n(uniform attention: {even})"


def _classes(example: TextExample) -> Sequence[str]:
    if example.classes is None:
        raise ValueError("a bank needs the class of every description: set TextExample.classes")
    return example.classes


def _sentence(example: TextExample) -> str:
    words = [w for w in example.words if not is_special(w)]
    text = re.sub(r"\s+([,.;:!?)%])", r"\1", " ".join(words))
    if not words:
        return "no text"
    return _lines(textwrap.wrap(f"“{text}”", 150, max_lines=2, placeholder=" …”"))


def _word(example: TextExample, index: int, limit: int) -> str:
    """Returns a word as it is drawn, with its count if it occurred before."""
    nth = list(example.words[: index + 1]).count(example.words[index])
    return (label(example.words[index], limit) or "(blank)") + (f" ({nth})" if nth > 1 else "")


def _lines(texts: Sequence[str]) -> str:
    return "\n".join(label(text, 1000) for text in texts)


def _picture(axes: Axes, image: np.ndarray, colour: str, width: float) -> None:
    axes.imshow(image)
    axes.set_anchor("N")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=colour, linewidth=width)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%"
