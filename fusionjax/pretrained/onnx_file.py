"""Reads the tensors of an ONNX file, without running its graph. Needs the package onnx (extra "onnx").

torch's exporter keeps the names of most parameters. The weights of linear layers it transposes, folds and renames
("onnx::MatMul_1972"); the node that multiplies by them bears the path of their module ("/encoder/layer.0/query/MatMul"), so
they are returned as that module's weight ("encoder.layer.0.query.weight"), as torch stores it. Another anonymous constant is
returned under the path of the node that uses it ("embeddings.Concat_6").
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from fusionjax.errors import UserError
from fusionjax.pretrained.tensors import hollow

if TYPE_CHECKING:
    import onnx

SUFFIX = ".onnx"
ANONYMOUS = "onnx::"
EXTRA = 'pip install "fusionjax[onnx]"'
# ONNX's numbers of the dtypes that are read; strings and quantised weights have others.
DTYPES: dict[int, type] = {
    1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64, 9: np.bool_, 10: np.float16,
    11: np.float64, 12: np.uint32, 13: np.uint64, 16: ml_dtypes.bfloat16,
}  # fmt: skip


def read_onnx(path: Path, *, shapes_only: bool = False) -> dict[str, np.ndarray]:
    """Returns the initialisers of the file's graph.

    Args:
        path: of the file; weights that it keeps in other files are refused, and nothing but it is opened.
        shapes_only: return no values, see `tensors.hollow`.

    Returns:
        name → array, with the stored dtype.

    Raises:
        UserError: the package onnx is not installed, or the file is damaged or holds what cannot be read.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise UserError(f"{path}: reading it needs the package onnx: {EXTRA}") from None
    try:
        graph = onnx.ModelProto.FromString(path.read_bytes()).graph
    except DecodeError:
        raise UserError(f"{path}: not a complete ONNX file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not graph.initializer:
        raise UserError(f"{path}: not a complete ONNX file, or one without weights")
    # protobuf returns a text that is not UTF-8 as bytes.
    texts = [tensor.name for tensor in graph.initializer]
    texts += [text for node in graph.node for text in (node.name, *node.input)]
    if not all(isinstance(text, str) for text in texts):
        raise UserError(f"{path}: not a complete ONNX file: a name is not UTF-8")
    try:
        found = {tensor.name: _array(tensor, shapes_only) for tensor in graph.initializer}
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    return _named(found, graph.node)


def _array(tensor: "onnx.TensorProto", shapes_only: bool) -> np.ndarray:
    """Raises ValueError for a tensor that is not whole or of another kind."""
    import onnx

    name, shape = tensor.name[:80], tuple(tensor.dims)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise ValueError(f"{name} is stored in another file: only a single file can be read")
    if tensor.data_type not in DTYPES:
        raise ValueError(f"{name} has ONNX's dtype {tensor.data_type}: quantised weights are not read")
    dtype = np.dtype(DTYPES[tensor.data_type])
    if min(shape, default=0) < 0:
        raise ValueError(f"{name} has the shape {shape}")
    if tensor.raw_data and len(tensor.raw_data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} claims another number of bytes than it has")
    if shapes_only and tensor.raw_data:
        return hollow(shape, dtype)
    try:
        array = np.asarray(onnx.numpy_helper.to_array(tensor))
    # Numbers in a list of their type may be fewer or more than the shape has.
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"{name} claims another number of values than it has") from None
    return hollow(shape, dtype) if shapes_only else array


def _named(found: dict[str, np.ndarray], nodes: "Iterable[onnx.NodeProto]") -> dict[str, np.ndarray]:
    """The tensors with anonymous ones renamed, where exactly one node uses them and the new name is free."""
    users: dict[str, list[onnx.NodeProto]] = {name: [] for name in found if name.startswith(ANONYMOUS)}
    for node in nodes:
        for name in set(node.input) & users.keys():
            users[name].append(node)
    named = dict(found)
    for name, using in users.items():
        if len(using) != 1:
            continue
        module, _, operation = using[0].name.strip("/").replace("/", ".").rpartition(".")
        linear = using[0].op_type == "MatMul" and found[name].ndim == 2
        new = f"{module}.weight" if linear else f"{module}.{operation}"
        if module and new not in named:
            tensor = named.pop(name)
            named[new] = tensor.T if linear else tensor
    return named
