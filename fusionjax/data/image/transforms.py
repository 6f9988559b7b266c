"""Image transforms: pure functions on RGB uint8 (h, w, 3), random ones of a NumPy generator. Resizing, cropping, padding and
flipping take any number of channels and uint16 and float32 too.

Areas that the image does not cover (padding, the corners of a rotation, an erased rectangle) are filled with one colour, the
mean of the data.
"""

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from fusionjax.data.image.rand_augment import rand_augment
from fusionjax.data.multispectral.channels import channel_map

Colour = Sequence[int] | None
"""The fill, one value per channel; None (images that are not RGB) repeats the nearest pixel of the image."""
Size = int | Sequence[int]
"""(rows, columns), or one number for both."""
Range = tuple[float, float]
"""(lowest, highest) value of a uniform distribution."""
Transform = Callable[[np.ndarray], np.ndarray]
"""Image → image."""
RandomTransform = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""(image, generator) → image."""
Fitted = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""(top, left) and (rows, columns) of the part of an image that is resized, and the (rows, columns) that it is resized to."""
_LONGEST = 64
_MOST = 4
_PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_OPENCV = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}


def resize(image: np.ndarray, height: int, width: int, *, interpolation: str = "bilinear") -> np.ndarray:
    """Resizes to (height, width, C) by the named filter, with antialiasing where a side shrinks.

    Args:
        image: (h, w, C) uint8, uint16 or float32.
        height, width: of the result, in pixels.
        interpolation: "bilinear" or "bicubic".

    Returns:
        (height, width, C), of the image's dtype.

    Source: where a side shrinks, Pillow's resize, as timm and torchvision preprocess: the filter's support grows with the
    factor. An image of which no side shrinks goes through OpenCV, whose cubic kernel has A = −0.75 in place of −0.5.
    """
    h, w = image.shape[:2]
    if (h, w) == (height, width):
        return image
    if height < h or width < w:
        return _shrink(image, height, width, _PILLOW[interpolation])
    if image.ndim == 3 and image.shape[2] > _MOST:  # OpenCV refuses them
        parts = [image[..., c : c + _MOST] for c in range(0, image.shape[2], _MOST)]
        parts = [resize(np.ascontiguousarray(p), height, width, interpolation=interpolation) for p in parts]
        return np.concatenate(parts, axis=2)
    made = cv2.resize(image, (width, height), interpolation=_OPENCV[interpolation])
    return made if made.ndim == image.ndim else made[..., None]  # OpenCV drops a single channel's axis


