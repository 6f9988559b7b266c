"""Encoded image → RGB uint8, with a limit on the number of pixels and one exception for every kind of damage."""

import functools
import io
from os import PathLike
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

_JPEG = b"\xff\xd8\xff"


class DecodeError(Exception):
    """An image or audio file cannot be read; the message is the reason, one line."""


def decode(source: bytes | np.ndarray | str | PathLike[str], max_pixels: int) -> np.ndarray:
    """Decodes one image.

    Greyscale becomes RGB, transparent images are composited on white, 16 bits become 8, and of an animation the first frame
    is used. The EXIF orientation is not applied, as in the reference loaders of the data sets.

    Args:
        source: encoded bytes, a path, or an array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), uint8 or uint16.
        max_pixels: the largest h · w; a larger image is refused by its header, before memory is allocated for it.

    Returns:
        RGB uint8 (h, w, 3), contiguous.

    Raises:
        DecodeError: the file does not exist, is not an image, is damaged or too large.
    """
    try:
        if isinstance(source, np.ndarray):
            image = _to_rgb(source, max_pixels)
        else:
            data = (
                bytes(source)
                if isinstance(source, bytes | bytearray | memoryview)
                else Path(source).read_bytes()
            )
            image = _decode_bytes(data, max_pixels)
    except DecodeError:
        raise
    except UnidentifiedImageError:
        raise DecodeError("it is not an image of a known format") from None
    except Exception as e:  # the libraries raise many types on damaged data
        raise DecodeError(" ".join(f"{type(e).__name__}: {e}".split())[:300]) from e
    return np.ascontiguousarray(image)


def decode_png(png: bytes) -> np.ndarray:
    """Decodes a PNG image that is known to be valid: RGB uint8 (h, w, 3)."""
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise DecodeError("it is not a PNG image")
    return image


def _decode_bytes(data: bytes, max_pixels: int) -> np.ndarray:
    if not data:
        raise DecodeError("the file is empty")
    if data.startswith(_JPEG):
        image = _decode_jpeg(data, max_pixels)
        if image is not None:
            return image
    with Image.open(io.BytesIO(data)) as picture:  # reads the header only
        _check_size(picture.height, picture.width, max_pixels)
        if picture.format not in ("JPEG", "MPO") and picture.mode in (
            "L",
            "RGB",
            "RGBA",
            "I;16",
            "I;16B",
            "I",
        ):
            _silence_opencv()
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            if image is not None and image.dtype in (np.uint8, np.uint16):
                if image.shape[:2] != (picture.height, picture.width):
                    raise DecodeError("the header's size is not the image's")
                return _to_rgb(image if image.ndim == 2 else image[..., _BGR[image.shape[2]]], max_pixels)
        # Palettes, CMYK, unusual bit depths, and whatever OpenCV refuses. Pillow raises on truncated data.
        return _to_rgb(_pillow_array(picture), max_pixels)


_BGR = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}


def _decode_jpeg(data: bytes, max_pixels: int) -> np.ndarray | None:
    """None where Pillow should try: CMYK, or errors that a strict decoder reports and others ignore."""
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(height, width, max_pixels)
        return None if space in ("CMYK", "YCCK") else simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:
        return None


def _pillow_array(picture: Image.Image) -> np.ndarray:
    if picture.mode in ("I", "I;16", "I;16B", "I;16L", "F"):
        values = np.asarray(picture).astype(np.float32)
        high = 65535.0 if values.max(initial=0) > 255 else 255.0
        return (np.clip(values / high, 0, 1) * 255 + 0.5).astype(np.uint8)
    if picture.mode in ("P", "PA", "LA", "La", "RGBa", "RGBA") or "transparency" in picture.info:
        return np.asarray(picture.convert("RGBA"))
    return np.asarray(picture.convert("RGB"))


def _to_rgb(image: np.ndarray, max_pixels: int) -> np.ndarray:
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or image.dtype not in (np.uint8, np.uint16):
        raise DecodeError(f"an array of shape {image.shape} and type {image.dtype} is not an image")
    _check_size(image.shape[0], image.shape[1], max_pixels)
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.shape[2] == 1:
        return np.repeat(image, 3, axis=2)
    if image.shape[2] == 4:
        alpha = image[..., 3:].astype(np.uint32)
        return ((image[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return image


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height < 1 or width < 1:
        raise DecodeError(f"{height} × {width} pixels")
    if height * width > max_pixels:
        raise DecodeError(f"{height} × {width} pixels are more than data.max_pixels={max_pixels}")


@functools.cache
def _silence_opencv() -> None:
    """OpenCV prints several lines on stderr for a damaged image; the exception reports it once."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
