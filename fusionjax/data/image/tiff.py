"""TIFF files that Pillow and OpenCV do not read, or read wrongly, by tifffile."""

import importlib
import io
from collections.abc import Callable
from types import ModuleType

import numpy as np
from PIL.TiffImagePlugin import TiffImageFile

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


def has_deep_planes(picture: TiffImageFile) -> bool:
    """Whether an image has a plane of 16 bits for each sample: Pillow and OpenCV mix up the bytes of such planes."""
    tags = picture.tag_v2
    return tags.get(_PLANES) == 2 and tags.get(_SAMPLES, 1) > 1 and tags.get(_BITS, (1,))[0] == 16


def read(data: bytes) -> tuple[tuple[int, int], Callable[[], np.ndarray]]:
    """Opens an RGB image with any further samples, which are left out.

    Args:
        data: the encoded file.

    Returns:
        (h, w) from the header, and a function that reads the pixels: uint8 or uint16 (h, w, 3).

    Raises:
        DecodeError: it is damaged, not RGB of 8 or 16 bits, or has alpha.
        UserError: tifffile is missing.
    """
    with package().TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
    rgb = page.photometric == 2 and page.samplesperpixel > 2 and page.dtype in (np.uint8, np.uint16)
    if not rgb or {*page.extrasamples} & {1, 2}:
        raise DecodeError(
            "it is a TIFF image of other samples than grey or RGB, or of planes with alpha: save it as RGB with 8 or 16 bits, "
            "or name its bands in config.data.modalities"
        )

    def pixels() -> np.ndarray:
        with package().TiffFile(io.BytesIO(data)) as file:
            values = file.pages[0].asarray(maxworkers=1)
        values = np.moveaxis(values[:3], 0, -1) if page.planarconfig == 2 else values[..., :3]
        return np.ascontiguousarray(values, values.dtype.newbyteorder("="))

    return (page.imagelength, page.imagewidth), pixels