def _shrink(image: np.ndarray, height: int, width: int, resample: Image.Resampling) -> np.ndarray:
    """Pillow's resize of any number of channels: uint8 colours at once, everything else a channel at a time."""

    def once(plane: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(np.ascontiguousarray(plane))
        return np.array(picture.resize((width, height), resample))

    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return once(image)
    planes = image if image.ndim == 3 else image[..., None]
    planes = planes if image.dtype == np.uint8 else planes.astype(np.float32)
    made = np.stack([once(planes[..., c]) for c in range(planes.shape[2])], axis=-1)
    if np.issubdtype(image.dtype, np.integer) and image.dtype != np.uint8:
        limits = np.iinfo(image.dtype)
        made = np.clip(np.rint(made), limits.min, limits.max)
    return made.astype(image.dtype).reshape(height, width, *image.shape[2:])


def resize_shorter(image: np.ndarray, size: int, *, interpolation: str = "bilinear") -> np.ndarray:
    """Resizes the shorter side to `size` and keeps the aspect ratio; the longer side is rounded down as in torchvision.

    An image whose sides differ by more than a factor of 64 is cropped to the centre first: resized as a whole, it could fill
    the memory.

    Args:
        image: (h, w, C).
        size: pixels of the shorter side.
        interpolation: as for `resize`.
    """
    h, w = image.shape[:2]
    (top, left), (rows, columns), (height, width) = _shorter(h, w, size)
    if (rows, columns) != (h, w):
        image = image[top : top + rows, left : left + columns]
    return resize(image, height, width, interpolation=interpolation)


def _shorter(h: int, w: int, size: int) -> "Fitted":
    """What `resize_shorter` does to an image of h × w pixels."""
    longest = _LONGEST * min(h, w)
    top, left = max(0, h - longest) // 2, max(0, w - longest) // 2
    h, w = min(h, longest), min(w, longest)
    if h <= w:
        return (top, left), (h, w), (size, max(size, int(size * w / h)))
    return (top, left), (h, w), (max(size, int(size * h / w)), size)


def pad(image: np.ndarray, pixels: int, colour: Colour) -> np.ndarray:
    """Adds a border of `pixels` on every side: (h, w, C) → (h + 2·pixels, w + 2·pixels, C)."""
    return _border(image, pixels, pixels, pixels, pixels, colour) if pixels else image


def pad_to(image: np.ndarray, size: Size, colour: Colour) -> np.ndarray:
    """Pads the image on all sides to at least `size`; the image is centred."""
    (h, w), (rows, columns) = image.shape[:2], _sides(size)
    down, right = max(0, rows - h), max(0, columns - w)
    if not down and not right:
        return image
    return _border(image, down // 2, down - down // 2, right // 2, right - right // 2, colour)


def centre_crop(image: np.ndarray, size: Size, colour: Colour) -> np.ndarray:
    """The centre crop of `size`; a smaller image is padded."""
    image, (rows, columns) = pad_to(image, size, colour), _sides(size)
    top, left = (image.shape[0] - rows) // 2, (image.shape[1] - columns) // 2
    return image[top : top + rows, left : left + columns]


def random_crop(image: np.ndarray, size: Size, rng: np.random.Generator, colour: Colour) -> np.ndarray:
    """A crop of `size` at a uniformly random position; a smaller image is padded."""
    image, (rows, columns) = pad_to(image, size, colour), _sides(size)
    top = int(rng.integers(image.shape[0] - rows + 1))
    left = int(rng.integers(image.shape[1] - columns + 1))
    return image[top : top + rows, left : left + columns]


def random_window(
    height: int, width: int, rng: np.random.Generator, scale: Range, ratio: Range
) -> tuple[int, int, int, int]:
    """The window of torchvision's RandomResizedCrop.

    The area is uniform in `scale` times that of the image, the aspect ratio width / height log-uniform in `ratio`. After ten
    draws that do not fit, the largest centred window with an allowed aspect ratio is used.

    Args:
        height, width: of the image, in pixels.
        rng: the source of randomness.
        scale: range of the fraction of the area.
        ratio: range of the aspect ratio.

    Returns:
        (top, left, rows, columns), in pixels.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    h, w = height, width
    if width / height < ratio[0]:
        h = min(height, max(1, round(width / ratio[0])))
    elif width / height > ratio[1]:
        w = min(width, max(1, round(height * ratio[1])))
    return (height - h) // 2, (width - w) // 2, h, w


def random_resized_crop(
    image: np.ndarray,
    size: Size,
    rng: np.random.Generator,
    *,
    scale: Range = (0.08, 1.0),
    ratio: Range = (3 / 4, 4 / 3),
    interpolation: str = "bilinear",
) -> np.ndarray:
    """Crops the window of `random_window` and resizes it to `size`."""
    top, left, h, w = random_window(image.shape[0], image.shape[1], rng, scale, ratio)
    return resize(image[top : top + h, left : left + w], *_sides(size), interpolation=interpolation)


def flip(image: np.ndarray) -> np.ndarray:
    """Mirrors the image horizontally."""
    return np.ascontiguousarray(image[:, ::-1])


def rotate(image: np.ndarray, degrees: float, colour: Sequence[int]) -> np.ndarray:
    """Rotates the image about its centre, counter-clockwise; the size does not change.

    Args:
        image: uint8 (h, w, 3).
        degrees: angle.
        colour: RGB, fills the corners.
    """
    h, w = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), degrees, 1.0)
    return cv2.warpAffine(image, matrix, (w, h), borderMode=cv2.BORDER_CONSTANT, borderValue=tuple(colour))


def jitter(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Changes brightness, contrast and saturation, in random order.

    Args:
        image: uint8 RGB (h, w, 3).
        strength: each factor is uniform in 1 − strength … 1 + strength.
        rng: the source of randomness.
    """
    x = image.astype(np.float32)
    factors = rng.uniform(1 - strength, 1 + strength, 3).astype(np.float32)
    for kind in rng.permutation(3):
        if kind == 0:
            x = x * factors[0]
        else:
            grey = x @ np.asarray([0.299, 0.587, 0.114], np.float32)
            anchor = grey.mean() if kind == 1 else grey[..., None]
            x = anchor + factors[kind] * (x - anchor)
        x = np.clip(x, 0, 255)
    return (x + 0.5).astype(np.uint8)


def erase(
    image: np.ndarray,
    rng: np.random.Generator,
    colour: Colour,
    *,
    scale: Range = (0.02, 0.33),
    ratio: Range = (0.3, 3.3),
    deviation: Sequence[float] | None = None,
) -> np.ndarray:
    """Random erasing: fills one random rectangle (Zhong et al., arXiv 1708.04896, with the ranges of torchvision).

    Args:
        image: uint8 (h, w, 3).
        rng: the source of position, size and noise.
        colour: the fill.
        scale, ratio: ranges of the fraction of the area and of the aspect ratio of the rectangle.
        deviation: standard deviation per channel of normal noise around `colour`, clipped to 0 … 255 (timm's mode "pixel");
            None for a plain fill.
    """
    height, width = image.shape[:2]
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < h < height and 0 < w < width:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            image = image.copy()
            fill = np.asarray(colour)
            if deviation is not None:
                fill = np.clip(rng.normal(fill, deviation, (h, w, 3)), 0, 255)
            image[top : top + h, left : left + w] = fill
            break
    return image


def train_transform(data: ConfigDict) -> RandomTransform:
    """The training transform of `config.data`: crop, flip and the other augmentations of `data.augment`.

    Returns:
        f(image uint8 (h, w, 3), rng) → uint8 (*image_shape(data), 3), contiguous. The result depends on its arguments only.
    """
    a, size, colour = data.augment, image_shape(data), mean_colour(data)
    crop, angle, border = a.crop, a.rotate, a.pad
    scale, ratio, interpolation = tuple(a.scale), tuple(a.ratio), data.interpolation
    p_flip, p_erase, strength = a.flip, a.erase, a.jitter
    deviation = [255 * s for s in data.std] if a.erase_fill == "noise" else None
    fit = _fit(data)

    def transform(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if crop == "random_resized":
            image = random_resized_crop(
                image, size, rng, scale=scale, ratio=ratio, interpolation=interpolation
            )
        else:
            image = fit(image)
        if angle:
            assert colour is not None  # config validation: for RGB images only
            image = rotate(image, rng.uniform(-angle, angle), colour)
        if crop == "random":
            image = random_crop(pad(image, border, colour), size, rng, colour)
        elif crop == "none":
            image = centre_crop(image, size, colour)
        if rng.uniform() < p_flip:
            image = flip(image)
        if strength:
            image = jitter(image, strength, rng)
        if a.rand_operations:
            assert colour is not None  # as above
            image = rand_augment(image, rng, colour, operations=a.rand_operations, magnitude=a.rand_magnitude)
        if rng.uniform() < p_erase:
            image = erase(image, rng, colour, deviation=deviation)
        return np.ascontiguousarray(image)

    return transform


def eval_transform(data: ConfigDict) -> Transform:
    """The evaluation transform of `config.data`: resize, then centre crop.

    Returns:
        f(image uint8 (h, w, 3)) → uint8 (*image_shape(data), 3), contiguous.
    """
    size, colour, fit = image_shape(data), mean_colour(data), _fit(data)
    return lambda image: np.ascontiguousarray(centre_crop(fit(image), size, colour))


def image_shape(data: ConfigDict) -> tuple[int, int]:
    """(rows, columns) of the images of the model: `data.image_shape`, or a square of `data.image_size`."""
    return tuple(data.image_shape) or (data.image_size, data.image_size)


def channels(data: ConfigDict) -> int:
    """The number of channels C of the images: 3, or that of `data.modalities` and `data.channels`."""
    return channel_map(data.modalities, data.channels).count if data.modalities else 3


def mean_colour(data: ConfigDict) -> tuple[int, int, int] | None:
    """`data.mean` as an RGB pixel, which normalisation maps to zero; None for images that are not RGB."""
    if data.modalities:
        return None
    r, g, b = (int(np.clip(round(255 * m), 0, 255)) for m in data.mean)
    return r, g, b


def picture_of(image: np.ndarray) -> np.ndarray:
    """An image with any number of channels as RGB, for reports.

    One channel is shown as grey, two as red and green, three as red, green and blue; of more, the first three are shown.

    Args:
        image: (h, w, c); uint8 is not changed, other dtypes are scaled from minimum … maximum to 0 … 255.

    Returns:
        (h, w, 3) uint8.
    """
    image = image[..., :3]
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        image = (255 * (image.astype(np.float64) - low) / max(high - low, 1e-12) + 0.5).astype(np.uint8)
    if image.shape[-1] == 1:
        return np.repeat(image, 3, axis=-1)
    if image.shape[-1] == 2:
        return np.concatenate([image, np.zeros_like(image[..., :1])], axis=-1)
    return image


def _sides(size: Size) -> tuple[int, int]:
    rows, columns = (size, size) if isinstance(size, int) else size
    return rows, columns


def _fit(data: ConfigDict) -> Transform:
    size, interpolation = data.resize, data.interpolation
    if data.image_shape:
        return lambda image: resize(image, *data.image_shape, interpolation=interpolation)
    if data.resize_mode == "squash":
        return lambda image: resize(image, size, size, interpolation=interpolation)
    return lambda image: resize_shorter(image, size, interpolation=interpolation)


def fitted(data: ConfigDict, height: int, width: int) -> Fitted:
    """What `eval_transform` resizes of an image of height × width pixels, and to which size, before the centre crop."""
    if data.image_shape:
        return (0, 0), (height, width), image_shape(data)
    if data.resize_mode == "squash":
        return (0, 0), (height, width), (data.resize, data.resize)
    return _shorter(height, width, data.resize)


def _border(image: np.ndarray, top: int, bottom: int, left: int, right: int, colour: Colour) -> np.ndarray:
    if colour is None:
        return np.pad(image, ((top, bottom), (left, right), (0, 0)), mode="edge")
    return cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=tuple(colour))
