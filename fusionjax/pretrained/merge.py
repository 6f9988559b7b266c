"""Merges pretrained variables into an initialised model; every leaf that is left over or missing is an error."""

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from flax.traverse_util import flatten_dict, unflatten_dict

from fusionjax.errors import UserError
from fusionjax.models.layers import INPUT_KERNEL
from fusionjax.pretrained.positions import POSITIONS, resample_pos_embed
from fusionjax.pretrained.report import refuse
from fusionjax.types import PyTree

# Leaves that may differ between a model and its weights; a model with several branches numbers them.
HEAD = re.compile(r"head(_\d+)?/(kernel|bias)")

Grid = tuple[int, int]
Path = tuple[str, ...]


def merge(
    variables: PyTree,
    pretrained: PyTree,
    *,
    skip: Sequence[str] = (),
    new: Sequence[str] = (),
    drop: Sequence[str] = (),
    into: str = "",
    grid: Grid | Sequence[Grid] | None = None,
    antialias: bool = True,
    log: Callable[[str], None] = logging.info,
) -> dict[str, Any]:
    """Replaces the variables of a model by pretrained values.

    Every pretrained leaf must match a leaf of equal shape, and every leaf under `into` must be filled. Four adaptations are
    made and logged: a `head` with another number of classes keeps its initial values; a pretrained head is ignored where the
    model has none; `pos_embed` is resampled to another grid; the kernel that reads the image is adapted from 3 to another
    number of channels (1: the sum over the three; more: they are repeated and scaled by 3 / C, as in timm). The same applies
    to `head_0`, `pos_embed_0`, `patch_embed_0`, … of a model with several branches.

    Patterns are regular expressions that must match a whole path, its parts joined by "/", without the collection and without
    `into`: "head/.*", "blocks/mlp/.*", "block_1[0-5]/.*".

    Args:
        variables: {"params": …, "batch_stats": …} of the initialised model.
        pretrained: the same structure, from `convert`.
        skip: paths that keep their initial values although a pretrained value exists.
        new: paths without a pretrained value (the block of GLCA, for instance).
        drop: pretrained paths to ignore, because this model has fewer layers.
        into: path of the submodule that the weights belong to, such as "trunk"; the rest of the model is not changed.
        grid: (rows, columns) of the tokens of the model; None for a square grid; a sequence of grids, one per branch, where
            those of `pos_embed_0`, `pos_embed_1`, … are not square.
        antialias: how `pos_embed` is resampled, see `resample_pos_embed`.
        log: receives one line per adaptation.

    Returns:
        Nested dicts with the structure and dtypes of `variables`; filled leaves are NumPy arrays.

    Raises:
        UserError: a pattern of `skip` or `drop` matches nothing or is not a regular expression, `into` does not exist, or
        leaves
            are left over, missing or of another shape; the message names the first eight of each.
    """
    target = flatten_dict(_plain(variables))
    source = flatten_dict(_plain(pretrained))
    prefix = tuple(part for part in into.split("/") if part)
    inner = {
        (path[0], *path[1 + len(prefix) :]): path for path in target if path[1 : 1 + len(prefix)] == prefix
    }
    if not inner:
        raise UserError(f"the model has no parameters under {into!r}")
    kept = _matching("skip", skip, inner)
    expected_new = _matching("new", new, inner, must_match=False)
    dropped = _matching("drop", drop, source)

    result, filled = dict(target), set()
    wrong, left_over = [], []
    for path, value in source.items():
        name = _name(path)
        if path in dropped or path in kept:
            continue
        if path not in inner:
            if HEAD.fullmatch(name):
                log(f"{name} is ignored: the model has no head")
            else:
                left_over.append(name)
            continue
        place = inner[path]
        shape, dtype = tuple(target[place].shape), target[place].dtype
        if value.shape == shape and not (grid and POSITIONS.fullmatch(name)):
            adapted, note = value, ""
        else:
            adapted, note = _adapt(name, np.asarray(value), shape, grid, antialias)
        if adapted is None and not note:
            wrong.append(f"{name} {value.shape} for {shape}")
            continue
        if note:
            log(f"{name}: {note}")
        filled.add(path)
        if adapted is not None:
            result[place] = np.asarray(adapted, dtype)

    missing = [_name(path) for path in inner if path not in filled | kept | expected_new]
    refuse(
        "the pretrained weights do not match the model",
        {"left over": left_over, "without a pretrained value": missing, "of another shape": wrong},
        "pass skip, new or drop where this is intended",
    )
    return unflatten_dict(result)


