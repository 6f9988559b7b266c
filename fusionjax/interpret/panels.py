"""Maps over the original image as pictures: what a figure draws in one of its panels.

A map has one value per patch. It is drawn on the original pixels (`geometry`), not on the crop that the network saw; what the
crop left out is faded. Values are never clipped: a panel reports the range that its colours cover.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import matplotlib
import numpy as np
from scipy import ndimage

from fusionjax.data.image import transforms
from fusionjax.interpret.geometry import Cells, Placement
from fusionjax.interpret.maps import show_selection

Kind = Literal["image", "share", "difference", "colours", "patches"]
SHARE, DIFFERENCE = "viridis", "PuOr_r"
"""Colour maps that colour-blind readers can tell apart: dark to bright; violet below zero, white, orange above."""
_OPACITY = 0.62
_FADED = 0.22
_LEAST = 0.05
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


@dataclass(frozen=True, eq=False)
class Picture:
    """An image that is explained.

    Attributes:
        name: file name or other identifier; displayed only, never used as a path.
        original: (H, W, 3) uint8, the image before the network's preprocessing, at the size that it is drawn.
        placement: where the network's input lies in `original`.
        caption: what is said of it: classes, probability.
        cells: grid → its patches, of grids that do not divide the network's input evenly.
        parts: modality → (H, W, 3) uint8, of an image with several.
    """

    name: str
    original: np.ndarray
    placement: Placement
    caption: str = ""
    cells: Mapping[tuple[int, int], tuple[Cells, Cells]] = field(default_factory=dict)
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def cropped(self) -> bool:
        """Whether the network does not see all of the image."""
        return not bool(self.placement.seen().all())

    def at_most(self, width: int) -> "Picture":
        """The same picture of at most `width` pixels a row: larger ones are not seen in a figure, and cost time and memory."""
        h, w = self.original.shape[:2]
        if w <= width:
            return self
        size = max(1, round(h * width / w)), width
        return self._resized(size, lambda image: transforms.resize(image, *size, interpolation="bicubic"))

    def at_least(self, side: int) -> "Picture":
        """The same picture with every pixel repeated until its longer side has `side` pixels: lines on it then stay thin."""
        h, w = self.original.shape[:2]
        times = -(-side // max(h, w))
        return self._resized((times * h, times * w), lambda image: image.repeat(times, 0).repeat(times, 1))

    def _resized(self, size: tuple[int, int], resize: Callable[[np.ndarray], np.ndarray]) -> "Picture":
        whole, *others = (resize(image) for image in (self.original, *self.parts.values()))
        parts = dict(zip(self.parts, others, strict=True))
        return dataclasses.replace(self, original=whole, parts=parts, placement=self.placement.shown_at(size))


@dataclass(frozen=True, eq=False)
class Panel:
    """One panel of a figure.

    Attributes:
        title: of its column.
        key: name of its values in the data file.
        kind: "image", the input; "share", weights (h, w) of at least 0, drawn dark to bright; "difference", (h, w), drawn
            around zero; "colours", RGB in 0 … 1 (h, w, 3); "patches", the numbers (k,) of selected patches.
        values: as `kind` says; None for the input.
        grid: rows and columns of the patches.
        part: modality over whose picture it is drawn; "" for the whole image.
    """

    title: str
    key: str
    kind: Kind = "image"
    values: np.ndarray | None = None
    grid: tuple[int, int] = (1, 1)
    part: str = ""
    span: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.kind == "image":
            return
        values = np.asarray(self.values)
        shape = {"share": self.grid, "difference": self.grid, "colours": (*self.grid, 3)}.get(self.kind)
        if shape is not None and values.shape != shape:
            raise ValueError(f"{self.key}: values {values.shape} are not {shape}")
        if not np.isfinite(values).all():
            raise ValueError(f"{self.key}: values that are not finite")

    def range(self) -> tuple[float, float] | None:
        """The values at the two ends of the colours.

        Of shares as multiples of their mean, so that 1 is uniform attention. They cover at least 0.95 … 1.05: almost uniform
        attention looks uniform. Of differences −x and x, in multiples of the mean share 1 / (h · w), x at least 0.05. None for
        a panel without a scale.
        """
        values = self.relative() if self.kind in ("share", "difference") else np.zeros(1)
        if self.kind == "share":
            return min(float(values.min()), 1 - _LEAST), max(float(values.max()), 1 + _LEAST)
        if self.kind == "difference":
            high = max(float(np.abs(values).max()), _LEAST)
            return -high, high
        return None

    def relative(self) -> np.ndarray:
        """(h, w) float64: shares divided by their mean, differences by 1 / (h · w)."""
        values = np.asarray(self.values, np.float64)
        if self.kind == "difference":
            return values * values.size
        mean = values.mean()
        return values / mean if mean > 0 else np.zeros_like(values)

    def drawn(self, picture: Picture) -> np.ndarray:
        """The panel as pixels, (H, W, 3) uint8, of the size of `picture.original`."""
        place, original = picture.placement, picture.parts.get(self.part, picture.original)
        cells = picture.cells.get(self.grid) or place.even(self.grid)
        seen = place.seen()[..., None]
        grey = np.repeat((original @ _LUMA)[..., None], 3, -1)
        faded = 255 - _FADED * (255 - grey)
        if self.kind == "image":
            return _framed(np.where(seen, original, faded), seen)
        values = np.asarray(self.values)
        if self.kind == "patches":
            chosen = np.zeros(self.grid[0] * self.grid[1])
            chosen[values.astype(np.int64)] = 1
            mask = np.nan_to_num(place.spread(chosen.reshape(self.grid), cells, smooth=False)) > 0
            return _framed(np.where(seen, show_selection(original, mask), faded), seen)
        if self.kind == "colours":
            colours = np.nan_to_num(place.spread(values, cells, smooth=False))
            return _framed(np.where(seen, 255 * np.clip(colours, 0, 1), faded), seen)
        low, high = self.range() or (0.0, 1.0)
        level = (place.spread(self.relative(), cells) - low) / (high - low)
        colours = matplotlib.colormaps[SHARE if self.kind == "share" else DIFFERENCE](
            np.nan_to_num(np.clip(level, 0, 1))
        )
        blended = (1 - _OPACITY) * grey + _OPACITY * 255 * colours[..., :3]
        return _framed(np.where(seen, blended, faded), seen)


def _framed(image: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Pixels as uint8, with a thin line around what the network sees, where that is not all of the image."""
    image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    if seen.all():
        return image
    edge = seen[..., 0] & ~ndimage.binary_erosion(seen[..., 0], border_value=1)
    image[edge] = 90
    return image
