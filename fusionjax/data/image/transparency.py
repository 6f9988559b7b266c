"""Which images have an alpha channel, and which only a fourth channel, such as near infrared."""

import io
import struct

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

_EXTRA_SAMPLES, _ALPHA = 338, (1, 2)
"""TIFF 6.0: ExtraSamples, and its values for associated and unassociated alpha."""
_BIT_DEPTH = 24
"""Position of the bit depth in a PNG file."""


def declared(picture: Image.Image, data: bytes) -> bool:
    """Whether a file declares transparency: a transparent colour, or a channel as alpha.

    Args:
        picture: opened by Pillow.
        data: the encoded file.
    """
    if "transparency" in picture.info:
        return True
    if picture.mode not in ("PA", "LA", "La", "RGBa", "RGBA"):
        return False
    if isinstance(picture, TiffImageFile):
        return picture.tag_v2.get(_EXTRA_SAMPLES, (0,))[0] in _ALPHA
    if picture.format == "JPEG2000":
        return _jpeg2000(data)
    if picture.format == "TGA":
        return bool(data[17] & 15)  # the number of attribute bits
    return True


def opaque(data: bytes) -> np.ndarray | None:
    """Where an encoded image is more opaque than transparent, (h, w) bool; None if it is so everywhere, or nowhere."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if not declared(picture, data):
                return None
            mask = np.asarray(picture.convert("RGBA"))[..., 3] >= 128
    except (
        OSError,
        ValueError,
        SyntaxError,
    ):  # not an image, or a damaged one: reading it as one names the fault
        return None
    return mask if mask.any() and not mask.all() else None


def grey_on_white(picture: Image.Image, data: bytes) -> np.ndarray:
    """uint8 (h, w) of an 8-bit greyscale image with a transparent value, on white."""
    values, key = np.asarray(picture), picture.info["transparency"]
    if picture.format == "PNG":  # the value is not scaled to 8 bits, the pixels are
        key = key * 255 // (2 ** data[_BIT_DEPTH] - 1)
    return np.where(values == key, np.uint8(255), values)


def _jpeg2000(data: bytes) -> bool:
    """Whether the box cdef (ISO 15444-1, I.5.3.6) has a channel of opacity; without the box, all channels are colour."""
    at = data.find(b"cdef", 0, 2**16) + 4
    if at < 4 or len(data) < at + 2:
        return False
    (count,) = struct.unpack_from(">H", data, at)
    entries = data[at + 2 : at + 2 + 6 * count]
    return any(kind in _ALPHA for _, kind, _ in struct.iter_unpack(">HHH", entries[: len(entries) // 6 * 6]))