def _adapt(
    name: str,
    value: np.ndarray,
    shape: tuple[int, ...],
    grid: Grid | Sequence[Grid] | None,
    antialias: bool,
) -> tuple[np.ndarray | None, str]:
    """(value, or None where the leaf keeps its initial value; note for the log); (None, "") where the shapes do not match."""
    if HEAD.fullmatch(name) and value.ndim == len(shape) and value.shape[:-1] == shape[:-1]:
        return None, f"{value.shape[-1]} classes for {shape[-1]}: it keeps its initial values"
    positions = POSITIONS.fullmatch(name)
    if positions and value.ndim == 3 and len(shape) == 3 and value.shape[-1] == shape[-1]:
        rows, columns = _grid(name, positions["branch"], shape[1] - 1, grid)
        if value.shape == shape and math.isqrt(value.shape[1] - 1) ** 2 != value.shape[1] - 1:
            # A table of equal size that is not square: it has the same grid.
            return value, ""
        resampled = resample_pos_embed(value, (rows, columns), antialias=antialias)
        changed = f"resampled from {value.shape[1] - 1} to {rows}×{columns} cells"
        return resampled, "" if resampled is value else changed
    if INPUT_KERNEL.fullmatch(name) and len(shape) == 4 and value.shape == (*shape[:2], 3, shape[3]):
        return _channels(value, shape[2]), f"3 input channels adapted to {shape[2]}"
    return None, ""


def _grid(name: str, branch: str | None, cells: int, grid: Grid | Sequence[Grid] | None) -> Grid:
    """(rows, columns) of a table: as given for all branches or for this one, else square."""
    found: tuple[int, ...] = (math.isqrt(cells),) * 2
    if grid is not None:
        index, several = int(branch or 0), np.ndim(grid[0]) > 0
        if several and index >= len(grid):
            raise UserError(f"{name}: grid={tuple(grid)} has no entry for branch {index}")
        found = tuple(np.ravel(grid[index] if several else grid).tolist())
    if len(found) != 2 or found[0] * found[1] != cells:
        given = "grid=(rows, columns)" if branch is None else "grid=((rows, columns), …), one per branch"
        size = "×".join(map(str, found))
        raise UserError(f"{name} of the model has {cells} cells, which is no {size} grid: pass {given}")
    return found[0], found[1]


def _channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """(k, k, 3, D) → (k, k, channels, D); a grey image gives the same response with either."""
    if channels == 1:
        return kernel.sum(2, keepdims=True)
    repeated = np.tile(kernel, (1, 1, -(-channels // 3), 1))[:, :, :channels]
    return repeated * (3 / channels)


def _matching(
    role: str, patterns: Sequence[str], paths: Collection[Path], *, must_match: bool = True
) -> set[Path]:
    found: set[Path] = set()
    for pattern in patterns:
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise UserError(f"{role} pattern {pattern!r} is not a regular expression: {error}") from None
        hits = {path for path in paths if compiled.fullmatch(_name(path))}
        if must_match and not hits:
            raise UserError(
                f"{role} pattern {pattern!r} matches no parameter; one of them is {_name(next(iter(paths)))}"
            )
        found |= hits
    return found


def _name(path: Path) -> str:
    return "/".join(path[1:])


def _plain(tree: PyTree) -> dict[str, Any]:
    return {key: _plain(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
