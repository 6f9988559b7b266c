"""Variables as a .safetensors file with the names of this package: {"params/stem/kernel": …, "batch_stats/…": …}."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from fusionjax.errors import UserError
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
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        safetensors.numpy.save_file(tensors, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def is_native(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether the tensors of a file were written by `write`."""
    return MODEL in tensors and any(name.startswith("params/") for name in tensors)


def variables_of(tensors: Mapping[str, np.ndarray], name: str) -> dict[str, Any]:
    """The variables of a file that `write` wrote.

    Args:
        tensors: the tensors of the file.
        name: name of the expected model.

    Returns:
        {"params": …, "batch_stats": …}, nested dicts.

    Raises:
        UserError: the file holds another model.
    """
    rest = dict(tensors)
    model = rest.pop(MODEL).tobytes().decode("utf-8", "replace")
    if model != name:
        raise UserError(
            f"these are weights of {model}, not of {name}: set config.pretrained.name or model.name"
        )
    return unflatten_dict(rest, sep="/")
