"""Reads weight files of every supported format into named arrays."""

import importlib.metadata
import logging
import math
import zipfile
from pathlib import Path, PurePath

import ml_dtypes
import numpy as np
import safetensors

from fusionjax import disk_cache
from fusionjax.errors import UserError
from fusionjax.models.packages import PACKAGES
from fusionjax.pretrained import parts
from fusionjax.pretrained.onnx_file import SUFFIX as ONNX
from fusionjax.pretrained.onnx_file import read_onnx
from fusionjax.pretrained.tensors import hollow
from fusionjax.pretrained.torch_file import read_torch

logger = logging.getLogger(__name__)

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar")
SUFFIXES = (".safetensors", ".npz", ONNX, *TORCH_SUFFIXES)
TOWERS = "towers"  # folder below a workdir that holds the encoders of a run of the spectral task
SUMS = "sums.json"  # checksums of the files of an exported run, beside them
FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")
# Compression shrinks weights by a few per cent; a much larger ratio is a decompression bomb.
NPZ_RATIO = 100
# The first bytes of the file that a clone without Git LFS holds in place of a large file.
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# Tensors of so many bytes are read where only shapes are asked for: the name of a model is one of them.
SMALL = 1024
# safetensors' names of the dtypes that NumPy and ml_dtypes have; quantised weights have others.
SAFETENSORS_DTYPES: dict[str, type] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64, "I32": np.int32,
    "I16": np.int16, "I8": np.int8, "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
    "C64": np.complex64,
}  # fmt: skip


def read(
    source: str | Path, part: str = "", *, shapes_only: bool = False, log: parts.Log = logger.info
) -> dict[str, np.ndarray]:
    """Reads the named tensors of a local weight file.

    Args:
        source: a file of safetensors, NumPy (.npz) or torch, recognised by its content, or of ONNX (.onnx); a folder that
          holds model.safetensors or pytorch_model.bin, or a workdir with one encoder in towers/; or "package:NAME" for an
          installed package (a key of PACKAGES).
        part: of a file that holds several models, the one to read: see `parts.choose`.
        shapes_only: read no values: the arrays have the shapes and dtypes of the tensors (`tensors.hollow`).
        log: receives a line for what is chosen or left out.

    Returns:
        name → array, with the stored dtype.

    Raises:
        UserError: the source does not exist, has an unknown format or is damaged, or the package is not installed.
    """
    text = str(source)
    if text.startswith("package:"):
        return read(package_file(text.removeprefix("package:")), part, shapes_only=shapes_only, log=log)
    if text.startswith(("http:/", "https:/")):
        raise UserError(
            f"{text}: weights cannot be read from a URL: download the file, or pass hub:owner/name"
        )
    path = Path(source).expanduser()
    if path.is_dir():
        path = _of_folder(path)
    if not path.is_file():
        raise UserError(f"{path}: no such weight file")
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    if start == LFS_POINTER:
        raise UserError(f"{path}: this is a Git LFS pointer, not the weights: run git lfs pull in its folder")
    suffix = _format(path, start)
    if suffix in TORCH_SUFFIXES:
        return read_torch(path, part, shapes_only=shapes_only, log=log)
    if suffix == ONNX:
        tensors = read_onnx(path, shapes_only=shapes_only)
    else:
        tensors = (_read_npz if suffix == ".npz" else _read_safetensors)(path, shapes_only)
    try:
        return parts.choose({"": tensors}, part, log)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _format(path: Path, start: bytes) -> str:
    """The usual suffix of a file with this content; the file's own where the content tells nothing."""
    if start[:4] == b"PK\x03\x04":
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            names = []
        if any(name.endswith("/data.pkl") for name in names):
            return ".pth"
        if names and all(name.endswith(".npy") for name in names):
            return ".npz"
    elif start[8:9] == b"{":
        return ".safetensors"
    elif start[:2] == b"\x80\x02":
        return ".pth"
    check_suffix(path, str(path))
    return path.suffix


