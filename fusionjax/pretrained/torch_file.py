"""Reads .pth, .pt and .bin checkpoints of torch without torch, and without executing code from the file.

Both formats are read: the zip archive of torch ≥ 1.6 and the older stream of pickles. The file is mapped into memory and
every tensor is a read-only view of its storage, so the allocated memory is bounded by the size of the file.
"""

import io
import logging
import math
import mmap
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from fusionjax.errors import UserError
from fusionjax.pretrained import parts, torch_pickle
from fusionjax.pretrained.tensors import hollow
from fusionjax.pretrained.torch_pickle import Malformed, Skipped

logger = logging.getLogger(__name__)

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
DEPTH = 3
"""Dicts within dicts in which state dicts are looked for."""

_STORAGES = {
    "torch.DoubleStorage": np.float64,
    "torch.FloatStorage": np.float32,
    "torch.HalfStorage": np.float16,
    "torch.BFloat16Storage": ml_dtypes.bfloat16,
    "torch.LongStorage": np.int64,
    "torch.IntStorage": np.int32,
    "torch.ShortStorage": np.int16,
    "torch.CharStorage": np.int8,
    "torch.ByteStorage": np.uint8,
    "torch.BoolStorage": np.bool_,
    "torch.ComplexFloatStorage": np.complex64,
    "torch.ComplexDoubleStorage": np.complex128,
    "torch.storage.UntypedStorage": np.uint8,
}
_DTYPES = {
    "torch.float64": np.float64,
    "torch.float32": np.float32,
    "torch.float16": np.float16,
    "torch.bfloat16": ml_dtypes.bfloat16,
    "torch.int64": np.int64,
    "torch.int32": np.int32,
    "torch.int16": np.int16,
    "torch.int8": np.int8,
    "torch.uint8": np.uint8,
    "torch.uint16": np.uint16,
    "torch.uint32": np.uint32,
    "torch.uint64": np.uint64,
    "torch.bool": np.bool_,
    "torch.complex64": np.complex64,
    "torch.complex128": np.complex128,
    "torch.float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "torch.float8_e5m2": ml_dtypes.float8_e5m2,
}


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    start: int
    size: int


