"""Images with any number of channels from .npy and multi-band TIFF files: their headers alone, and their pixels.

Nothing is executed: .npy files are read without pickle.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from fusionjax.data.image.decode import DecodeError
from fusionjax.errors import UserError

SUFFIXES = (".npy", ".tif", ".tiff")
_NPY = b"\x93NUMPY"
TYPES = ("uint8", "uint16", "float32")


@dataclasses.dataclass(frozen=True)
class Format:
    """What a header says.

    Attributes:
        shape: (H, W, C) where the file is such an image; else the shape as stored.
        dtype: name of the type, without its byte order.
    """

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"({', '.join(map(str, self.shape))}) {self.dtype}"


def header(path: Path, channels: int) -> Format:
    """The format of a file, from its header: no pixel is read.

    Args:
        path: ends in one of `SUFFIXES`.
        channels: C that is expected; tells a TIFF whose pages are bands from one whose pages are rows.

    Raises:
        DecodeError: the file is damaged.
        OSError: it cannot be read.
        UserError: it is a TIFF file and tifffile is not installed.
    """
    return _open(path, channels, pixels=False)[0]


def read(path: Path, channels: int) -> np.ndarray:
    """The pixels.

    Of a TIFF file the first image series; its bands may be samples of a pixel, planes or pages.

    Args:
        path, channels: as for `header`.

    Returns:
        (H, W, C) as stored, in the machine's byte order, contiguous.

    Raises:
        DecodeError: the file is damaged, is not (H, W, C), or holds NaN or infinite values: where the first one is.
        OSError, UserError: as for `header`.
    """
    found, image = _open(path, channels, pixels=True)
    if image.ndim != 3:
        raise DecodeError(f"it is {found}, not (H, W, C)")
    image = np.ascontiguousarray(image, image.dtype.newbyteorder("="))
    if image.dtype.kind == "f":
        finite = np.isfinite(image)
        if not finite.all():
            row, column, channel = np.argwhere(~finite)[0].tolist()
            raise DecodeError(
                f"{image[row, column, channel]} in channel {channel} at row {row}, column {column}; "
                f"{finite.size - np.count_nonzero(finite)} of {finite.size} values are not finite"
            )
    return image


def _open(path: Path, channels: int, *, pixels: bool) -> tuple[Format, Any]:
    try:
        if path.suffix.lower() == ".npy":
            return _npy(path, pixels)
        return _tiff(path, channels, pixels)
    except (DecodeError, UserError, OSError):
        raise
    except Exception as e:  # the libraries raise many types on damaged data
        raise DecodeError(" ".join(f"{type(e).__name__}: {e}".split())[:300]) from e


def _npy(path: Path, pixels: bool) -> tuple[Format, Any]:
    with path.open("rb") as file:
        if file.read(len(_NPY)) != _NPY:  # np.load would also take archives and pickles
            raise DecodeError("it is not in NumPy's .npy format")
    # Mapped, the header is read and the file's length checked; no page is touched.
    image = np.load(path, mmap_mode=None if pixels else "r", allow_pickle=False)
    return Format(image.shape, image.dtype.name), image


def _tiff(path: Path, channels: int, pixels: bool) -> tuple[Format, Any]:
    try:
        import tifffile
    except ImportError:
        raise UserError(
            f'reading {path.name} needs the package tifffile: pip install "fusionjax[spectral]"'
        ) from None
    with tifffile.TiffFile(path) as file:
        if not file.series:
            raise DecodeError("it holds no image")
        if len(file.series) > 1:
            raise DecodeError(f"it holds {len(file.series)} series of images; one is expected")
        series = file.series[0]
        shape, axes = tuple(series.shape), series.axes
        image = series.asarray(maxworkers=1) if pixels else None
    if len(shape) == 2:
        shape, image = (*shape, 1), None if image is None else image[..., None]
    elif len(shape) == 3:
        band = _band_axis(shape, axes, channels)
        shape = (*shape[:band], *shape[band + 1 :], shape[band])
        image = None if image is None else np.moveaxis(image, band, -1)
    return Format(shape, series.dtype.name), image


def _band_axis(shape: tuple[int, ...], axes: str, channels: int) -> int:
    """Which of three axes is the bands': the one that is neither Y nor X.

    An array (H, W, C) that was written without saying so is stored as H pages of (W, C): where the number of pages is not
    that of the channels, and the last axis is, it is taken as such.
    """
    others = [i for i, name in enumerate(axes) if name not in "YX"]
    band = others[0] if len(others) == 1 else 2
    if axes[band] not in "SC" and shape[band] != channels and shape[2] == channels:
        return 2
    return band
