"""Figures of the attention between images and texts, from `text_maps`: words of a caption, or a bank of descriptions."""

import re
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure, SubFigure
from matplotlib.patheffects import withStroke
from scipy import ndimage

from fusionjax.interpret.figures import PALETTE, label
from fusionjax.interpret.rank_list import RIGHT, WRONG
from fusionjax.interpret.text_maps import (
    Reading,
    TextExample,
    is_aside,
    is_special,
    most_read,
    regions_to_words,
    strongest_words,
    words_to_regions,
)

WORDS_TEXT = (
    "Attention between the image and its text, both ways. Small pictures: the words that the image reads most, and the regions "
    "that each of them reads, yellow the most, black not at all; the number is the strongest region's weight as a multiple of "
    "the weight if the word read all regions alike, and a word without a preference is evenly purple. Coloured picture: the "
    "word that each region reads most, the same words in the same colours, all others grey. Bars: how the regions' attention "
    "is shared out among the words. Special tokens such as [CLS], and punctuation, have pale bars and are left out of the "
    "pictures. Attention tells where information may flow, not what the answer rests on."
)
"""What `figure` shows, for the text beside it in a report."""
BANK_TEXT = (
    "The descriptions, of all classes, that the image's regions read most: each with its share of their attention and a "
    "dotted line where the share would be if all were read alike. Right, for the first few, the regions that read them, yellow "
    "the most, black not at all; the number is the strongest region's weight as a multiple of the mean. Attention tells where information may flow, not what the answer rests on."
)
"""What `bank_figure` shows."""

_INK, _SOFT, _PALE, _OTHER = "#333333", "#6b6b6b", "#cfcfcf", "#999999"
_BARS = 14  # words that one row holds
_CELLS = 2.5  # inches, width of the picture with a word in each region
_MARK = {True: "✓", False: "✗"}


