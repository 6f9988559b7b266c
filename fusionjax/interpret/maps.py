"""Attention over patches as images: weights → grid → map of the image size → overlay. Pure functions of arrays.

Patches are numbered row by row from 0. The class token is not a patch and has no number.
"""

from dataclasses import dataclass

import matplotlib
import numpy as np
from PIL import Image
from scipy import ndimage

COLOURS = "inferno"
"""A perceptually uniform colour map, suitable for colour-blind readers; black is low, yellow is high."""
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_BORDER = (230, 159, 0)  # visible on white, grey and black
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


@dataclass(frozen=True, eq=False)
class Example:
    """One image with its prediction and its attention map.

    Attributes:
        name: file name or other identifier; displayed only, never used as a path.
        image: (H, W, 3) uint8, the input of the model.
        true, predicted: class names.
        probability: of the predicted class, 0 … 1.
        rollout: (h, w) float, of any scale; None if the model has no such map.
        selected: (k,) int, the patches that GLCA selected, 0 … h · w − 1 without the class token; None
            without GLCA.
        grid: (h, w), the grid of `selected`; None for the grid of `rollout`.
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
        """Returns the rollout overlaid on the image, (H, W, 3) uint8; None without a rollout."""
        if self.rollout is None:
            return None
        return overlay(self.image, upsample(self.rollout, self.image.shape[:2]))

    def selection(self) -> np.ndarray | None:
        """Returns the image with only the selected patches in colour, (H, W, 3) uint8; None without a selection."""
        grid = self.grid if self.rollout is None or self.grid else np.shape(self.rollout)
        if self.selected is None or grid is None:
            return None
        return show_selection(self.image, selection_mask(self.selected, grid, self.image.shape[:2]))


def to_grid(weights: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Arranges token weights in the grid of patches.

    Args:
        weights: (N,) float, of at most two leading tokens (class, distillation), which are dropped, and h · w
            patches.
        grid: (h, w).

    Returns:
        (h, w), of the dtype of `weights`.

    Raises:
        ValueError: N does not match the grid.
    """
    weights, (h, w) = np.asarray(weights), grid
    extra = weights.size - h * w
    if weights.ndim != 1 or not 0 <= extra <= 2:
        raise ValueError(f"weights {weights.shape} do not fit a grid of {h} × {w} patches")
    return weights[extra:].reshape(h, w)


def upsample(map: np.ndarray, size: tuple[int, int], method: str = "bicubic") -> np.ndarray:
    """Scales a map to [0, 1] by its minimum and maximum and interpolates it to the size of the image.

    Args:
        map: (h, w) float, finite. A constant map becomes all zeros.
        size: (H, W), in pixels.
        method: "bicubic" (overshoot is clipped) or "bilinear".

    Returns:
        (H, W) float32 in [0, 1].

    Raises:
        ValueError: the map is not two-dimensional, or not finite.
    """
    map = np.asarray(map, np.float64)
    if map.ndim != 2 or not np.isfinite(map).all():
        raise ValueError(f"a map {map.shape} must be (h, w) and finite")
    low, high = map.min(), map.max()
    scaled = (map - low) / (high - low) if high > low else np.zeros_like(map)
    picture = Image.fromarray(scaled.astype(np.float32))
    return np.clip(np.asarray(picture.resize((size[1], size[0]), _FILTERS[method])), 0, 1)


def overlay(image: np.ndarray, map: np.ndarray, alpha: float = 0.55) -> np.ndarray:
    """Blends a colour-coded map with the greyscale image, so that all colours come from the map.

    Args:
        image: (H, W, 3) uint8.
        map: (H, W) float in [0, 1].
        alpha: opacity of the map, 0 … 1.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: the sizes differ.
    """
    image = _image(image)
    if np.shape(map) != image.shape[:2]:
        raise ValueError(f"a map {np.shape(map)} does not cover an image {image.shape[:2]}")
    colours = matplotlib.colormaps[COLOURS](np.asarray(map, np.float64))[..., :3] * 255
    return _uint8((1 - alpha) * _grey(image) + alpha * colours)


def selection_mask(indices: np.ndarray, grid: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Returns the mask of the pixels of selected patches.

    Args:
        indices: (k,) int, patches 0 … h · w − 1 (not counting the class token), in any order.
        grid: (h, w).
        size: (H, W), in pixels; it need not be a multiple of the grid.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: an index is outside the grid.
    """
    indices, (h, w), (height, width) = np.asarray(indices, np.int64), grid, size
    if indices.size and (indices.min() < 0 or indices.max() >= h * w):
        raise ValueError(f"patch {indices.min()} … {indices.max()} is outside a grid of {h} × {w}")
    patches = np.zeros(h * w, bool)
    patches[indices] = True
    rows, columns = np.arange(height) * h // height, np.arange(width) * w // width
    return patches.reshape(h, w)[np.ix_(rows, columns)]


def show_selection(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Shows selected pixels in colour with a thin orange border, and the other pixels grey and darkened.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) bool.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: the sizes differ.
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
