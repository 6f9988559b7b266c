"""Reads weight files of every supported format into named arrays."""

import importlib.metadata
import zipfile
from pathlib import Path, PurePath

import numpy as np
import safetensors
import safetensors.numpy

from fusionjax.errors import UserError
from fusionjax.models.packages import PACKAGES
from fusionjax.pretrained.torch_file import read_torch

TORCH_SUFFIXES = (".pth", ".pt", ".bin")
SUFFIXES = (".safetensors", ".npz", *TORCH_SUFFIXES)
TOWERS = "towers"  # folder below a workdir that holds the encoders of a run of the spectral task
FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")
# Compression shrinks weights by a few per cent; a much larger ratio is a decompression bomb.
NPZ_RATIO = 100
# The first bytes of the file that a clone without Git LFS holds in place of a large file.
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def read(source: str | Path) -> dict[str, np.ndarray]:
    """Reads the named tensors of a local weight file.

    Args:
        source: a .safetensors, .npz, .pth, .pt or .bin file; a folder that holds model.safetensors or
          pytorch_model.bin, or a workdir with one encoder in towers/; or "package:NAME" for an installed package
          (a key of PACKAGES).

    Returns:
        name → array, with the stored dtype.

    Raises:
        UserError: the source does not exist, has an unknown format or is damaged, or the package is not installed.
    """
    text = str(source)
    if text.startswith("package:"):
        return read(package_file(text.removeprefix("package:")))
    if text.startswith(("http:/", "https:/")):
        raise UserError(
            f"{text}: weights cannot be read from a URL: download the file, or pass hub:owner/name"
        )
    path = Path(source)
    if path.is_dir():
        path = _of_folder(path)
    if not path.is_file():
        raise UserError(f"{path}: no such weight file")
    check_suffix(path, str(path))
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    if start == LFS_POINTER:
        raise UserError(f"{path}: this is a Git LFS pointer, not the weights: run git lfs pull in its folder")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_npz(path) if path.suffix == ".npz" else read_torch(path)


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
    distribution, hint = PACKAGES[key]
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
            return folder / name
        if (folder / f"{name}.index.json").is_file():
            raise UserError(
                f"{folder}: the weights are sharded ({name}.index.json); only a single file can be read: {name}"
            )
    raise UserError(f"{folder}: the folder holds neither {' nor '.join(FOLDER_FILES)}")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a complete safetensors file: {_line(error)}") from None


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = sum(entry.file_size for entry in archive.infolist())
        if claimed > NPZ_RATIO * path.stat().st_size:
            raise UserError(f"{path}: its arrays claim {claimed} bytes, over {NPZ_RATIO} times the file")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (
        zipfile.BadZipFile,
        OSError,
        ValueError,
        EOFError,
        KeyError,
        MemoryError,
        NotImplementedError,
    ) as error:
        raise UserError(f"{path}: not a complete .npz file: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