def figure(examples: Sequence[TextExample], title: str = "", *, count: int = 6) -> Figure | None:
    """One row an example: image and answer; the regions that each of the most read words reads; the word that each region
    reads most; the share of the regions' attention that each word gets. `WORDS_TEXT` explains it; write it with
    `figures.save`.

    Args:
        examples: drawn in this order.
        title: above them.
        count: words whose regions are shown, 1 to 6, each with a colour of its own.

    Returns:
        Figure; None without examples.

    Raises:
        ValueError: `count` is out of range.
    """
    if not 1 <= count <= len(PALETTE):
        raise ValueError(f"count={count} must be 1 to {len(PALETTE)}, the number of colours")
    if not examples:
        return None
    columns = -(-count // 2) if count > 2 else count
    widths = [2.1, 1.5 * columns, _CELLS, 2.9]
    out, parts = _rows(len(examples), sum(widths), 4.0, title)
    for part, example in zip(parts, examples, strict=True):
        part.suptitle(_sentence(example), fontsize=9, color=_INK, x=0.01, ha="left")
        image, words, cells, bars = part.subfigures(1, 4, width_ratios=widths)
        readings = words_to_regions(
            example, [i for i in most_read(example, count) if not is_aside(example.words[i])]
        )
        colours = {r.index: PALETTE[k] for k, r in enumerate(readings)}
        _head(image, "image")
        _image(image.subplots(), example)
        _head(words, "where each word looks (yellow: most)")
        for k, axes in enumerate(words.subplots(-(-count // columns), columns, squeeze=False).flat):
            axes.set_visible(k < len(readings))
            if k < len(readings):
                r = readings[k]
                _picture(axes, r.picture, colours[r.index], 2.5)
                axes.set_title(_word(example, r.index, 18), fontsize=9, color=_INK, pad=4)
                axes.set_xlabel(_times(r.peak, "even"), fontsize=7.5, color=_SOFT, labelpad=3)
        _head(cells, "the word that each region reads most")
        _cells(cells.subplots(), example, colours)
        _head(bars, "share of the regions' attention")
        _bars(bars.subplots(), example, colours)
    return out


def bank_figure(
    examples: Sequence[TextExample], title: str = "", *, count: int = 6, maps: int = 3
) -> Figure | None:
    """One row an example of a bank of descriptions: image and answer; the descriptions that the regions read most, each with
    its class; for the first few of them the regions that read them. `BANK_TEXT` explains it.

    Args:
        examples: with `classes`.
        title: above them.
        count: descriptions.
        maps: of them, those with a map.

    Returns:
        Figure; None without examples.

    Raises:
        ValueError: an example without `classes`.
    """
    if any(e.classes is None for e in examples):
        raise ValueError("a bank needs the class of every description: TextExample.classes")
    if not examples:
        return None
    widths = [2.1, 5.4, 1.6 * maps]
    out, parts = _rows(len(examples), sum(widths), 0.7 + 0.6 * max(count, 4), title)
    for part, example in zip(parts, examples, strict=True):
        shares = example.shares()
        order = [int(i) for i in np.argsort(-shares, kind="stable")[:count]]
        image, bars, regions = part.subfigures(1, 3, width_ratios=widths)
        _head(image, "image")
        _image(image.subplots(), example, _of_class(example, shares))
        _head(bars, f"the descriptions that the regions read most, of {len(shares)}")
        _descriptions(bars.subplots(), example, order, shares)
        _head(regions, "the regions that read them")
        readings = regions_to_words(example, order[:maps])
        for k, axes in enumerate(regions.subplots(1, maps, squeeze=False).flat):
            axes.set_visible(k < len(readings))
            if k < len(readings):
                r = readings[k]
                _picture(axes, r.picture, _PALE, 1)
                name = textwrap.wrap(str(example.classes[r.index]), 20, max_lines=2, placeholder="…")
                axes.set_title(f"{k + 1}  {_lines(name)}", fontsize=8.5, color=_INK, pad=4)
                axes.set_xlabel(_times(r.peak, "mean"), fontsize=7.5, color=_SOFT, labelpad=3)
    return out


def _rows(n: int, width: float, height: float, title: str) -> tuple[Figure, Sequence[SubFigure]]:
    """A figure with n rows, and the rows."""
    head = 0.35 if title else 0
    out = Figure(figsize=(width + 0.3, n * height + head), layout="constrained")
    out.get_layout_engine().set(w_pad=0.05, h_pad=0.05, wspace=0.02, hspace=0.04)
    if title:
        out.suptitle(label(title, 80), fontsize=11, color=_INK)
    return out, np.atleast_1d(out.subfigures(n, 1))


def _head(part: SubFigure, text: str) -> None:
    part.suptitle(text, fontsize=8.5, color=_SOFT)


def _image(axes: Axes, example: TextExample, more: str = "") -> None:
    right = example.true == example.predicted
    _picture(axes, example.image, _PALE, 1)
    lines = [label(example.true, 28)] if right else [f"true: {label(example.true, 24)}"]
    lines += [] if right else [f"taken for: {label(example.predicted, 20)}"]
    lines += [f"{_MARK[right]} {'recognised' if right else 'wrong'} ({100 * example.probability:.0f} %)"]
    lines += [label(example.name, 28), *([more] if more else [])]
    axes.set_xlabel("\n".join(lines), fontsize=8.5, color=_INK, labelpad=5)


def _cells(axes: Axes, example: TextExample, colours: dict[int, str]) -> None:
    """Every region in the colour of its word, the word written where it fits, once in each patch of equal ones."""
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
            axes.text(
                (start + stop) / 2,
                row + 0.5,
                label(text),
                ha="center",
                va="center",
                fontsize=size,
                color="black",
                path_effects=[withStroke(linewidth=1.8, foreground="white")],
            )


def _longest_runs(mask: np.ndarray) -> list[tuple[int, int, int]]:
    """(row, start, stop) of the longest horizontal run of each connected patch, the middle one of equals."""
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


def _bars(axes: Axes, example: TextExample, colours: dict[int, str]) -> None:
    shares = example.shares()
    shown = sorted(np.argsort(-shares, kind="stable")[:_BARS])
    aside = [is_aside(example.words[i]) for i in shown]
    paint = [colours.get(i, _PALE if a else _OTHER) for i, a in zip(shown, aside, strict=True)]
    axes.barh(range(len(shown)), shares[shown], color=paint, height=0.7)
    even = 1 / max(len(shares), 1)
    most = max(even, shares.max(initial=0))
    for k, i in enumerate(shown):
        _number(axes, shares[i], k, most)
    axes.set_yticks(range(len(shown)), [_word(example, i, 16) for i in shown], fontsize=8)
    for tick, a in zip(axes.get_yticklabels(), aside, strict=True):
        tick.set_color(_SOFT if a else _INK)
    notes, left = ["in the order of the text" if shown else "the text has no word"], len(shares) - len(shown)
    if left:
        notes[0] += f"; {left} others: {_percent(shares.sum() - shares[shown].sum())} together"
    if shown:
        axes.axvline(even, color=_INK, lw=0.8, ls=":", zorder=0)
        notes.append(f"dotted: if all were read alike ({_percent(even)})")
    _share_axes(axes, most, _BARS, notes)


def _descriptions(axes: Axes, example: TextExample, order: Sequence[int], shares: np.ndarray) -> None:
    """Class and text above each bar."""
    even = 1 / len(shares) if len(shares) else 0.0
    most = max(even, shares.max(initial=0)) or 1.0
    for k, i in enumerate(order):
        name = example.classes[i]
        kind = 0 if name == example.true else 1 if name == example.predicted else 2
        note = ("  ✓ true class", "  ✗ predicted class", "")[kind]
        axes.text(0, k - 0.4, f"{k + 1}  {label(name, 56)}{note}", va="center", fontsize=8.5, color=_INK)
        axes.barh(k - 0.17, shares[i], color=(RIGHT, WRONG, _OTHER)[kind], height=0.17)
        axes.vlines(even, k - 0.29, k - 0.05, color=_INK, lw=1.2, ls=":")
        _number(axes, shares[i], k - 0.17, most)
        text = textwrap.wrap(str(example.words[i]), 88, max_lines=2, placeholder=" …")
        axes.text(0, k - 0.01, _lines(text), va="top", fontsize=7.5, color=_SOFT, linespacing=1.1)
    _share_axes(axes, most, len(order), [f"dotted: if all were read alike ({_percent(even)})"])
    axes.set_yticks([])


def _number(axes: Axes, share: float, at: float, most: float) -> None:
    white = [withStroke(linewidth=2, foreground="white")]  # over the dotted line
    axes.text(
        share + 0.02 * most, at, _percent(share), va="center", fontsize=7.5, color=_INK, path_effects=white
    )


def _share_axes(axes: Axes, most: float, slots: int, notes: Sequence[str]) -> None:
    axes.set(xlim=(0, most * 1.2), ylim=(slots - 0.4, -0.6), xticks=[])
    axes.tick_params(length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(_PALE)
    axes.set_xlabel("\n".join(notes), fontsize=7.5, color=_SOFT)


def _of_class(example: TextExample, shares: np.ndarray) -> str:
    own = np.asarray([name == example.true for name in example.classes], bool)
    if not own.any():
        return ""
    return f"its class's descriptions get\n{_percent(shares[own].sum())} of the attention\n(if read alike: {_percent(own.mean())})"


def _sentence(example: TextExample) -> str:
    words = [w for w in example.words if not _SPECIAL.fullmatch(w)]
    text = re.sub(r"\s+([,.;:!?)%])", r"\1", " ".join(words))
    if not words:
        return "no text"
    return _lines(textwrap.wrap(f"“{text}”", 150, max_lines=2, placeholder=" …”"))


def _word(example: TextExample, index: int, limit: int) -> str:
    """As it may be drawn; a word that came before has its count."""
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


def _times(peak: float, of: str) -> str:
    if not peak:
        return "no attention"
    return "all regions alike" if peak < 1.05 else f"strongest: {peak:.1f} × {of}"