class _Tensor(NamedTuple):
    storage: _Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch(
    path: str | Path, part: str = "", *, shapes_only: bool = False, log: parts.Log = logger.info
) -> dict[str, np.ndarray]:
    """The named tensors of a torch checkpoint.

    A training checkpoint may hold several state dicts beside values of any other type, which are left out.

    Args:
        path: a file in torch's zip or legacy format.
        part: key of the state dict to read, as "teacher" or "model.ema"; "" for the only one, or that under "state_dict" or
            "model".
        shapes_only: read no values: the arrays have the shapes and dtypes of the tensors (`tensors.hollow`).
        log: receives a line for what is left out.

    Returns:
        name → read-only array with the stored dtype.

    Raises:
        UserError: the file is missing, truncated or damaged, or holds no tensors; the message gives the file and the reason.
            No code of the file is ever executed.
    """
    skipped: set[str] = set()
    try:
        with open(path, "rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
            content, storages = (_open_zip if is_zip else _open_legacy)(file, skipped)
            chosen = parts.choose(_state_dicts(content, skipped), part, lambda text: log(f"{path}: {text}"))
            found = _arrays(chosen, storages, shapes_only)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    # pickletools and zipfile raise many types on damaged input.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: not a complete torch checkpoint: {reason}") from None
    if skipped:
        log(f"{path}: objects that are not tensors are skipped, without running them: {_few(skipped)}")
    return found


def _few(paths: set[str], shown: int = 4) -> str:
    listed = sorted(paths)
    return ", ".join(listed[:shown]) + (f" and {len(listed) - shown} more" if len(listed) > shown else "")


def _integers(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or not all(type(value) is int and value >= 0 for value in values):
        raise Malformed("a shape, stride or offset that is not a list of counts")
    return tuple(values)


def _tensor(
    storage: object, offset: object, shape: object, strides: object, *rest: object
) -> _Tensor | Skipped:
    """Replaces torch._utils._rebuild_tensor_v2; requires_grad and hooks are ignored."""
    if isinstance(storage, Skipped):
        return storage
    if not isinstance(storage, _Storage):
        raise Malformed("a tensor without a storage")
    (first,), sizes, steps = _integers((offset,)), _integers(shape), _integers(strides)
    if len(sizes) != len(steps) or len(sizes) > 32:
        raise Malformed("a tensor whose shape and strides differ in length")
    return _Tensor(storage, storage.dtype, first, sizes, steps)


def _tensor_v3(
    storage: object,
    offset: object,
    shape: object,
    strides: object,
    grad: object,
    hooks: object,
    dtype: object,
    *rest: object,
) -> _Tensor | Skipped:
    """Replaces torch._utils._rebuild_tensor_v3, whose storage is bytes and whose dtype is a name."""
    name = torch_pickle.name_of(dtype)
    if name not in _DTYPES:
        return Skipped(name or "a tensor of an unknown dtype")
    found = _tensor(storage, offset, shape, strides)
    return found if isinstance(found, Skipped) else found._replace(dtype=np.dtype(_DTYPES[name]))


def _ordered_dict(*items: object) -> dict | Skipped:
    return Skipped("collections.OrderedDict") if items else {}


_NAMES: dict[str, Callable[..., object] | None] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": lambda tensor, *rest: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *rest: tensor,
    "torch.Size": lambda values=(): _integers(values),
    **dict.fromkeys(_STORAGES),
    **dict.fromkeys(_DTYPES),
}


def _storage(identifier: object) -> _Storage | Skipped:
    """Replaces torch's persistent_load: ("storage", type, key, device, count[, view])."""
    if not isinstance(identifier, tuple) or len(identifier) not in (5, 6) or identifier[0] != "storage":
        raise Malformed("an unknown kind of persistent id")
    _, kind, key, _, count, *view = identifier
    name = torch_pickle.name_of(kind)
    if name is None or not isinstance(key, str):
        raise Malformed("a storage of an unknown type")
    if name not in _STORAGES:
        return Skipped(name)
    (size,), start = _integers((count,)), 0
    if view and view[0] is not None:
        # (key, offset, size): a part of a larger storage, as written by torch < 0.4.
        start, size = _integers(view[0][1:])
    return _Storage(key, np.dtype(_STORAGES[name]), start, size)


class _Storages(NamedTuple):
    """The storages of a file.

    Attributes:
        size: key → bytes that it has; None where it is missing.
        read: key → its bytes.
    """

    size: Callable[[str], int | None]
    read: Callable[[str], np.ndarray]


def _open_zip(file: BinaryIO, skipped: set[str]) -> tuple[object, _Storages]:
    archive = zipfile.ZipFile(file)
    entries = {entry.filename: entry for entry in archive.infolist()}
    # torch does not compress. Overlapping or compressed entries would add up to more than the size of the file.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
        raise Malformed("it holds compressed entries, which torch does not write")
    if sum(entry.file_size for entry in entries.values()) > os.fstat(file.fileno()).st_size:
        raise Malformed("its entries claim more bytes than the file has")
    roots = [
        name.removesuffix("data.pkl")
        for name in entries
        if name.endswith("/data.pkl") and name.count("/") == 1
    ]
    if len(roots) != 1:
        raise Malformed("a zip archive without one data.pkl")
    root = roots[0]
    if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
        raise Malformed("it was written on a big-endian machine")
    content = torch_pickle.load(io.BytesIO(archive.read(f"{root}data.pkl")), _NAMES, _storage, skipped)

    def size(key: str) -> int | None:
        entry = entries.get(f"{root}data/{key}")
        return None if entry is None else entry.file_size

    def read(key: str) -> np.ndarray:
        return np.frombuffer(archive.read(f"{root}data/{key}"), np.uint8)

    return content, _Storages(size, read)


def _open_legacy(file: BinaryIO, skipped: set[str]) -> tuple[object, _Storages]:
    # A mapped file returns what is left, however much is asked for, instead of allocating it.
    stream = data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        magic = torch_pickle.load(stream, {})
    except ValueError:
        magic = None
    if magic != MAGIC:
        raise Malformed("neither a zip archive nor torch's legacy format")
    if torch_pickle.load(stream, {}) != PROTOCOL:
        raise Malformed("an unknown version of torch's legacy format")
    system = torch_pickle.load(stream, {})
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Malformed("it was written on a big-endian machine")
    item_sizes: dict[str, int] = {}

    def storage(identifier: object) -> _Storage | Skipped:
        found = _storage(identifier)
        if isinstance(found, _Storage):
            item_sizes[found.key] = found.dtype.itemsize
        return found

    content = torch_pickle.load(stream, _NAMES, storage, skipped)
    keys = torch_pickle.load(stream, {})
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Malformed("it has no list of storages")
    # After the pickles: for every key the element count as an int64, then the elements.
    spans: dict[str, tuple[int, int]] = {}
    position = stream.tell()
    for key in keys:
        header = data[position : position + 8]
        size = int.from_bytes(header, "little", signed=True) * item_sizes.get(key, 1)
        position += 8
        if len(header) < 8 or size < 0 or position + size > len(data):
            raise Malformed(f"it ends inside storage {key[:40]}")
        spans[key] = (position, size)
        position += size

    def read(key: str) -> np.ndarray:
        start, size = spans[key]
        return np.frombuffer(data, np.uint8, count=size, offset=start)

    return content, _Storages(lambda key: spans[key][1] if key in spans else None, read)


def _state_dicts(content: object, skipped: set[str]) -> dict[str, dict[str, _Tensor]]:
    """Dotted key of every dict that holds tensors → these; not those of an optimiser, nor what follows another type of key."""
    if not isinstance(content, dict):
        what = f"an object of {content.path}, which is not run" if isinstance(content, Skipped) else ""
        raise UserError(f"holds {what or 'no dict of tensors'}: save the model's state_dict()")
    found: dict[str, dict[str, _Tensor]] = {}
    level: list[tuple[str, dict]] = [("", content)]
    for _ in range(DEPTH):
        inner = []
        for path, values in level:
            named = {key: value for key, value in values.items() if isinstance(key, str)}
            tensors = {key: value for key, value in named.items() if isinstance(value, _Tensor)}
            if tensors:
                found[path] = tensors
            inner += [
                (f"{path}.{key}" if path else key, value)
                for key, value in named.items()
                if isinstance(value, dict) and not key.startswith("optim")
            ]
        level = inner
    if not found:
        seen = f", but objects that are not run: {_few(skipped)}" if skipped else ""
        raise UserError(
            f"holds no tensors{seen}; its entries are {_few({str(key)[:40] for key in content}) or 'none'}"
        )
    return found


def _arrays(tensors: Mapping[str, _Tensor], storages: _Storages, shapes_only: bool) -> dict[str, np.ndarray]:
    aligned: dict[tuple[str, np.dtype], np.ndarray] = {}
    arrays = {}
    for name, tensor in tensors.items():
        _check_extent(name, tensor, storages)
        if shapes_only or not math.prod(tensor.shape):
            arrays[name] = hollow(tensor.shape, tensor.dtype)
            continue
        storage, size = tensor.storage, tensor.dtype.itemsize
        if (storage.key, tensor.dtype) not in aligned:
            raw = storages.read(storage.key)
            whole = raw[: raw.size // size * size]
            # A legacy storage may begin at any byte; one copy per storage aligns it.
            whole = whole.copy() if whole.ctypes.data % size else whole
            aligned[storage.key, tensor.dtype] = whole.view(tensor.dtype)
        elements = aligned[storage.key, tensor.dtype][storage.start + tensor.offset :]
        strides = tuple(step * size for step in tensor.strides)
        arrays[name] = np.lib.stride_tricks.as_strided(elements, tensor.shape, strides, writeable=False)
    return arrays


def _check_extent(name: str, tensor: _Tensor, storages: _Storages) -> None:
    """Raises Malformed where a tensor reaches beyond its storage, or the storage beyond the file."""
    storage, size = tensor.storage, tensor.dtype.itemsize
    stored = storages.size(storage.key)
    if stored is None:
        raise Malformed(f"storage {storage.key[:40]} is missing")
    count, number = storage.size * storage.dtype.itemsize // size, math.prod(tensor.shape)
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
    if storage.start + count > stored // size or (number and last >= count) or number > count:
        raise Malformed(f"tensor {name[:80]} reaches beyond its storage")
