"""Greyscale images of more than 8 bits, integers or floating point → 8 bits, by the range that the file's type declares."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from fusionjax.data.image import nodata
from fusionjax.data.unreadable import DecodeError

DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
"""Pillow's modes of such images."""
_BITS, _PHOTOMETRIC, _FORMAT, _LOW, _HIGH = 258, 262, 339, 340, 341
"""Tags of TIFF 6.0: BitsPerSample, PhotometricInterpretation, SampleFormat, SMinSampleValue, SMaxSampleValue."""
_UNSIGNED, _WHITE_IS_ZERO = 1, 0


def read(picture: Image.Image, value_range: tuple[float, ...] = ()) -> np.ndarray:
    """Decodes a greyscale image of more than 8 bits.

    Black and white are 0 and the largest number of the type for unsigned integers up to 16 bits, and 0 and 1 for floating
    point; of other types, what SMinSampleValue and SMaxSampleValue of a TIFF file say. The values of the image itself never
    set the range. What the file declares to be no data (GDAL) is filled with the mean of the others, and a transparent value
    is white.

    Args:
        picture: opened by Pillow, of a mode in `DEEP`.
        value_range: (low, high), the values of black and white, for values outside of which the nearer is taken; () for the
            rule above.

    Returns:
        uint8 (h, w).

    Raises:
        DecodeError: the type has no range and the file declares none, a value outside of the range, NaN or Inf.
    """
    tags: Mapping[int, Any] = getattr(picture, "tag_v2", {})
    values = np.asarray(picture)
    if picture.mode == "I" and tags and _first(tags, _FORMAT, _UNSIGNED) == _UNSIGNED:
        values = values.view(np.uint32)  # Pillow has no mode for them
    hidden = nodata.mask(values, tags.get(nodata.TAG))
    if hidden is not None:
        values = nodata.fill(values[..., None], hidden[..., None], "mean")[..., 0]
    found = values.min(), values.max()
    if not np.isfinite(found).all():
        raise DecodeError("it holds values that are not finite")
    limits = value_range or _range(picture, tags)
    if limits is None or not (value_range or limits[0] <= found[0] <= found[1] <= limits[1]):
        known = f"not {limits[0]:g} to {limits[1]:g}" if limits else "and their type has no range"
        raise DecodeError(
            f"its grey values are {found[0]:g} to {found[1]:g}, {known}: set config.data.value_range to the values of black "
            "and white, e.g. (0, 255), or save it with 8 or 16 bits"
        )
    low, high = limits
    shares = np.clip((values.astype(np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        shares = 1 - shares
    out = (shares * 255 + 0.5).astype(np.uint8)
    if "transparency" in picture.info:
        out[values == picture.info["transparency"]] = 255
    return out


def _range(picture: Image.Image, tags: Mapping[int, Any]) -> tuple[float, float] | None:
    """The values of black and white that the file declares by its type or its tags; None where it declares none."""
    if picture.mode.startswith("I;16"):
        return 0, 2.0 ** _first(tags, _BITS, 16) - 1
    if picture.mode == "I" and picture.format in ("PNG", "PPM", "JPEG2000"):
        return 0, 65535  # Pillow's for 16 bits
    low, high = _first(tags, _LOW), _first(tags, _HIGH)
    if low is not None and high is not None and low < high:
        return float(low), float(high)
    return (0, 1) if picture.mode == "F" else None


def _first(tags: Mapping[int, Any], tag: int, default: float | None = None) -> Any:
    """The value of a tag, of its first sample where it has one per sample."""
    value = tags.get(tag, default)
    return value[0] if isinstance(value, tuple) else value
