"""Encoded image → RGB uint8, with a limit on the number of pixels and one exception for every kind of damage."""

import functools
import io
from os import PathLike

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from fusionjax import files
from fusionjax.data.image import grey, tiff, transparency
from fusionjax.data.unreadable import DecodeError, decode_error
from fusionjax.errors import UserError

_JPEG = b"\xff\xd8\xff"
_STRIP = 2**20
"""Pixels that are converted at a time, so that intermediate results stay small."""


def decode(
    source: bytes | np.ndarray | str | PathLike[str], max_pixels: int, value_range: tuple[float, ...] = ()
) -> np.ndarray:
    """Decodes one image.

    Greyscale becomes RGB, transparent images are composited on white, more than 8 bits become 8, and of an animation the first
    frame is used. The EXIF orientation is not applied, as in the reference loaders of the data sets.

    Args:
        source: encoded bytes, a path, or an array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), uint8 or uint16.
        max_pixels: the largest h · w; a larger image is refused by its header, before memory is allocated for it.
        value_range: (low, high), the values of black and white in greyscale images of more than 8 bits; () for the range of
            the file, see `grey.read`.

    Returns:
        RGB uint8 (h, w, 3), contiguous.

    Raises:
        DecodeError: the file does not exist, is not an image, is damaged or too large, or its values have no known range.
        MemoryError, OSError: see `unreadable.decode_error`.
    """
    try:
        if isinstance(source, np.ndarray):
            image = _to_rgb(source, max_pixels)
        else:
            data = (
                bytes(source)
                if isinstance(source, bytes | bytearray | memoryview)
                else files.read_bytes(source)
            )
            image = _decode_bytes(data, max_pixels, value_range)
    except DecodeError:
        raise
    except Exception as e:  # the libraries raise many types on damaged data
        raise decode_error(e) from e
    return np.ascontiguousarray(image)


def decode_png(png: bytes) -> np.ndarray:
    """Decodes a PNG image that is known to be valid: RGB uint8 (h, w, 3)."""
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise DecodeError("it is not a PNG image")
    return image


def _decode_bytes(data: bytes, max_pixels: int, value_range: tuple[float, ...]) -> np.ndarray:
    if not data:
        raise DecodeError("the file is empty")
    if data.startswith(_JPEG):
        image = _decode_jpeg(data, max_pixels)
        if image is not None:
            return image
    _set_up_libraries()
    try:
        opened = Image.open(io.BytesIO(data))  # reads the header only
    except UnidentifiedImageError:
        if data.startswith(tiff.MAGIC):
            try:
                return _by_tifffile(data, max_pixels)
            except UserError as e:  # without tifffile it cannot be told from a damaged file
                raise DecodeError(str(e)) from None
        raise DecodeError("it is not an image of a known format") from None
    with opened as picture:
        _check_size(picture.height, picture.width, max_pixels)
        if picture.mode in grey.DEEP:
            return _to_rgb(grey.read(picture, value_range), max_pixels)
        if isinstance(picture, TiffImageFile) and tiff.has_deep_planes(picture):
            return _by_tifffile(data, max_pixels)
        if _opencv_reads(picture):
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            if image is not None and image.dtype in (np.uint8, np.uint16):
                if image.shape[:2] != (picture.height, picture.width):
                    raise DecodeError("the header's size is not the image's")
                if image.ndim == 3:
                    image = _from_bgr(image, alpha=transparency.declared(picture, data))
                return _to_rgb(image, max_pixels)
        # Palettes, CMYK, unusual bit depths, and whatever OpenCV refuses. Pillow raises on truncated data.
        return _to_rgb(_pillow_array(picture, data), max_pixels)


def _by_tifffile(data: bytes, max_pixels: int) -> np.ndarray:
    (height, width), pixels = tiff.read(data)
    _check_size(height, width, max_pixels)
    return _to_rgb(pixels(), max_pixels)


def _opencv_reads(picture: Image.Image) -> bool:
    """Whether OpenCV reads an image as Pillow describes it, at full depth."""
    if picture.format in ("JPEG", "MPO") or picture.mode not in ("L", "RGB", "RGBA"):
        return False
    if isinstance(picture, TiffImageFile):  # it takes any further sample for alpha, and premultiplies by it
        return picture.tag_v2.get(277, 1) == len(picture.getbands()) < 4
    return picture.mode != "L" or "transparency" not in picture.info  # which it ignores in greyscale


def _from_bgr(image: np.ndarray, *, alpha: bool) -> np.ndarray:
    """BGR or BGRA (h, w, 3 or 4) → RGB or RGBA, in the same memory; a fourth channel that is not alpha is left out."""
    if image.shape[2] == 4:
        image = cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA, dst=image)
        return image if alpha else image[..., :3]
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def _decode_jpeg(data: bytes, max_pixels: int) -> np.ndarray | None:
    """None where Pillow should try: CMYK, or errors that a strict decoder reports and others ignore."""
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(height, width, max_pixels)
        return None if space in ("CMYK", "YCCK") else simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:
        return None


def _pillow_array(picture: Image.Image, data: bytes) -> np.ndarray:
    if picture.mode == "L" and "transparency" in picture.info:
        return transparency.grey_on_white(picture, data)
    if picture.mode == "La":
        picture = picture.convert("LA")
    if picture.mode in ("P", "PA", "LA", "RGBa", "RGBA") or "transparency" in picture.info:
        image = np.asarray(picture.convert("RGBA"))
        return image if transparency.declared(picture, data) else image[..., :3]
    return np.asarray(picture.convert("RGB"))


def _to_rgb(image: np.ndarray, max_pixels: int) -> np.ndarray:
    """Grey, RGB or RGBA, uint8 or uint16 → RGB uint8."""
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or image.dtype not in (np.uint8, np.uint16):
        raise DecodeError(f"an array of shape {image.shape} and type {image.dtype} is not an image")
    height, width, channels = image.shape
    _check_size(height, width, max_pixels)
    if image.dtype == np.uint8 and channels < 4:
        return image if channels == 3 else np.repeat(image, 3, axis=2)
    out = np.empty((height, width, 3), np.uint8)
    rows = max(1, _STRIP // width)
    for start in range(0, height, rows):
        out[start : start + rows] = _strip(image[start : start + rows])
    return out


def _strip(image: np.ndarray) -> np.ndarray:
    """Some rows: 16 bits become 8, and alpha is composited on white."""
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.shape[2] < 4:
        return image  # grey is broadcast
    alpha = image[..., 3:].astype(np.uint32)
    return ((image[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height < 1 or width < 1:
        raise DecodeError(f"{height} × {width} pixels")
    if height * width > max_pixels:
        raise DecodeError(f"{height} × {width} pixels are more than data.max_pixels={max_pixels}")


@functools.cache
def _set_up_libraries() -> None:
    """Keeps OpenCV from printing on stderr what an exception reports, and Pillow from having a limit beside `max_pixels`."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    Image.MAX_IMAGE_PIXELS = None
