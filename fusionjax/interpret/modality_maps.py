"""Figures of the attention between image, audio and text.

Pure functions of arrays. A region is a cell of the grid of image tokens, numbered row by row from 0; an audio token covers an
interval of time; a word is a token of text. In a pairing <to>_from_<of>, <to> gives the queries and <of> the keys.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from fusionjax.interpret.figures import PALETTE, label
from fusionjax.interpret.maps import overlay, upsample
from fusionjax.interpret.text_attention import is_aside

TEXT = (
    "Attention between the modalities, one panel per pairing, averaged over heads. Attention to regions is overlaid on the "
    "image: yellow is the largest weight, black is none, the number is the largest weight as a multiple of the uniform "
    "weight, and uniform attention is purple everywhere. Attention to audio is drawn over time, next to the log-mel "
    "spectrogram; the dotted line is uniform attention. Attention to words is a table with one row per query and one column "
    "per word. Where regions are the queries, their mean is drawn. Attention shows where information can flow, not what the "
    "prediction is based on."
)
"""Explains a `figure`, for the report."""
READERS = 4
"""Largest number of queries (words or audio tokens) in a panel."""
_INK, _SOFT = "#333333", "#6b6b6b"
_WORDS = 14


@dataclass(frozen=True, eq=False)
class ModalityExample:
    """One example and the attention between its modalities.

    Attributes:
        name: file name or other identifier; displayed only, never used as a path.
        true, predicted: class names.
        probability: of the predicted class, 0 … 1.
        image: (H, W, 3) uint8, the input of the model; None without an image.
        grid: (h, w), rows and columns of regions.
        words: T words without padding; empty without a text.
        sound: (S, F), log-mel spectrogram of the clip without padding; None without audio.
        seconds: length of the clip.
        maps: pairing <to>_from_<of> → (N_to, N_of) float without padding; each row sums to 1.

    Raises:
        ValueError: a map has the wrong shape, or weights that are negative or not finite.
    """

    name: str
    true: str
    predicted: str
    probability: float
    image: np.ndarray | None = None
    grid: tuple[int, int] = (1, 1)
    words: Sequence[str] = ()
    sound: np.ndarray | None = None
    seconds: float = 0.0
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = {"image": self.grid[0] * self.grid[1], "text": len(self.words)}
        for pairing, map in self.maps.items():
            if np.ndim(map) != 2 or not np.isfinite(map).all() or np.min(map, initial=0) < 0:
                raise ValueError(
                    f"{pairing} {np.shape(map)} must be two-dimensional, finite and not negative"
                )
            for kind, size in zip(pairing.split("_from_"), np.shape(map), strict=True):
                if sizes.setdefault(kind, size) != size:
                    raise ValueError(f"{pairing} has {size} tokens of {kind}, not {sizes[kind]}")


@dataclass(frozen=True)
class Reader:
    """A query of a panel, with its attention weights.

    Attributes:
        name: a word, a time, or "all regions".
        weights: (N_of,) float64.
    """

    name: str
    weights: np.ndarray


def readers(example: ModalityExample, pairing: str, count: int = READERS) -> list[Reader]:
    """Returns the queries that are drawn for a pairing.

    Args:
        example: has a map of the pairing.
        pairing: <to>_from_<of>.
        count: largest number of queries.

    Returns:
        For regions, their mean. For audio, tokens at equal intervals over the clip. For words, those with the largest
        weight, in text order; special tokens and punctuation only if there are no other words.
    """
    map = np.asarray(example.maps[pairing], np.float64)
    to = pairing.split("_from_")[0]
    if not map.size:
        return []
    if to == "image":
        return [Reader("all regions", map.mean(0))]
    if to == "audio":
        rows = np.unique(np.linspace(0, len(map) - 1, min(count, len(map))).round().astype(int))
        return [Reader(f"{example.seconds * (i + 0.5) / len(map):.1f} s", map[i]) for i in rows]
    plain = [i for i, word in enumerate(example.words) if not is_aside(word)] or list(range(len(map)))
    chosen = sorted(plain, key=lambda i: -map[i].max())[:count]
    return [Reader(example.words[i], map[i]) for i in sorted(chosen)]


def figure(examples: Sequence[ModalityExample]) -> Figure | None:
    """Draws one row per example with one panel per pairing; write the figure with `figures.save`.

    Returns:
        The figure; None if no example has a map.
    """
    examples = [e for e in examples if e.maps]
    if not examples:
        return None
    pairings = list(dict.fromkeys(p for e in examples for p in e.maps))
    out = Figure(figsize=(2.4 + 3.4 * len(pairings), 3.3 * len(examples)), layout="constrained")
    rows = out.subfigures(len(examples), 1, squeeze=False)[:, 0]
    for row, example in zip(rows, examples, strict=True):
        mark = "✓" if example.true == example.predicted else f"✗ (true class: {label(example.true)})"
        text = (
            f"{label(example.name, 48)}: {label(example.predicted)} {100 * example.probability:.0f} % {mark}"
        )
        row.suptitle(text, fontsize=9, color=_INK, x=0.01, ha="left")
        parts = row.subfigures(1, 1 + len(pairings), width_ratios=[2.4] + [3.4] * len(pairings))
        _given(parts[0], example)
        for part, pairing in zip(parts[1:], pairings, strict=True):
            to, of = pairing.split("_from_")
            part.suptitle(f"{_NAMES[to]} attend to {_NAMES[of]}", fontsize=8, color=_SOFT)
            found = readers(example, pairing) if pairing in example.maps else []
            if not found:
                _nothing(part.subplots(), "missing")
            elif of == "image" and example.image is not None:
                _regions(part, example.image, example.grid, found)
            elif of == "audio":
                _moments(part.subplots(), example, found)
            else:
                _words(part.subplots(), example, found)
    return out


_NAMES = {"image": "image regions", "audio": "audio tokens", "text": "words"}


def _given(part: SubFigure, example: ModalityExample) -> None:
    """Draws the inputs: image, words and spectrogram."""
    top, bottom = part.subplots(2, 1, gridspec_kw={"height_ratios": [3, 2]})
    if example.image is None:
        _nothing(top, "no image")
    else:
        top.imshow(example.image)
        top.axis("off")
    words = " ".join(w for w in example.words if not w.startswith("["))
    top.set_title(label(words, 40) if words else "no text", fontsize=7, color=_INK)
    if example.sound is None or not len(example.sound):
        _nothing(bottom, "no audio")
    else:
        bottom.imshow(
            np.asarray(example.sound).T, origin="lower", aspect="auto", cmap="gray_r",
            extent=(0, example.seconds, 0, np.shape(example.sound)[1]),
        )  # fmt: skip
        bottom.set_yticks([])
        bottom.tick_params(labelsize=6)
        bottom.set_xlabel("seconds", fontsize=6, color=_SOFT)


def _regions(part: SubFigure, image: np.ndarray, grid: tuple[int, int], found: Sequence[Reader]) -> None:
    rows = -(-len(found) // 2)
    axes = part.subplots(rows, 2 if len(found) > 1 else 1, squeeze=False).ravel()
    for ax in axes:
        ax.axis("off")
    for ax, reader in zip(axes, found, strict=False):
        times = reader.weights * len(reader.weights)
        shown = times.reshape(grid)
        low, high = shown.min(), shown.max()
        # Back from its own range to multiples of the mean, so that a nearly uniform map looks uniform.
        level = (low + upsample(shown, image.shape[:2]) * (high - low)) / max(2.0, high)
        ax.imshow(overlay(image, level))
        ax.set_title(f"{label(reader.name, 16)} ×{high:.1f}", fontsize=7, color=_INK)


def _moments(axes: Axes, example: ModalityExample, found: Sequence[Reader]) -> None:
    for k, reader in enumerate(found):
        n = len(reader.weights)
        at = (np.arange(n) + 0.5) * example.seconds / n
        axes.plot(
            at, reader.weights, color=PALETTE[k % len(PALETTE)], label=label(reader.name, 16), linewidth=1.4
        )
    axes.axhline(1 / n, color=_SOFT, linestyle=":", linewidth=1)
    axes.set(xlim=(0, example.seconds), ylim=(0, None))
    axes.set_xlabel("seconds", fontsize=7, color=_SOFT)
    axes.tick_params(labelsize=6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=6, frameon=False)


def _words(axes: Axes, example: ModalityExample, found: Sequence[Reader]) -> None:
    table = np.stack([reader.weights for reader in found])[:, :_WORDS]
    names = [label(word, 12) for word in example.words[:_WORDS]]
    axes.imshow(table, aspect="auto", cmap="Blues", vmin=0, vmax=max(table.max(), 2 / len(example.words)))
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=6)
    axes.set_yticks(range(len(found)), [label(reader.name, 12) for reader in found], fontsize=6)
    axes.tick_params(length=0)
    for (i, j), value in np.ndenumerate(table):
        dark = value > 0.6 * max(table.max(), 2 / len(example.words))
        axes.text(
            j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=5, color="white" if dark else _INK
        )
    axes.set_xlabel("attention, %", fontsize=6, color=_SOFT)


def _nothing(axes: Axes, text: str) -> None:
    axes.axis("off")
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=8, color=_SOFT, transform=axes.transAxes)
