"""Reads .pth, .pt and .bin checkpoints of torch without torch, and without executing code from the file.

Both formats are read: the zip archive of torch ≥ 1.6 and the older stream of pickles. The file is read into memory once and
every tensor is a read-only view of it, so the allocated memory is bounded by the size of the file.
"""

import io
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from fusionjax.errors import UserError
from fusionjax.pretrained import torch_pickle
from fusionjax.pretrained.torch_pickle import Malformed, Refused

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
WRAPPERS = ("state_dict", "model")

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


def read_torch(path: str | Path) -> dict[str, np.ndarray]:
    """The named tensors of a torch checkpoint.

    A state dict under "state_dict" or "model" is unwrapped, and a common prefix "module." (from torch's DataParallel) is
    removed. Values that are not tensors are ignored.

    Args:
        path: a .pth, .pt or .bin file, in torch's zip or legacy format.

    Returns:
        name → read-only array with the stored dtype: float16, bfloat16 (ml_dtypes), float32, float64, integers or bool.

    Raises:
        UserError: the file is missing, truncated or damaged, holds no tensors, or names code to run; the message gives the
            file and the reason. No code of the file is ever executed.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        if data[:4] == b"PK\x03\x04":
            content, fetch = _open_zip(data)
        else:
            content, fetch = _open_legacy(data)
        return _arrays(_unwrap(content), fetch)
    except Refused as error:
        raise UserError(f"{path}: {error}; only tensors are read from a checkpoint") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    # pickletools and zipfile raise many types on damaged input.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: not a complete torch checkpoint: {reason}") from None


def _integers(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or not all(type(value) is int and value >= 0 for value in values):
        raise Malformed("a shape, stride or offset that is not a list of counts")
    return tuple(values)


def _tensor(storage: object, offset: object, shape: object, strides: object, *rest: object) -> _Tensor:
    """Replaces torch._utils._rebuild_tensor_v2; requires_grad and hooks are ignored."""
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
) -> _Tensor:
    """Replaces torch._utils._rebuild_tensor_v3, whose storage is bytes and whose dtype is a name."""
    name = torch_pickle.name_of(dtype)
    if name not in _DTYPES:
        raise Malformed("a tensor of an unknown dtype")
    return _tensor(storage, offset, shape, strides)._replace(dtype=np.dtype(_DTYPES[name]))


def _ordered_dict(*items: object) -> dict:
    if items:
        raise Malformed("an OrderedDict with arguments")
    return {}


_NAMES: dict[str, Callable[..., object] | None] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": lambda tensor, *rest: tensor,
    "torch.Size": lambda values=(): _integers(values),
    **dict.fromkeys(_STORAGES),
    **dict.fromkeys(_DTYPES),
}


def _storage(identifier: object) -> _Storage:
    """Replaces torch's persistent_load: ("storage", type, key, device, count[, view])."""
    if not isinstance(identifier, tuple) or len(identifier) not in (5, 6) or identifier[0] != "storage":
        raise Malformed("an unknown kind of persistent id")
    _, kind, key, _, count, *view = identifier
    name = torch_pickle.name_of(kind)
    if name not in _STORAGES or not isinstance(key, str):
        raise Malformed("a storage of an unknown type")
    (size,), start = _integers((count,)), 0
    if view and view[0] is not None:
        # (key, offset, size): a part of a larger storage, as written by torch < 0.4.
        start, size = _integers(view[0][1:])
    return _Storage(key, np.dtype(_STORAGES[name]), start, size)


Fetch = Callable[[_Storage], np.ndarray]


def _open_zip(data: bytes) -> tuple[object, Fetch]:
    archive = zipfile.ZipFile(io.BytesIO(data))
    entries = {entry.filename: entry for entry in archive.infolist()}
    # torch does not compress. Overlapping or compressed entries would add up to more than the size of the file.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
        raise Malformed("it holds compressed entries, which torch does not write")
    if sum(entry.file_size for entry in entries.values()) > len(data):
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
    content = torch_pickle.load(io.BytesIO(archive.read(f"{root}data.pkl")), _NAMES, _storage)
    cache: dict[str, bytes] = {}

    def fetch(storage: _Storage) -> np.ndarray:
        name = f"{root}data/{storage.key}"
        if name not in entries:
            raise Malformed(f"storage {storage.key[:40]} is missing")
        if name not in cache:
            cache[name] = archive.read(name)
        return np.frombuffer(cache[name], np.uint8)

    return content, fetch


def _open_legacy(data: bytes) -> tuple[object, Fetch]:
    stream = io.BytesIO(data)
    try:
        magic = torch_pickle.load(stream, {})
    except (ValueError, UserError):
        magic = None
    if magic != MAGIC:
        raise Malformed("neither a zip archive nor torch's legacy format")
    if torch_pickle.load(stream, {}) != PROTOCOL:
        raise Malformed("an unknown version of torch's legacy format")
    system = torch_pickle.load(stream, {})
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Malformed("it was written on a big-endian machine")
    item_sizes: dict[str, int] = {}

    def storage(identifier: object) -> _Storage:
        found = _storage(identifier)
        item_sizes[found.key] = found.dtype.itemsize
        return found

    content = torch_pickle.load(stream, _NAMES, storage)
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

    def fetch(storage: _Storage) -> np.ndarray:
        if storage.key not in spans:
            raise Malformed(f"storage {storage.key[:40]} is missing")
        start, size = spans[storage.key]
        return np.frombuffer(data, np.uint8, count=size, offset=start)

    return content, fetch


def _unwrap(content: object) -> Mapping[str, _Tensor]:
    for _ in range(2):
        inner = [
            content[key]
            for key in WRAPPERS
            if isinstance(content, dict) and isinstance(content.get(key), dict)
        ]
        content = inner[0] if inner else content
    if not isinstance(content, dict):
        raise UserError("holds no dict of tensors")
    tensors = {
        key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, _Tensor)
    }
    if not tensors:
        raise UserError(f"holds no tensors at its top level, nor under {' or '.join(WRAPPERS)}")
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def _arrays(tensors: Mapping[str, _Tensor], fetch: Fetch) -> dict[str, np.ndarray]:
    aligned: dict[tuple[str, np.dtype], np.ndarray] = {}
    arrays = {}
    for name, tensor in tensors.items():
        storage, size = tensor.storage, tensor.dtype.itemsize
        if (storage.key, tensor.dtype) not in aligned:
            raw = fetch(storage)
            whole = raw[: raw.size // size * size]
            # A legacy storage may begin at any byte; one copy per storage aligns it.
            whole = whole.copy() if whole.ctypes.data % size else whole
            aligned[storage.key, tensor.dtype] = whole.view(tensor.dtype)
        elements = aligned[storage.key, tensor.dtype]
        count = storage.size * storage.dtype.itemsize // size
        start = storage.start + tensor.offset
        number = math.prod(tensor.shape)
        last = tensor.offset + sum(
            (n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True)
        )
        if storage.start + count > elements.size or (number and last >= count) or number > count:
            raise Malformed(f"tensor {name[:80]} reaches beyond its storage")
        if number == 0:
            arrays[name] = np.zeros(tensor.shape, tensor.dtype)
            continue
        strides = tuple(step * size for step in tensor.strides)
        view = np.lib.stride_tricks.as_strided(elements[start:], tensor.shape, strides, writeable=False)
        arrays[name] = view
    return arrays
