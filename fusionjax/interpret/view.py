"""One example as it is explained, and how its attention streams become panels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fusionjax.interpret import attention_maps as maps
from fusionjax.interpret.capture import Captured
from fusionjax.interpret.charts import Chart
from fusionjax.interpret.panels import Kind, Panel
from fusionjax.models.observation import Axis, Stream

Streams = Mapping[str, Stream]
Lines = list[tuple[str, list[Panel | Chart]]]
"""Lines of panels, each with a caption; "" for none."""
INPUT = Panel("input", "input")
KINDS = {"image": "the patches", "text": "the words", "audio": "the sound", "cls": "the class token"}
"""Kind of tokens → what a reader calls them."""


@dataclass(frozen=True, eq=False)
class View:
    """One example, as it is explained.

    Attributes:
        captured: of this example alone.
        words: T tokens of its text, or descriptions; empty without a text.
        sound: its log-mel spectrogram (frames, bands) without padding, and its length in seconds; None without audio.
    """

    captured: Captured
    words: Sequence[str] = ()
    sound: tuple[np.ndarray, float] | None = None


def own(streams: Streams) -> list[str]:
    """Streams of self-attention between the patches of one image."""
    return [n for n, s in streams.items() if s.queries == s.keys and s.keys.kind == "image" and s.keys.grid]


def across(streams: Streams, to: str = "", of: str = "") -> list[str]:
    """Streams of cross-attention from tokens of one kind to those of another; "" for any kind."""
    return [
        n
        for n, s in streams.items()
        if s.queries.kind != s.keys.kind
        and {s.queries.kind, s.keys.kind} <= {"image", "text", "audio", "cls"}
        and to in ("", s.queries.kind)
        and of in ("", s.keys.kind)
    ]


def over_image(streams: Streams) -> list[str]:
    """Streams of which every query is a map over the patches of an image."""
    return [
        n
        for n, s in streams.items()
        if s.keys.kind == "image" and s.keys.grid and s.queries.kind != "selected"
    ]


def panel_of(title: str, key: str, weights: np.ndarray, axis: Axis, kind: Kind = "share") -> Panel:
    """Weights (1, K) of tokens as a panel."""
    grid = axis.grid or (1, 1)
    return Panel(title, key, kind, maps.to_patches(weights, axis)[0], grid)


def suffix_of(stream: str, among: Sequence[str]) -> str:
    """A stream's name as it is read, "" where it is the only one."""
    return "" if len(among) < 2 else f" · {stream.replace('/', ' ').replace('_', ' ')}"


def key_of(stream: str) -> str:
    """A stream's name in the keys of a data file."""
    return stream.replace("/", "_")


def query_of(view: View, stream: str) -> int | None:
    """The query whose attention stands for the image: the class token; None, for their mean, where there is none."""
    s = view.captured.streams[stream]
    return 0 if s.queries.kind == "cls" or s.queries.prefix else None


def weights_of(view: View, stream: str, layer: int = -1, head: int | str = "mean") -> np.ndarray:
    """Attention of the class token, or the mean over the queries, (1, K)."""
    found, query = view.captured.maps[stream], query_of(view, stream)
    if query is not None:
        return maps.raw(found, layer, head, query)
    layered = found[layer]
    layered = layered[:, head] if isinstance(head, int) else layered.mean(1)
    counted = np.maximum((layered.sum(-1, keepdims=True) > 0).sum(1), 1)
    return np.asarray(layered.sum(1) / counted)


def axis_of(view: View, stream: str) -> Axis:
    """The tokens that a stream attends to."""
    return view.captured.streams[stream].keys


def asking(view: View, stream: str) -> str:
    """What the queries are, in words."""
    s = view.captured.streams[stream]
    if query_of(view, stream) is not None:
        return "the class token"
    return f"{KINDS[s.queries.kind]}, their mean"


def kept_of(view: View, kind: str, count: int) -> np.ndarray:
    """(count,) bool, which tokens of a modality are no padding."""
    mask = view.captured.masks.get(kind)
    return np.ones(count, bool) if mask is None or mask.shape[-1] != count else np.asarray(mask[0] != 0)
