"""Variables as a .safetensors file with the names of this package: {"params/stem/kernel": …, "batch_stats/…": …}."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from fusionjax import files
from fusionjax.errors import UserError
from fusionjax.pretrained.report import refuse
from fusionjax.pretrained.tensors import FLOATS
from fusionjax.types import PyTree

COLLECTIONS = ("params", "batch_stats")
MODEL = "model"
"""The entry that holds the name of the model, as characters."""


def write(path: Path, variables: PyTree, name: str) -> Path:
    """Writes the variables of a model atomically.

    Args:
        path: ends in .safetensors; its folder is created.
        variables: {"params": …, "batch_stats": …} of arrays; other collections are ignored.
        name: name of the model.

    Returns:
        `path`.
    """
    flat = flatten_dict({k: v for k, v in variables.items() if k in COLLECTIONS}, sep="/")
    tensors = {key: np.ascontiguousarray(value) for key, value in flat.items()}
    tensors[MODEL] = np.frombuffer(name.encode(), np.uint8)
    path = Path(path)
    with files.replacing(path) as part:
        safetensors.numpy.save_file(tensors, part)
    return path


def is_native(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether the tensors of a file were written by `write`."""
    return MODEL in tensors and any(name.startswith("params/") for name in tensors)


def variables_of(
    tensors: Mapping[str, np.ndarray], name: str, *, shapes_only: bool = False
) -> dict[str, Any]:
    """The variables of a file that `write` wrote.

    Args:
        tensors: the tensors of the file.
        name: name of the expected model.
        shapes_only: the tensors have no values, see `tensors.hollow`.

    Returns:
        {"params": …, "batch_stats": …}, nested dicts.

    Raises:
        UserError: the file holds another model, or names or values that `write` does not write.
    """
    rest = dict(tensors)
    model = rest.pop(MODEL).tobytes().decode("utf-8", "replace")
    if model != name:
        raise UserError(
            f"these are weights of {model[:80]}, not of {name}: set config.pretrained.name or model.name"
        )
    foreign = [key for key in rest if key.partition("/")[0] not in COLLECTIONS]
    leaves = set(rest)
    inside = [key for key in rest if any(parent in leaves for parent in _parents(key))]
    dtypes = [f"{key} {value.dtype}" for key, value in rest.items() if value.dtype not in FLOATS]
    floats = {key: value for key, value in rest.items() if value.dtype in FLOATS and not shapes_only}
    broken = [key for key, value in floats.items() if not np.isfinite(value).all()]
    refuse(
        f"the tensors are not those of {name}",
        {
            "of no collection": foreign,
            "inside another": inside,
            "of another dtype": dtypes,
            "not finite": broken,
        },
    )
    return unflatten_dict(rest, sep="/")


def _parents(key: str) -> list[str]:
    """Paths of the groups that a leaf would be in: "a/b/c" → "a/b", "a"."""
    parts = key.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]
