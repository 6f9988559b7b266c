"""Resampling of position embeddings to another grid of tokens."""

import math
import re

import numpy as np

from fusionjax.errors import UserError

POSITIONS = re.compile(r"(.*/)?pos_embed(_(?P<branch>\d+))?")
"""Paths of tables of position embeddings, (1, 1 + cells, D); a model with several branches numbers them."""


def resample_pos_embed(
    pos: np.ndarray, new_grid: tuple[int, int], prefix: int = 1, old_grid: tuple[int, int] | None = None
) -> np.ndarray:
    """Resamples a table of position embeddings as timm's resample_abs_pos_embed does: bicubic, antialiased.

    Args:
        pos: (1, prefix + h·w, D) float.
        new_grid: (rows, columns) of the new grid.
        prefix: number of tokens before the grid (CLS), which are not changed.
        old_grid: (h, w); None for a square grid.

    Returns:
        (1, prefix + rows·columns, D), with the dtype of `pos`.

    Raises:
        UserError: the old grid does not have as many cells as the table, or is neither square nor given.

    Source: torch's interpolate(mode="bicubic", antialias=True): a cubic kernel with A = −0.5, stretched where
    the grid shrinks.
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
    grid = np.einsum(
        "yr,xc,rcd->yxd",
        _bicubic(old_grid[0], new_grid[0]),
        _bicubic(old_grid[1], new_grid[1]),
        grid,
        optimize=True,
    )
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
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    weights *= (index >= first[:, None]) & (index < last[:, None])
    return weights / weights.sum(1, keepdims=True)
