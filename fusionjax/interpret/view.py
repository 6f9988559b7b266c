"""One example as it is explained, and how its attention streams become panels."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fusionjax.interpret import attention_maps as maps
from fusionjax.interpret.capture import Captured
from fusionjax.interpret.charts import Chart
from fusionjax.interpret.image_maps import of_queries
from fusionjax.interpret.panels import Kind, Panel
from fusionjax.models.observation import Axis, Stream

Streams = Mapping[str, Stream]
Lines = list[tuple[str, list[Panel | Chart]]]
"""Lines of panels, each with a caption; "" for none."""
KINDS = {"image": "the patches", "text": "the words", "audio": "the sound", "cls": "the class token"}
"""Kind of tokens → what a reader calls them."""


@dataclass(frozen=True, eq=False)
class View:
    """One example, as it is explained.

    Attributes:
        captured: of this example alone.
        words: T tokens of its text, or descriptions; empty without a text.
        sound: its log-mel spectrogram (frames, bands) without padding, and its length in seconds; None without audio.
        parts: modalities of its image; empty for an RGB image.
    """

    captured: Captured
    words: Sequence[str] = ()
    sound: tuple[np.ndarray, float] | None = None
    parts: Sequence[str] = ()

    def inputs(self) -> list[Panel | Chart]:
        """The image, or each of its modalities."""
        return [Panel(name, f"input_{name}", part=name) for name in self.parts] or [Panel("input", "input")]

    def axis(self, stream: str) -> Axis:
        """The tokens that a stream attends to."""
        return self.captured.streams[stream].keys

    def asking(self, stream: str) -> str:
        """What the queries are, in words: the class token, where there is one that the layers above read."""
        queries = self.captured.streams[stream].queries
        return KINDS["cls"] if queries.cls else f"{KINDS[queries.kind]}, their mean"

    def weights(self, stream: str, layer: int = -1, head: int | None = None) -> np.ndarray:
        """Attention of the queries, as `image_maps.of_queries`, by one head or the mean of all: (1, K)."""
        heads = self.captured.maps[stream][layer]
        rows = heads.mean(1) if head is None else heads[:, head]
        return of_queries(rows, self.captured.streams[stream], self.captured)

    def rollout(self, stream: str, stop: int | None = None) -> np.ndarray:
        """Rollout up to a layer, (1, K)."""
        found, read = self.captured.maps[stream], self.captured.streams[stream]
        if read.queries.cls:
            return maps.rollout_row(found, stop=stop)
        return of_queries(maps.rollout(found, stop=stop), read, self.captured)

    def panel(self, stream: str, title: str, key: str, values: np.ndarray, kind: Kind = "share") -> Panel:
        """A panel over the image of a stream.

        Args:
            stream: its name is added to the key.
            title, key, kind: of the panel.
            values: as the panel takes them, or weights (1, K) of the stream's tokens.
        """
        axis, group = self.axis(stream), stream.partition("/")[0]
        if kind == "share" and values.shape != axis.grid:
            values = maps.to_patches(values, axis)[0]
        part = group if group in self.parts else ""
        return Panel(title, f"{key}_{stream.replace('/', '_')}", kind, values, axis.grid or (1, 1), part)

    def kept(self, kind: str, count: int) -> np.ndarray:
        """(count,) bool, which tokens of a modality are no padding."""
        mask = self.captured.masks.get(kind)
        if mask is None or mask.shape[-1] != count:
            return np.ones(count, bool)
        return np.asarray(mask[0] != 0)


def own(streams: Streams) -> list[str]:
    """Streams of self-attention between the patches of one image."""
    return [n for n, s in streams.items() if s.queries == s.keys and s.keys.kind == "image" and s.keys.grid]


def across(streams: Streams, to: str = "", of: str = "") -> list[str]:
    """Streams of cross-attention from tokens of one kind to those of another; "" for any kind."""
    return [
        n
        for n, s in streams.items()
        if s.queries.kind != s.keys.kind
        and {s.queries.kind, s.keys.kind} <= set(KINDS)
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


def suffix(stream: str, among: Sequence[str]) -> str:
    """A stream's name as it is read, "" where it is the only one."""
    counted = re.sub(r"\b(stage|branch|fusion)_(\d+)", lambda m: f"{m[1]} {int(m[2]) + 1}", stream)
    return "" if len(among) < 2 else f" · {counted.replace('/', ' ').replace('_', ' ')}"
