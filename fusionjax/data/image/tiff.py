"""TIFF files that Pillow and OpenCV do not read, or read wrongly, by tifffile."""

import importlib
import io
from types import ModuleType

import numpy as np
from PIL.TiffImagePlugin import TiffImageFile

from fusionjax.data.image import transparency
from fusionjax.data.unreadable import DecodeError
from fusionjax.errors import UserError

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How a TIFF or BigTIFF file begins."""
_BITS, _SAMPLES, _PLANES = 258, 277, 284
"""Tags of TIFF 6.0: BitsPerSample, SamplesPerPixel, PlanarConfiguration."""


def package(name: str = "the file") -> ModuleType:
    """Imports tifffile.

    Args:
        name: of the file that needs it, for the message.

    Raises:
        UserError: the package is missing.
    """
    try:
        return importlib.import_module("tifffile")
    except ImportError:
        raise UserError(
            f'reading {name} needs the package tifffile: pip install "fusionjax[spectral]"'
        ) from None


def needs_tifffile(picture: TiffImageFile) -> bool:
    """Whether an image has a plane for each sample, of 16 bits, whose bytes Pillow and OpenCV mix up, or more planes than they
    read.
    """
    tags = picture.tag_v2
    samples, bits = tags.get(_SAMPLES, 1), tags.get(_BITS, (1,))[0]
    return tags.get(_PLANES) == 2 and samples > 1 and (bits == 16 or samples > len(picture.getbands()))


def read_planes(picture: TiffImageFile, data: bytes) -> np.ndarray:
    """Reads an RGB image of planes.

    Args:
        picture: opened by Pillow.
        data: the encoded file.

    Returns:
        uint8 or uint16 (h, w, 3).

    Raises:
        DecodeError: it is damaged, not RGB, or has alpha.
        UserError: tifffile is missing.
    """
    if picture.mode not in ("RGB", "RGBA") or transparency.declared(picture, data):
        raise DecodeError("its planes are not red, green and blue alone: save it with interleaved samples")
    with package().TiffFile(io.BytesIO(data)) as file:
        planes = file.pages[0].asarray(maxworkers=1)
    return np.ascontiguousarray(np.moveaxis(planes[:3], 0, -1))
