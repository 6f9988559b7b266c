"""Variables as a .safetensors file with the names of this package: {"params/stem/kernel": …, "batch_stats/…": …}.

A file of a whole run also has what the run computed from its data, below "state/", and may name the network of its trunk: from
it, `variables_of` reads the whole model, or the trunk alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from fusionjax import files
from fusionjax.errors import UserError
from fusionjax.models.registry import backbone
from fusionjax.pretrained.report import refuse
from fusionjax.pretrained.tensors import FLOATS
from fusionjax.types import PyTree

COLLECTIONS = ("params", "batch_stats")
MODEL = "model"
"""The entry that holds the name of the model, as characters."""
TRUNK = "trunk"
"""The entry that holds the name of the network in its trunk, where that is a model of its own; and the trunk's submodule."""
_PARTS = (TRUNK, "neck")  # the neck is the trunk's upper part
_STATE = "state/"


def write(path: Path, variables: PyTree, name: str, *, trunk: str = "", state: bool = False) -> Path:
    """Writes the variables of a model atomically.

    Args:
        path: ends in .safetensors; its folder is created.
        variables: {"params": …, "batch_stats": …} of arrays.
        name: name of the model.
        trunk: name of the network in its trunk; "" where it has none.
        state: write other collections too; without it they are ignored.

    Returns:
        `path`.
    """
    chosen = {k: v for k, v in variables.items() if k in COLLECTIONS}
    flat = flatten_dict(chosen, sep="/")
    if state:
        others = {k: v for k, v in variables.items() if k not in COLLECTIONS}
        flat |= {f"{_STATE}{key}": value for key, value in flatten_dict(others, sep="/").items()}
    # Not np.ascontiguousarray, which makes a scalar an array of one.
    tensors = {key: np.asarray(value, order="C") for key, value in flat.items()}
    names = {MODEL: name} | ({TRUNK: trunk} if trunk else {})
    tensors |= {key: np.frombuffer(text.encode(), np.uint8) for key, text in names.items()}
    path = Path(path)
    with files.replacing(path) as part:
        part.touch()
        mode = part.stat().st_mode
        safetensors.numpy.save_file(tensors, part)
        part.chmod(mode)  # as of any new file: safetensors lets nobody but the owner read its files
    return path


def whole(tensors: Mapping[str, np.ndarray], template: PyTree) -> dict[str, Any]:
    """The variables of a file that `write` wrote with `state`, of a model whose shapes are known.

    Args:
        tensors: of the file.
        template: the shapes and dtypes of all variables.

    Returns:
        The structure of `template`, with arrays.

    Raises:
        UserError: a variable is missing, left over or of another shape or dtype.
    """
    rest = {name: value for name, value in tensors.items() if name not in (MODEL, TRUNK)}
    flat = flatten_dict(template, sep="/", keep_empty_nodes=True)
    stored = {
        key: key if key.partition("/")[0] in COLLECTIONS else f"{_STATE}{key}"
        for key, leaf in flat.items()
        if hasattr(leaf, "shape")
    }
    wrong = [
        f"{key} {rest[name].dtype} {rest[name].shape} for {flat[key].dtype} {flat[key].shape}"
        for key, name in stored.items()
        if name in rest and (rest[name].shape, rest[name].dtype) != (flat[key].shape, flat[key].dtype)
    ]
    refuse(
        "the tensors are not those of the run's model",
        {
            "left over": [name for name in rest if name not in stored.values()],
            "missing": [key for key, name in stored.items() if name not in rest],
            "of another shape": wrong,
        },
    )
    return unflatten_dict(flat | {key: rest[name] for key, name in stored.items()}, sep="/")


def is_native(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether the tensors of a file were written by `write`."""
    return MODEL in tensors and any(name.startswith("params/") for name in tensors)


def variables_of(
    tensors: Mapping[str, np.ndarray], name: str, *, shapes_only: bool = False
) -> dict[str, Any]:
    """The variables of a file that `write` wrote: of the whole model, or of its trunk where that is the expected network.

    Args:
        tensors: the tensors of the file.
        name: name of the expected model; a model that starts from its weights (DCAL from those of a ViT) has it too.
        shapes_only: the tensors have no values, see `tensors.hollow`.

    Returns:
        {"params": …, "batch_stats": …}, nested dicts.

    Raises:
        UserError: the file holds another model, or names or values that `write` does not write.
    """
    rest = {key: value for key, value in tensors.items() if not key.startswith(_STATE)}
    model, trunk = (_text(rest.pop(key, None)) for key in (MODEL, TRUNK))
    if name == trunk != backbone(model):
        rest = _of_parts(rest)
    elif backbone(model) != name:
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


def _text(entry: np.ndarray | None) -> str:
    return "" if entry is None else entry.tobytes().decode("utf-8", "replace")


def _of_parts(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors below the trunk and its neck, by their names in the network itself."""
    found = {}
    for key, value in tensors.items():
        collection, _, name = key.partition("/")
        part, _, inner = name.partition("/")
        if part in _PARTS and inner:
            found[f"{collection}/{inner}"] = value
    return found


def _parents(key: str) -> list[str]:
    """Paths of the groups that a leaf would be in: "a/b/c" → "a/b", "a"."""
    parts = key.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]
