"""Attention over patches as pictures: weights → grid → image-sized map → overlay. Pure functions of arrays.

Patches are counted row by row from 0; the class token is not a patch and has no index.
"""

from dataclasses import dataclass

import matplotlib
import numpy as np
from PIL import Image
from scipy import ndimage

COLOURS = "inferno"
"""Perceptually uniform and legible to the colour-blind; black is low, yellow is high."""
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_BORDER = (230, 159, 0)  # seen on white, grey and black
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


@dataclass(frozen=True, eq=False)
class Example:
    """One predicted image and what the model looked at.

    Attributes:
        name: file name or other identifier; shown, never used as a path.
        image: (H, W, 3) uint8, as the model saw it.
        true, predicted: class names.
        probability: of the predicted class, 0 … 1.
        rollout: (h, w) float, any scale; None where the model has none.
        selected: (k,) int, the patches that GLCA took, 0 … h · w − 1 without the class token; None where
            there is no GLCA.
        grid: (h, w) of `selected`; None to take that of `rollout`.
    """

    name: str
    image: np.ndarray
    true: str
    predicted: str
    probability: float
    rollout: np.ndarray | None = None
    selected: np.ndarray | None = None
    grid: tuple[int, int] | None = None

    def overlay(self) -> np.ndarray | None:
        """(H, W, 3) uint8 of the rollout over the image; None without one."""
        if self.rollout is None:
            return None
        return overlay(self.image, upsample(self.rollout, self.image.shape[:2]))

    def selection(self) -> np.ndarray | None:
        """(H, W, 3) uint8 with the selected patches in colour; None without them."""
        grid = self.grid if self.rollout is None or self.grid else np.shape(self.rollout)
        if self.selected is None or grid is None:
            return None
        return show_selection(self.image, selection_mask(self.selected, grid, self.image.shape[:2]))


def to_grid(weights: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Token weights as the grid of patches.

    Args:
        weights: (N,) float; N = h · w patches, after at most two leading tokens (class, distillation), which
            are dropped.
        grid: (h, w).

    Returns:
        (h, w) of the same dtype.

    Raises:
        ValueError: N does not fit the grid.
    """
    weights, (h, w) = np.asarray(weights), grid
    extra = weights.size - h * w
    if weights.ndim != 1 or not 0 <= extra <= 2:
        raise ValueError(f"weights {weights.shape} do not fit a grid of {h} × {w} patches")
    return weights[extra:].reshape(h, w)


def upsample(map: np.ndarray, size: tuple[int, int], method: str = "bicubic") -> np.ndarray:
    """A small map, scaled to [0, 1] by its own minimum and maximum and smoothly enlarged.

    Args:
        map: (h, w) float, finite. A constant map becomes zeros: it prefers no place.
        size: (H, W) pixels.
        method: bicubic (overshoot is clipped) or bilinear.

    Returns:
        (H, W) float32 in [0, 1].

    Raises:
        ValueError: not (h, w), or not finite.
    """
    map = np.asarray(map, np.float64)
    if map.ndim != 2 or not np.isfinite(map).all():
        raise ValueError(f"a map {map.shape} must be (h, w) and finite")
    low, high = map.min(), map.max()
    scaled = (map - low) / (high - low) if high > low else np.zeros_like(map)
    picture = Image.fromarray(scaled.astype(np.float32))
    return np.clip(np.asarray(picture.resize((size[1], size[0]), _FILTERS[method])), 0, 1)


def overlay(image: np.ndarray, map: np.ndarray, alpha: float = 0.55) -> np.ndarray:
    """Blends the colours of a map over the grey of its image, so that every hue comes from the map.

    Args:
        image: (H, W, 3) uint8.
        map: (H, W) float in [0, 1].
        alpha: share of the map, 0 … 1.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: sizes that do not agree.
    """
    image = _image(image)
    if np.shape(map) != image.shape[:2]:
        raise ValueError(f"a map {np.shape(map)} does not cover an image {image.shape[:2]}")
    colours = matplotlib.colormaps[COLOURS](np.asarray(map, np.float64))[..., :3] * 255
    return _uint8((1 - alpha) * _grey(image) + alpha * colours)


def selection_mask(indices: np.ndarray, grid: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """The pixels of selected patches.

    Args:
        indices: (k,) int, patches 0 … h · w − 1 (not counting the class token), in any order.
        grid: (h, w).
        size: (H, W) pixels; need not be a multiple of the grid.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: an index outside the grid.
    """
    indices, (h, w), (height, width) = np.asarray(indices, np.int64), grid, size
    if indices.size and (indices.min() < 0 or indices.max() >= h * w):
        raise ValueError(f"patch {indices.min()} … {indices.max()} is outside a grid of {h} × {w}")
    patches = np.zeros(h * w, bool)
    patches[indices] = True
    rows, columns = np.arange(height) * h // height, np.arange(width) * w // width
    return patches.reshape(h, w)[np.ix_(rows, columns)]


def show_selection(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Selected pixels in full colour inside a thin orange border, the others grey and dimmed.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) bool.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: sizes that do not agree.
    """
    image, mask = _image(image), np.asarray(mask, bool)
    if mask.shape != image.shape[:2]:
        raise ValueError(f"a mask {mask.shape} does not cover an image {image.shape[:2]}")
    out = np.where(mask[..., None], image, _uint8(0.35 * _grey(image)))
    thickness = max(1, round(min(mask.shape) / 224))
    out[mask & ~ndimage.binary_erosion(mask, iterations=thickness)] = _BORDER
    return out


def _image(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image must be (H, W, 3) uint8, not {image.shape} {image.dtype}")
    return image


def _grey(image: np.ndarray) -> np.ndarray:
    return (image @ _LUMA)[..., None]


def _uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
