"""Where the input of a network lies in the original image, so that a map is drawn on the pixels that it belongs to.

The evaluation transform resizes an image and crops or pads its centre (`data.image.transforms.eval_transform`). On each axis
that is x → scale · x + offset, with pixels as intervals: pixel i covers i … i + 1, and its centre is at i + 0.5.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
from ml_collections import ConfigDict

from fusionjax.data.image import transforms


@dataclass(frozen=True)
class Axis:
    """One axis of a `Placement`.

    Attributes:
        original, network: pixels of the original image and of the network's input.
        scale: network pixels per original pixel.
        offset: position of the original's edge 0 in the input, in network pixels; negative where a crop removed it.
    """

    original: int
    network: int
    scale: float
    offset: float

    @property
    def seen(self) -> tuple[float, float]:
        """First and last edge of what the network sees, in original pixels."""
        low, high = (self.to_original(edge) for edge in (0.0, float(self.network)))
        return max(0.0, low), min(float(self.original), high)

    def to_network(self, x: float) -> float:
        """From a position in the original to one in the input."""
        return self.scale * x + self.offset

    def to_original(self, x: float) -> float:
        """From a position in the input to one in the original."""
        return (x - self.offset) / self.scale

    def centres(self) -> np.ndarray:
        """(original,) float64: the centre of each original pixel, in network pixels."""
        return self.scale * (np.arange(self.original) + 0.5) + self.offset


@dataclass(frozen=True)
class Cells:
    """The patches along one axis, in network pixels.

    Attributes:
        count: of patches.
        first: centre of the first patch.
        step: between the centres of neighbours.
    """

    count: int
    first: float
    step: float

    @classmethod
    def even(cls, count: int, size: int) -> "Cells":
        """Patches that divide `size` network pixels evenly."""
        return cls(count, size / count / 2, size / count)

    def edges(self, index: int) -> tuple[float, float]:
        """First and last edge of a patch, in network pixels: half way to its neighbours."""
        centre = self.first + index * self.step
        return centre - self.step / 2, centre + self.step / 2

    def at(self, positions: np.ndarray) -> np.ndarray:
        """The patch at each position, int64: the nearest, 0 … count − 1."""
        nearest = np.floor((positions - self.first) / self.step + 0.5).astype(np.int64)
        return np.clip(nearest, 0, self.count - 1)

    def interpolation(self, positions: np.ndarray) -> np.ndarray:
        """Weights (positions, count) that interpolate linearly between the patches' centres; constant beyond them."""
        place = np.clip((positions - self.first) / self.step, 0, self.count - 1)
        low = np.minimum(np.floor(place).astype(np.int64), max(self.count - 2, 0))
        weights = np.zeros((len(positions), self.count))
        rows = np.arange(len(positions))
        weights[rows, low] = 1 - (place - low)
        weights[rows, np.minimum(low + 1, self.count - 1)] += place - low
        return weights


@dataclass(frozen=True)
class Placement:
    """Where the network's input lies in the original image, and the input's patches.

    Attributes:
        rows, columns: the two axes.
    """

    rows: Axis
    columns: Axis

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the original image."""
        return self.rows.original, self.columns.original

    def shown_at(self, size: tuple[int, int]) -> "Placement":
        """The same placement for the original image resized to `size`, e.g. to be drawn."""

        def scaled(axis: Axis, pixels: int) -> Axis:
            return dataclasses.replace(axis, original=pixels, scale=axis.scale * axis.original / pixels)

        return Placement(scaled(self.rows, size[0]), scaled(self.columns, size[1]))

    def seen(self) -> np.ndarray:
        """Mask (h, w) bool of the original pixels whose centre is inside the network's input."""
        down, across = (
            (axis.centres() >= 0) & (axis.centres() <= axis.network) for axis in (self.rows, self.columns)
        )
        return down[:, None] & across[None, :]

    def box(self, patch: int, cells: tuple[Cells, Cells]) -> tuple[float, float, float, float]:
        """(top, left, bottom, right) of a patch in original pixels; beyond the image where the input was padded.

        Args:
            patch: its number, row by row from 0.
            cells: the patches of the rows and of the columns.
        """
        row, column = divmod(patch, cells[1].count)
        top, bottom = (self.rows.to_original(edge) for edge in cells[0].edges(row))
        left, right = (self.columns.to_original(edge) for edge in cells[1].edges(column))
        return top, left, bottom, right

    def patch_at(self, row: float, column: float, cells: tuple[Cells, Cells]) -> int | None:
        """The patch that covers a position of the original image; None where the network does not see it.

        Args:
            row, column: in original pixels.
            cells: as for `box`.
        """
        down, across = self.rows.to_network(row), self.columns.to_network(column)
        if not (0 <= down <= self.rows.network and 0 <= across <= self.columns.network):
            return None
        i, j = (int(c.at(np.array([x]))[0]) for c, x in zip(cells, (down, across), strict=True))
        return i * cells[1].count + j

    def spread(
        self, map: np.ndarray, cells: tuple[Cells, Cells] | None = None, *, smooth: bool = True
    ) -> np.ndarray:
        """A map over patches as a map over the original's pixels.

        Args:
            map: (h, w) or (h, w, C), a value per patch.
            cells: the patches of the rows and of the columns; None for patches that divide the input evenly.
            smooth: interpolate linearly between the patches' centres; otherwise a pixel has the value of its patch.

        Returns:
            (H, W) or (H, W, C) float64, of the original's size; NaN where the network sees nothing.
        """
        map = np.asarray(map, np.float64)
        down, across = cells or self.even(map.shape[:2])
        if smooth:
            rows, columns = (
                c.interpolation(axis.centres()) for c, axis in ((down, self.rows), (across, self.columns))
            )
            out = np.einsum("yi,ij...->yj...", rows, map)
            out = np.einsum("xj,yj...->yx...", columns, out)
        else:
            out = map[np.ix_(down.at(self.rows.centres()), across.at(self.columns.centres()))]
        out[~self.seen()] = np.nan
        return out

    def even(self, grid: tuple[int, ...]) -> tuple[Cells, Cells]:
        """The patches of the rows and of the columns, where `grid` of them divide the input evenly."""
        return Cells.even(grid[0], self.rows.network), Cells.even(grid[1], self.columns.network)


def of(data: ConfigDict, height: int, width: int) -> Placement:
    """The placement that the evaluation transform of `config.data` gives to an image.

    Args:
        data: `config.data`.
        height, width: of the original image, in pixels.
    """
    axes = []
    parts = zip(*transforms.fitted(data, height, width), strict=True)
    for original, (first, kept, resized), network in zip(
        (height, width), parts, transforms.image_shape(data), strict=True
    ):
        scale = resized / kept
        # The centre crop, or the padding of a smaller image.
        centred = (network - resized) // 2 if resized < network else -((resized - network) // 2)
        axes.append(Axis(original, network, scale, centred - scale * first))
    return Placement(*axes)


def whole(size: tuple[int, int], network: tuple[int, int]) -> Placement:
    """The placement of an image of `size` that is resized as a whole to the network's input."""
    rows, columns = (Axis(a, b, b / a, 0.0) for a, b in zip(size, network, strict=True))
    return Placement(rows, columns)
