"""Kinds of figures of the attention between image, text and sound; see `views`."""

from collections.abc import Sequence

import numpy as np

from fusionjax.interpret.charts import Chart
from fusionjax.interpret.panels import Panel
from fusionjax.interpret.text_attention import is_aside, merge_pieces
from fusionjax.interpret.view import KINDS, Lines, View, across

_WORDS, _MOMENTS = 10, 4
"""Largest number of words, and of moments of a sound, that get a map."""
_FEW = 10
"""Words up to which a chart fills half a figure."""


def words(view: View) -> Lines:
    """Words: the regions that each attends to, and the share of attention that each gets."""
    streams = view.captured.streams
    lines: Lines = []
    for n in across(streams, "text", "image"):
        tokens, rows = _words(view, _between(view, n), 0)
        panels = [
            view.panel(n, f"“{tokens[i]}”", f"word_{i:02d}", rows[i : i + 1])
            for i in _most(rows, tokens, _WORDS)
        ]
        lines.append(("regions that each word attends to", [*view.inputs(), *panels]))
    for n in across(streams, "", "text"):
        tokens, share = _words(view, _between(view, n).mean(0, keepdims=True), 1)
        title = f"share of attention of {KINDS[streams[n].queries.kind]} on each word"
        chart = Chart(
            title, f"words_{n.replace('/', '_')}", share, labels=tokens, uniform=1 / max(len(tokens), 1),
            span=3 if len(tokens) <= _FEW else 6,
        )  # fmt: skip
        lines.append(("", [*([] if lines else view.inputs()), chart]))
    return lines


def sound(view: View) -> Lines:
    """Sound: the regions that moments attend to, and the moments that words and regions attend to."""
    streams = view.captured.streams
    mel, seconds = view.sound or (None, 0.0)
    lines: Lines = []
    for n in across(streams, "audio", "image"):
        rows = _between(view, n)
        at = np.unique(np.linspace(0, len(rows) - 1, min(_MOMENTS, len(rows))).round().astype(int))
        panels: list[Panel | Chart] = [
            view.panel(n, f"{seconds * (i + 0.5) / len(rows):.1f} s", f"moment_{k}", rows[i : i + 1])
            for k, i in enumerate(at)
        ]  # fmt: skip
        lines.append(("regions that moments of the sound attend to", [*view.inputs(), *panels]))
    for n in across(streams, "", "audio"):
        rows, names = _between(view, n), []
        if streams[n].queries.kind == "text":
            tokens, rows = _words(view, rows, 0)
            chosen = _most(rows, tokens, _MOMENTS)
            names, rows = [tokens[i] for i in chosen], rows[chosen]
        else:
            rows = rows.mean(0, keepdims=True)
        count = rows.shape[1]
        chart = Chart(
            f"moments that {KINDS[streams[n].queries.kind]} attend to", f"sound_{n.replace('/', '_')}", rows, names=names,
            positions=((np.arange(count) + 0.5) * seconds / max(count, 1)).tolist(), axis="seconds",
            uniform=1 / max(count, 1), sound=mel, limits=(0.0, seconds or 1.0), span=5,
        )  # fmt: skip
        lines.append(("", [*([] if lines else view.inputs()), chart]))
    return lines


def _between(view: View, stream: str) -> np.ndarray:
    """Attention of the last layer, mean of the heads, without padding: (queries, keys)."""
    found = view.captured.maps[stream][-1].mean(1)[0]
    s = view.captured.streams[stream]
    rows = found[view.kept(s.queries.kind, found.shape[0])]
    return np.asarray(rows[:, view.kept(s.keys.kind, found.shape[1])])


def _words(view: View, weights: np.ndarray, axis: int) -> tuple[list[str], np.ndarray]:
    """The words of a text, and weights of its tokens as weights of them.

    Args:
        view: with T tokens, not counting padding.
        weights: with an axis of the T tokens.
        axis: 0 where they are queries, whose pieces are averaged; 1 where they are keys, whose pieces are summed.
    """
    kept = view.kept("text", len(view.words))
    tokens = [word for word, keep in zip(view.words, kept, strict=True) if keep][: weights.shape[axis]]
    count, other = len(tokens), weights.shape[1 - axis]
    if axis:
        names, merged, _ = merge_pieces(tokens, weights, np.zeros((count, other)))
    else:
        names, _, merged = merge_pieces(tokens, np.zeros((other, count)), weights)
    return names, merged


def _most(rows: np.ndarray, tokens: Sequence[str], count: int) -> list[int]:
    """The words with the largest weight, in text order; special tokens and punctuation only if there are no others."""
    plain = [i for i, word in enumerate(tokens) if not is_aside(word)] or list(range(len(tokens)))
    return sorted(sorted(plain, key=lambda i: -rows[i].max(initial=0))[:count])