def check_suffix(path: PurePath, shown: str) -> None:
    """Raises UserError where weights cannot be read from files with this suffix.

    Args:
        path: the file.
        shown: name of the file in the message.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{shown}: weights are read from {', '.join(SUFFIXES)}, not from {path.suffix!r}")


def package_file(name: str) -> Path:
    """The weight file of an installed package, found in its metadata; the package is not imported.

    Args:
        name: a key of PACKAGES; "-" and "_" are equivalent.

    Raises:
        UserError: the name is unknown, the package is not installed, or it does not hold exactly one weight file.
    """
    key = {known.replace("-", "_"): known for known in PACKAGES}.get(name.replace("-", "_"))
    if key is None:
        raise UserError(f"package:{name}: known are {', '.join(f'package:{known}' for known in PACKAGES)}")
    distribution, hint, _ = PACKAGES[key]
    try:
        files = importlib.metadata.distribution(distribution).files or []
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"package:{name}: {distribution} is not installed: {hint}") from None
    weights = [Path(str(file.locate())) for file in files if file.suffix in SUFFIXES]
    weights = [path for path in weights if path.is_file()]
    if len(weights) != 1:
        raise UserError(
            f"package:{name}: {distribution} holds {len(weights)} weight files, one was expected: {hint}"
        )
    return weights[0]


def _of_folder(folder: Path) -> Path:
    towers = sorted((folder / TOWERS).glob("*.safetensors"))
    if len(towers) == 1:
        return towers[0]
    if towers:
        raise UserError(
            f"{folder} has several encoders in {TOWERS}/: name one, {' or '.join(str(t) for t in towers)}"
        )
    for name in FOLDER_FILES:
        if (folder / name).is_file():
            _verify(folder, name)
            return folder / name
        if (folder / f"{name}.index.json").is_file():
            raise UserError(
                f"{folder}: the weights are sharded ({name}.index.json); only a single file can be read: {name}"
            )
    raise UserError(f"{folder}: the folder holds neither {' nor '.join(FOLDER_FILES)}")


def _verify(folder: Path, name: str) -> None:
    """Compares a weight file with the checksums of the folder of an exported run, where there are any."""
    try:
        expected = disk_cache.read_json(folder / SUMS)["files"]
        disk_cache.verify(folder, {name: expected[name]} if name in expected else {})
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is damaged ({error}): download or export it again") from None


def _read_safetensors(path: Path, shapes_only: bool) -> dict[str, np.ndarray]:
    found = {}
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118  # it is no dict
                view = file.get_slice(name)
                kind, shape = view.get_dtype(), tuple(view.get_shape())
                if kind not in SAFETENSORS_DTYPES:
                    raise UserError(f"{path}: {name[:80]} has dtype {kind}: quantised weights are not read")
                dtype = np.dtype(SAFETENSORS_DTYPES[kind])
                small = math.prod(shape) * dtype.itemsize <= SMALL
                found[name] = hollow(shape, dtype) if shapes_only and not small else file.get_tensor(name)
    except UserError:
        raise
    # The library and NumPy raise many types on damaged input.
    except Exception as error:
        raise UserError(f"{path}: not a complete safetensors file: {_line(error)}") from None
    return found


def _read_npz(path: Path, shapes_only: bool) -> dict[str, np.ndarray]:
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            claimed = sum(entry.file_size for entry in entries)
            if claimed > NPZ_RATIO * path.stat().st_size:
                raise UserError(f"{path}: its arrays claim {claimed} bytes, over {NPZ_RATIO} times the file")
            for entry in entries:
                shape, dtype = _npy_header(archive, entry)
                name = entry.filename.removesuffix(".npy")
                if shapes_only:
                    found[name] = hollow(shape, dtype)
                else:
                    with archive.open(entry) as stream:
                        found[name] = np.lib.format.read_array(stream, allow_pickle=False)
    except UserError:
        raise
    # zipfile, its decompressors and NumPy raise many types on damaged input.
    except Exception as error:
        raise UserError(f"{path}: not a complete .npz file: {_line(error)}") from None
    return found


def _npy_header(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of an array of an archive, checked against the bytes that it has there."""
    with archive.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        header = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = header(stream)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded")
    if math.prod(shape) * dtype.itemsize > entry.file_size:
        raise ValueError(f"{entry.filename[:80]} claims more bytes than it has")
    return shape, dtype


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
