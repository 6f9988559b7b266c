"""Augmentation of images with any number of channels, on the device: pure functions of a key, inside the compiled step.

All channels share one geometric transform, so that the modalities stay aligned; then each modality has its own operations.
Every image has its own key, derived from the key and the row of the batch, and so does not depend on the other images.
There are no branches: operations that are not drawn are computed and discarded.
"""

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from fusionjax.errors import UserError
from fusionjax.types import Array

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey value; ITU-R BT.601."""
_TRIES = 10  # crops that are drawn, of which the first that fits is used; as in torchvision


@dataclass(frozen=True)
class Geometry:
    """Geometric operations, shared by all channels: a resized crop, a flip and a rotation, composed into one warp.

    Attributes:
        crop_probability: probability of a crop.
        crop_area: minimum and maximum share of the image's area.
        crop_aspect: minimum and maximum width / height relative to that of the image, drawn log-uniformly.
        flip_probability: probability of a horizontal flip.
        rotation_probability: probability of a rotation.
        degrees: maximum rotation in either direction, drawn uniformly.
    """

    crop_probability: float = 1.0
    crop_area: tuple[float, float] = (0.08, 1.0)
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.5
    rotation_probability: float = 1.0
    degrees: float = 15.0

    def __post_init__(self) -> None:
        _check_probabilities(self, "crop_probability", "flip_probability", "rotation_probability")
        _check_range(self, "crop_area", above=0, most=1)
        _check_range(self, "crop_aspect", above=0)
        if not 0 <= self.degrees <= 180:
            raise UserError(f"Geometry.degrees={self.degrees} must be 0 … 180")


@dataclass(frozen=True)
class Colour:
    """Operations on red, green and blue: jitter, grayscale and blur, in this order; other channels are left alone.

    The four operations of the jitter are applied in a random order, as in SimCLR.

    Attributes:
        channels: indices of red, green and blue.
        jitter_probability: probability of the jitter as a whole.
        brightness, contrast, saturation: x, at most 1; the factor is drawn from 1 − x … 1 + x.
        hue: x, at most 0.5; the shift is drawn from −x … x, in turns of the colour circle.
        grayscale_probability: probability that all three become the grey value.
        blur_probability: probability of Gaussian blur.
        blur_sigma: minimum and maximum standard deviation in pixels.
    """

    channels: tuple[int, int, int] = (0, 1, 2)
    jitter_probability: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    grayscale_probability: float = 0.2
    blur_probability: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        _check_channels(self)
        if len(self.channels) != 3:
            raise UserError(f"Colour.channels={self.channels} must be three: red, green and blue")
        _check_probabilities(self, "jitter_probability", "grayscale_probability", "blur_probability")
        _check_range(self, "blur_sigma")
        for name, most in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0.5)):
            if not 0 <= getattr(self, name) <= most:
                raise UserError(f"Colour.{name}={getattr(self, name)} must be 0 … {most}")


@dataclass(frozen=True)
class Intensity:
    """Operations on bands other than colours, e.g. ultraviolet: sensor noise, then gamma.

    Attributes:
        channels: indices, one or more.
        noise_probability: probability of additive Gaussian noise, drawn for each pixel and channel.
        noise_sigma: standard deviation of the noise.
        gamma_probability: probability that x becomes x^γ, with one γ for all these channels.
        gamma: minimum and maximum γ.
    """

    channels: tuple[int, ...] = (3, 4, 5)
    noise_probability: float = 0.3
    noise_sigma: float = 0.1
    gamma_probability: float = 0.5
    gamma: tuple[float, float] = (0.8, 1.2)

    def __post_init__(self) -> None:
        _check_channels(self)
        _check_probabilities(self, "noise_probability", "gamma_probability")
        _check_range(self, "gamma", above=0)
        if not self.noise_sigma >= 0:
            raise UserError(f"Intensity.noise_sigma={self.noise_sigma} must be at least 0")


@dataclass(frozen=True)
class Spec:
    """Specification for `augment`. Hashable, so that it can be a static argument of `jax.jit`.

    Attributes:
        geometry: operations of all channels.
        modalities: operations of each modality, in order; channels that are in none keep their values.
    """

    geometry: Geometry = field(default_factory=Geometry)
    modalities: tuple[Colour | Intensity, ...] = field(default_factory=lambda: (Colour(), Intensity()))

    def __post_init__(self) -> None:
        object.__setattr__(self, "modalities", tuple(self.modalities))


def augment(key: Array, images: Array, spec: Spec) -> Array:
    """Augments each image: the geometric operations first, then those of each modality.

    The default `Spec` is that of SimCLR (Chen et al., ICML 2020, arXiv 2002.05709, appendix A) with half the jitter
    strength (0.4, 0.4, 0.4, 0.1), a rotation of at most 15°, and noise and gamma for the ultraviolet bands.

    Args:
        key: PRNG key.
        images: (B, h, w, C) float, 0 … 1.
        spec: what to do; static under `jax.jit`.

    Returns:
        (B, h, w, C) float32, 0 … 1.

    Raises:
        UserError: `spec` names a channel that the images do not have.
        ValueError: the images are not (B, h, w, C) float.
    """
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images are {images.dtype} {images.shape}, not float (B, h, w, C) in 0 … 1")
    named = [c for modality in spec.modalities for c in modality.channels]
    if named and max(named) >= images.shape[-1]:
        raise UserError(f"the augmentation names channel {max(named)}, the images have {images.shape[-1]}")
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(len(images)))
    return jax.vmap(lambda k, image: _augment_one(k, image, spec))(keys, images.astype(jnp.float32))


def two_views(key: Array, images: Array, spec: Spec) -> tuple[Array, Array]:
    """Computes two independent augmentations of each image, the positives of NT-Xent.

    Within a view all channels share one geometric transform.

    Args, Raises: as for `augment`.

    Returns:
        Two arrays (B, h, w, C) float32.
    """
    first, second = jax.random.split(key)
    return augment(first, images, spec), augment(second, images, spec)


def draw_warp(key: Array, geometry: Geometry, size: tuple[int, int]) -> Array:
    """Draws a random warp.

    Args:
        key: PRNG key.
        geometry: distribution of the warp.
        size: (h, w) of the image in pixels.

    Returns:
        (2, 3) float32 M: the output pixel at (y, x) **from the centre** is sampled at M · (y, x, 1) in the pixel coordinates
        of the input, where (0, 0) is the centre of the first pixel. The output is rotated, then flipped, then scaled into the
        crop. This equals crop, resize, flip and rotation in sequence, except that a rotation reveals the surroundings of
        the crop.
    """
    height, width = size
    u = jax.random.uniform(key, (2 * _TRIES + 6,))  # all at once, because each call adds code to compile
    tries, (cropped, row, column, flipped, turned, by) = u[: 2 * _TRIES].reshape(2, _TRIES), u[2 * _TRIES :]
    area = _between(tries[0], *geometry.crop_area)
    aspect = jnp.exp(_between(tries[1], *(math.log(bound) for bound in geometry.crop_aspect)))
    shares = jnp.sqrt(jnp.stack([area / aspect, area * aspect], -1))  # of height and width
    chosen = jnp.argmax((shares <= 1).all(-1))  # if none fits, the first, which is cut to the image
    share = jnp.where(cropped < geometry.crop_probability, jnp.minimum(shares[chosen], 1), 1)

    sizes = jnp.asarray([height, width], jnp.float32)
    middle = (sizes - 1) / 2
    shift = (1 - share) * sizes * (jnp.stack([row, column]) - 0.5)
    flip = jnp.where(flipped < geometry.flip_probability, -1.0, 1.0)
    most = math.radians(geometry.degrees)
    angle = jnp.where(turned < geometry.rotation_probability, _between(by, -most, most), 0)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    turn = jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])
    scale = share * jnp.stack([jnp.ones(()), flip])
    return jnp.concatenate([scale[:, None] * turn, (middle + shift)[:, None]], axis=1)


def warp(image: Array, matrix: Array) -> Array:
    """Samples an image bilinearly at the positions given by a matrix; beyond its edges the image is mirrored.

    Black corners in place of mirrored ones would reveal the rotation, which both modalities share, so that pairs could be
    identified by it alone.

    Args:
        image: (h, w, C) float.
        matrix: (2, 3), see `draw_warp`.

    Returns:
        (h, w, C) in the dtype of `image`.
    """
    height, width, channels = image.shape
    y = jnp.arange(height, dtype=jnp.float32)[:, None] - (height - 1) / 2
    x = jnp.arange(width, dtype=jnp.float32)[None] - (width - 1) / 2
    sampled = []
    for row, size in zip(matrix, (height, width), strict=True):
        at = _mirrored(row[0] * y + row[1] * x + row[2], size)
        low = jnp.clip(jnp.floor(at), 0, max(size - 2, 0))
        sampled.append((low.astype(jnp.int32), at - low, min(1, size - 1)))
    (top, down, below), (left, right, beside) = sampled
    pixels = image.reshape(height * width, channels)
    corner = top * width + left
    down, right = down[..., None], right[..., None]
    upper = (1 - right) * pixels[corner] + right * pixels[corner + beside]
    corner = corner + below * width
    lower = (1 - right) * pixels[corner] + right * pixels[corner + beside]
    return (1 - down) * upper + down * lower


def _mirrored(at: Array, size: int) -> Array:
    """Folds coordinates at the outer edges −½ and size − ½, then clips them to the centres of the outermost pixels."""
    folded = jnp.mod(at + 0.5, 2 * size)
    folded = jnp.where(folded > size, 2 * size - folded, folded) - 0.5
    inside = (at >= 0) & (at <= size - 1)
    return jnp.where(inside, at, jnp.clip(folded, 0, size - 1))


def _augment_one(key: Array, image: Array, spec: Spec) -> Array:
    geometry_key, *keys = jax.random.split(key, 1 + len(spec.modalities))
    image = warp(image, draw_warp(geometry_key, spec.geometry, (image.shape[0], image.shape[1])))
    channels = image.shape[-1]
    for key, modality in zip(keys, spec.modalities, strict=True):
        mine = modality.channels
        part = image[..., np.asarray(mine)]
        changed = (
            _colour(key, part, modality) if isinstance(modality, Colour) else _intensity(key, part, modality)
        )
        # Inserted with a gather, because XLA's scatter is slow on the CPU.
        order = [channels + mine.index(c) if c in mine else c for c in range(channels)]
        image = jnp.concatenate([image, changed], axis=-1)[..., np.asarray(order)]
    return image


def _colour(key: Array, x: Array, spec: Colour) -> Array:
    """Applies the colour operations to (h, w, 3)."""
    u = jax.random.uniform(key, (12,))
    x = jnp.where(u[0] < spec.jitter_probability, _jitter(u[4:], x, spec), x)
    x = jnp.where(u[1] < spec.grayscale_probability, _grey(x), x)
    blurred = _blur(x, _between(u[3], *spec.blur_sigma), math.ceil(3 * spec.blur_sigma[1]))
    return jnp.where(u[2] < spec.blur_probability, blurred, x)


def _jitter(u: Array, x: Array, spec: Colour) -> Array:
    """Applies brightness, contrast, saturation and hue in a random order.

    The first three interpolate towards black, the mean grey and the pixel's grey. Hue is the most expensive, so it appears
    once
    in the program, and each of the other three is applied before or after it. `u` are eight numbers, uniform in 0 … 1: four
    for the order, three for the factors, one for the hue.
    """
    order = jnp.argsort(u[:4])  # operation 3 is hue
    turn = jnp.argmax(order == 3)
    others = order[jnp.arange(3) + (jnp.arange(3) >= turn)]
    strength = jnp.asarray([spec.brightness, spec.contrast, spec.saturation], jnp.float32)
    factors = _between(u[4:7], 1 - strength, 1 + strength)

    def pulled(x: Array, place: int, active: Array) -> Array:
        operation = others[place]
        factor = jnp.where(active, factors[operation], 1)
        grey = _grey(x)
        towards = jnp.where(operation == 0, 0, jnp.where(operation == 1, grey.mean(), grey))
        return jnp.clip(factor * x + (1 - factor) * towards, 0, 1)

    for place in range(3):
        x = pulled(x, place, place < turn)
    x = shift_hue(x, _between(u[7], -spec.hue, spec.hue))
    for place in range(3):
        x = pulled(x, place, place >= turn)
    return x


def shift_hue(x: Array, shift: Array) -> Array:
    """Rotates the hue in HSV; saturation and value are unchanged.

    Args:
        x: (..., 3) float RGB, 0 … 1.
        shift: float scalar, in turns of the colour circle.

    Returns:
        (..., 3), 0 … 1.
    """
    red, green, blue = x[..., 0], x[..., 1], x[..., 2]
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    some = jnp.where(chroma > 0, chroma, 1)
    # The channels are compared with each other, not with the value, which may differ in the last bit once compiled.
    hue = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) / some,
        jnp.where(green >= blue, (blue - red) / some + 2, (red - green) / some + 4),
    )
    # Red, green and blue are the value minus the chroma times a trapezoid of the hue, shifted by 120° each.
    place = jnp.mod(jnp.asarray([5.0, 3.0, 1.0]) + (hue + 6 * shift)[..., None], 6)
    trapezoid = jnp.clip(jnp.minimum(place, 4 - place), 0, 1)
    turned = jnp.clip(value[..., None] - chroma[..., None] * trapezoid, 0, 1)
    return jnp.where(shift == 0, x, turned)


def _grey(x: Array) -> Array:
    """(h, w, 3) → (h, w, 1)."""
    return LUMA[0] * x[..., :1] + LUMA[1] * x[..., 1:2] + LUMA[2] * x[..., 2:]


def _blur(x: Array, sigma: Array, radius: int) -> Array:
    """Applies Gaussian blur, with weights truncated at the radius and normalised to sum 1; edge pixels are repeated."""
    # A sum of shifted images, because XLA's depthwise convolution is slow on the CPU.
    taps = jnp.exp(-0.5 * jnp.square(jnp.arange(-radius, radius + 1) / jnp.maximum(sigma, 1e-6)))
    taps = taps / taps.sum()
    for axis in (0, 1):
        size = x.shape[axis]
        padded = jnp.pad(x, [(radius, radius) if a == axis else (0, 0) for a in range(3)], mode="edge")
        # Otherwise XLA fuses the sums of both axes into one whose cost is quadratic in the number of taps.
        padded = jax.lax.optimization_barrier(padded)
        shifted = (
            taps[k] * jax.lax.slice_in_dim(padded, k, k + size, axis=axis) for k in range(2 * radius + 1)
        )
        x = functools.reduce(operator.add, shifted)
    return x


def _intensity(key: Array, x: Array, spec: Intensity) -> Array:
    """Applies noise and gamma to (h, w, c)."""
    key, noise_key = jax.random.split(key)
    u = jax.random.uniform(key, (3,))
    noisy = jnp.clip(x + spec.noise_sigma * jax.random.normal(noise_key, x.shape), 0, 1)
    x = jnp.where(u[0] < spec.noise_probability, noisy, x)
    curved = jnp.power(jnp.clip(x, 0, 1), _between(u[2], *spec.gamma))
    return jnp.where(u[1] < spec.gamma_probability, curved, x)


def _between(u: Array, low: float | Array, high: float | Array) -> Array:
    """Maps numbers that are uniform in 0 … 1 to low … high; exact where the bounds are equal."""
    return low + (high - low) * u


def _check_channels(spec: Colour | Intensity) -> None:
    channels = tuple(spec.channels)
    object.__setattr__(spec, "channels", channels)  # a list would not be hashable
    name = type(spec).__name__
    if not channels or min(channels) < 0 or len(set(channels)) < len(channels):
        raise UserError(f"{name}.channels={channels} must be different numbers, 0 or more, at least one")


def _check_probabilities(spec: object, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(spec, name) <= 1:
            raise UserError(f"{type(spec).__name__}.{name}={getattr(spec, name)} must be 0 … 1")


def _check_range(spec: object, name: str, *, above: float | None = None, most: float = math.inf) -> None:
    values: Sequence[float] = tuple(getattr(spec, name))
    object.__setattr__(spec, name, values)
    where = f"{type(spec).__name__}.{name}={values}"
    if len(values) != 2 or not values[0] <= values[1] <= most:
        raise UserError(f"{where} must be a minimum and a maximum" + f", at most {most}" * (most < math.inf))
    if values[0] < 0 or (above is not None and values[0] <= above):
        raise UserError(
            f"{where} must begin above 0" if above is not None else f"{where} must not be negative"
        )
