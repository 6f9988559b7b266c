"""Resampling of position embeddings to another grid of tokens."""

import math
import re

import numpy as np

from fusionjax.errors import UserError

POSITIONS = re.compile(r"(.*/)?pos_embed(_(?P<branch>\d+))?")
"""Paths of tables of position embeddings, (1, 1 + cells, D); a model with several branches numbers them."""


def resample_pos_embed(
    pos: np.ndarray,
    new_grid: tuple[int, int],
    prefix: int = 1,
    old_grid: tuple[int, int] | None = None,
    *,
    antialias: bool = True,
) -> np.ndarray:
    """Resamples a table of position embeddings, bicubic: as timm's resample_abs_pos_embed does, antialiased, or without.

    Args:
        pos: (1, prefix + h·w, D) float.
        new_grid: (rows, columns) of the new grid.
        prefix: number of tokens before the grid (CLS), which are not changed.
        old_grid: (h, w); None for a square grid.
        antialias: the kernel is stretched where the grid shrinks.

    Returns:
        (1, prefix + rows·columns, D), with the dtype of `pos`.

    Raises:
        UserError: the old grid does not have as many cells as the table, or is neither square nor given.

    Source: torch's interpolate(mode="bicubic"). With antialias=True a cubic kernel with A = −0.5, truncated at the edges;
    without, A = −0.75, and the cells at the edges are repeated.
    """
    cells = pos.shape[1] - prefix
    old_grid = old_grid or (math.isqrt(max(cells, 0)),) * 2
    if old_grid[0] * old_grid[1] != cells or cells < 1:
        raise UserError(
            f"pos_embed has {cells} cells after {prefix} prefix tokens: no {old_grid[0]}×{old_grid[1]} grid; "
            "a table that is not square fits a model with the same number of cells only"
        )
    if tuple(old_grid) == tuple(new_grid):
        return pos
    grid = pos[0, prefix:].reshape(*old_grid, -1).astype(np.float64)
    weights = _bicubic if antialias else _bicubic_repeated
    rows, columns = (weights(old, new) for old, new in zip(old_grid, new_grid, strict=True))
    grid = np.einsum("yr,xc,rcd->yxd", rows, columns, grid, optimize=True)
    flat = grid.reshape(1, -1, pos.shape[-1]).astype(pos.dtype)
    return np.concatenate([pos[:, :prefix], flat], axis=1)


def _bicubic(old: int, new: int) -> np.ndarray:
    """(new, old) weights of one axis, truncated at the edges; every row sums to 1."""
    scale = old / new
    stretch = max(scale, 1.0)
    centers = (np.arange(new) + 0.5) * scale
    first = np.maximum((centers - 2 * stretch + 0.5).astype(int), 0)
    last = np.minimum((centers + 2 * stretch + 0.5).astype(int), old)
    index = np.arange(old)
    distance = np.abs(index + 0.5 - centers[:, None]) / stretch
    weights = _cubic(distance, -0.5)
    weights *= (index >= first[:, None]) & (index < last[:, None])
    return weights / weights.sum(1, keepdims=True)


def _bicubic_repeated(old: int, new: int) -> np.ndarray:
    """(new, old) weights of one axis, from four cells each; every row sums to 1."""
    centers = (np.arange(new) + 0.5) * (old / new) - 0.5
    taps = np.floor(centers).astype(int)[:, None] + np.arange(-1, 3)
    weights = np.zeros((new, old))
    rows = np.broadcast_to(np.arange(new)[:, None], taps.shape)
    np.add.at(weights, (rows, taps.clip(0, old - 1)), _cubic(np.abs(centers[:, None] - taps), -0.75))
    return weights


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution kernel (Keys, 1981) at distances of 0 or more."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
