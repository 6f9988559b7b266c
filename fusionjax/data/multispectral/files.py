"""Reads images with any number of channels from .npy and multi-band TIFF files: only the header, or the pixels.

.npy files are read without pickle, so no code of a file is executed.
"""

import dataclasses
import math
import threading
from pathlib import Path
from typing import TypeAlias

import numpy as np

from fusionjax.data.image import nodata, tiff
from fusionjax.data.unreadable import DecodeError, decode_error
from fusionjax.files import LARGEST, check_readable

SUFFIXES = (".npy", ".tif", ".tiff")
_HEADERS = threading.Lock()
"""NumPy reads a header by `ast.literal_eval`, which in Python 3.11 may fail where several threads call it at once."""
_NPY = b"\x93NUMPY"
TYPES = ("uint8", "uint16", "float32")


@dataclasses.dataclass(frozen=True)
class Format:
    """Shape and dtype from the header of a file.

    Attributes:
        shape: (H, W, C) where the file holds such an image, else the stored shape.
        dtype: name of the dtype, without byte order.
    """

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"({', '.join(map(str, self.shape))}) {self.dtype}"


def header(path: Path, channels: int) -> Format:
    """Reads the format of a file from its header; no pixel is read.

    Args:
        path: ends in one of `SUFFIXES`.
        channels: expected number of channels C; distinguishes a TIFF whose pages are bands from one whose pages are rows.

    Raises:
        DecodeError: the file is damaged.
        OSError: it cannot be read.
        UserError: it is a TIFF file and tifffile is not installed.
    """
    return _open(path, channels, pixels=False)[0]


def read(path: Path, channels: int, fill: str = "mean") -> np.ndarray:
    """Reads the pixels of a file.

    Of a TIFF file the only image series is read; its bands may be stored as samples of a pixel, planes or pages.

    Args:
        path, channels: as for `header`.
        fill: what replaces the values that a GeoTIFF declares to be no data, see `nodata.fill`.

    Returns:
        (H, W, C) in the stored dtype and native byte order, contiguous. Where there are values that are no data, a masked
        array: its data are filled, its mask says which they were.

    Raises:
        DecodeError: the file is damaged, is not (H, W, C), or holds NaN or Inf; the message gives the position of the first.
        OSError, UserError: as for `header`.
    """
    found, image, declared = _open(path, channels, pixels=True)
    if image is None or image.ndim != 3:
        raise DecodeError(f"it is {found}, not (H, W, C)")
    image = np.ascontiguousarray(image, image.dtype.newbyteorder("="))
    hidden = nodata.mask(image, declared)
    if hidden is not None:
        image = nodata.fill(image, hidden, fill)
    if image.dtype.kind == "f":
        finite = np.isfinite(image)
        if not finite.all():
            row, column, channel = np.argwhere(~finite)[0].tolist()
            raise DecodeError(
                f"{image[row, column, channel]} in channel {channel} at row {row}, column {column}; "
                f"{finite.size - np.count_nonzero(finite)} of {finite.size} values are not finite"
            )
    return image if hidden is None else np.ma.masked_array(image, hidden)


_Opened: TypeAlias = tuple[Format, np.ndarray | None, str | None]
"""Format, pixels, and the value that is no data, as declared."""


def _open(path: Path, channels: int, *, pixels: bool) -> _Opened:
    """Opens a file; an OSError of the system stays one, as it may be temporary."""
    try:
        check_readable(path)
        if path.suffix.lower() == ".npy":
            return _npy(path, pixels)
        return _tiff(path, channels, pixels)
    except DecodeError:
        raise
    except Exception as e:  # the libraries raise many types on damaged data
        if isinstance(e, OSError) and e.errno:
            raise
        raise decode_error(e) from e


def _npy(path: Path, pixels: bool) -> _Opened:
    with path.open("rb") as file:
        if file.read(len(_NPY)) != _NPY:  # np.load would also take archives and pickles
            raise DecodeError("it is not in NumPy's .npy format")
    # A memory map reads the header and checks the length of the file, but no pixel.
    with _HEADERS:
        image = np.load(path, mmap_mode="r", allow_pickle=False)
    image = np.array(image) if pixels else image
    return Format(image.shape, image.dtype.name), image, None


def _tiff(path: Path, channels: int, pixels: bool) -> _Opened:
    with tiff.package(path.name).TiffFile(path) as file:
        if not file.series:
            raise DecodeError("it holds no image")
        if len(file.series) > 1:
            raise DecodeError(f"it holds {len(file.series)} series of images; one is expected")
        series = file.series[0]
        shape, axes = tuple(series.shape), series.axes
        size = math.prod(shape) * series.dtype.itemsize
        if size > LARGEST:
            raise DecodeError(f"its pixels take {size:,} bytes, more than the {LARGEST:,} that are read")
        declared = series.keyframe.tags.valueof(nodata.TAG)
        image = series.asarray(maxworkers=1) if pixels else None
    if len(shape) == 2:
        shape, image = (*shape, 1), None if image is None else image[..., None]
    elif len(shape) == 3:
        band = _band_axis(shape, axes, channels)
        shape = (*shape[:band], *shape[band + 1 :], shape[band])
        image = None if image is None else np.moveaxis(image, band, -1)
    return Format(shape, series.dtype.name), image, declared


def _band_axis(shape: tuple[int, ...], axes: str, channels: int) -> int:
    """The axis of the bands among three axes: the one that is neither Y nor X.

    An array (H, W, C) written without axis names is stored as H pages of (W, C). This is assumed where the last axis has the
    expected number of channels and the axis of the pages does not.
    """
    others = [i for i, name in enumerate(axes) if name not in "YX"]
    band = others[0] if len(others) == 1 else 2
    if axes[band] not in "SC" and shape[band] != channels and shape[2] == channels:
        return 2
    return band
