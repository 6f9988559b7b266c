"""Augmentation of images with any number of channels, on the device: pure functions of a key, inside the compiled step.

One geometry for all channels, so that what two modalities show stays in the same place, then each modality's own operations.
Every image has a key of its own, derived from the batch's key and its row: it does not matter which other images are there.
Nothing branches: what a coin leaves out is computed and not taken.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from fusionjax.errors import UserError
from fusionjax.types import Array

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey value; ITU-R BT.601."""
_TRIES = 10  # crops that are drawn, of which the first that fits is taken; torchvision's number


@dataclass(frozen=True)
class Geometry:
    """What moves pixels: a resized crop, a flip and a rotation, composed into one warp; the same for all channels.

    Attributes:
        crop_probability: of a crop.
        crop_area: least and greatest share of the image's area.
        crop_aspect: least and greatest width / height relative to the image's own, drawn evenly in the logarithm.
        flip_probability: left and right exchanged.
        rotation_probability: of a rotation.
        degrees: greatest rotation, either way; drawn evenly.
    """

    crop_probability: float = 1.0
    crop_area: tuple[float, float] = (0.08, 1.0)
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.5
    rotation_probability: float = 1.0
    degrees: float = 15.0

    def __post_init__(self):
        _check_probabilities(self, "crop_probability", "flip_probability", "rotation_probability")
        _check_range(self, "crop_area", above=0, most=1)
        _check_range(self, "crop_aspect", above=0)
        if not 0 <= self.degrees <= 180:
            raise UserError(f"Geometry.degrees={self.degrees} must be 0 … 180")


@dataclass(frozen=True)
class Colour:
    """Operations on red, green and blue: jitter, grey and blur, in this order; no other channel is read or written.

    The jitter's four operations come in a random order, as in SimCLR.

    Attributes:
        channels: of red, green and blue.
        jitter_probability: of the jitter as a whole.
        brightness, contrast, saturation: the factor is drawn from 1 − x … 1 + x; x at most 1.
        hue: the shift is drawn from −x … x, in turns of the colour circle; at most 0.5.
        grayscale_probability: all three become the grey value.
        blur_probability: Gaussian blur.
        blur_sigma: least and greatest standard deviation, pixels.
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

    def __post_init__(self):
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
    """Operations on bands that are no colours, e.g. ultraviolet: sensor noise, then gamma.

    Attributes:
        channels: any number of them.
        noise_probability: of additive Gaussian noise, drawn for each pixel and channel.
        noise_sigma: its standard deviation.
        gamma_probability: x becomes x^γ, one γ for all these channels.
        gamma: least and greatest γ.
    """

    channels: tuple[int, ...] = (3, 4, 5)
    noise_probability: float = 0.3
    noise_sigma: float = 0.1
    gamma_probability: float = 0.5
    gamma: tuple[float, float] = (0.8, 1.2)

    def __post_init__(self):
        _check_channels(self)
        _check_probabilities(self, "noise_probability", "gamma_probability")
        _check_range(self, "gamma", above=0)
        if not self.noise_sigma >= 0:
            raise UserError(f"Intensity.noise_sigma={self.noise_sigma} must be at least 0")


@dataclass(frozen=True)
class Spec:
    """What `augment` does. Hashable, so that it may be static under `jax.jit`.

    Attributes:
        geometry: of all channels.
        modalities: operations of each modality, one after another; channels that none names keep their values.
    """

    geometry: Geometry = field(default_factory=Geometry)
    modalities: tuple[Colour | Intensity, ...] = field(default_factory=lambda: (Colour(), Intensity()))

    def __post_init__(self):
        object.__setattr__(self, "modalities", tuple(self.modalities))


def augment(key: Array, images: Array, spec: Spec) -> Array:
    """Each image through the geometry, then through its modalities' operations.

    The default `Spec` is that of SimCLR (Chen et al., ICML 2020, arXiv 2002.05709, appendix A) with the jitter of half its
    strength (0.4, 0.4, 0.4, 0.1), a rotation of at most 15°, and noise and gamma for the ultraviolet bands.

    Args:
        key: PRNG key; decides everything.
        images: (B, h, w, C) float32, 0 … 1.
        spec: what to do; static under `jax.jit`.

    Returns:
        (B, h, w, C) float32, 0 … 1.

    Raises:
        UserError: `spec` names a channel that the images lack.
        ValueError: images that are not (B, h, w, C) float.
    """
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images are {images.dtype} {images.shape}, not float (B, h, w, C) in 0 … 1")
    named = [c for modality in spec.modalities for c in modality.channels]
    if named and max(named) >= images.shape[-1]:
        raise UserError(f"the augmentation names channel {max(named)}, the images have {images.shape[-1]}")
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(len(images)))
    return jax.vmap(lambda k, image: _augment_one(k, image, spec))(keys, images.astype(jnp.float32))


def two_views(key: Array, images: Array, spec: Spec) -> tuple[Array, Array]:
    """Two independent augmentations of each image: the positives of NT-Xent. Within a view all channels share one geometry.

    Args, Raises: as for `augment`.

    Returns:
        Two arrays (B, h, w, C) float32.
    """
    first, second = jax.random.split(key)
    return augment(first, images, spec), augment(second, images, spec)


def draw_warp(key: Array, geometry: Geometry, size: tuple[int, int]) -> Array:
    """A random warp.

    Args:
        key: PRNG key.
        geometry: what to draw from.
        size: (h, w) of the image.

    Returns:
        (2, 3) float32 M: the output's pixel at (y, x) **from the centre** comes from M · (y, x, 1) in the input's pixel
        coordinates, where (0, 0) is the centre of the first pixel. The output is turned, then flipped, then scaled into the
        crop: the same as crop, resize, flip and rotation one after another, except that a rotation uncovers what lies beside
        the crop.
    """
    height, width = size
    u = jax.random.uniform(key, (2 * _TRIES + 6,))  # all at once: each call is code to compile
    tries, (cropped, row, column, flipped, turned, by) = u[: 2 * _TRIES].reshape(2, _TRIES), u[2 * _TRIES :]
    area = _between(tries[0], *geometry.crop_area)
    aspect = jnp.exp(_between(tries[1], *(math.log(bound) for bound in geometry.crop_aspect)))
    shares = jnp.sqrt(jnp.stack([area / aspect, area * aspect], -1))  # of height and width
    chosen = jnp.argmax((shares <= 1).all(-1))  # the first where none fits: it is cut to the image
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
    """Bilinear sampling at the places that a matrix names; beyond its edges the image is mirrored.

    Mirrored, because black corners would tell both modalities' encoders the rotation, which is the same for both: a pair
    could be found by it alone.

    Args:
        image: (h, w, C) float.
        matrix: (2, 3), see `draw_warp`.

    Returns:
        (h, w, C) of the image's dtype.
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
    """Coordinates folded at the outer edges −½ and size − ½, then kept between the outermost pixels' centres."""
    folded = jnp.mod(at + 0.5, 2 * size)
    folded = jnp.where(folded > size, 2 * size - folded, folded) - 0.5
    inside = (at >= 0) & (at <= size - 1)
    return jnp.where(inside, at, jnp.clip(folded, 0, size - 1))


def _augment_one(key: Array, image: Array, spec: Spec) -> Array:
    geometry_key, *keys = jax.random.split(key, 1 + len(spec.modalities))
    image = warp(image, draw_warp(geometry_key, spec.geometry, image.shape[:2]))
    channels = image.shape[-1]
    for key, modality in zip(keys, spec.modalities, strict=True):
        mine = modality.channels
        change = _colour if isinstance(modality, Colour) else _intensity
        changed = change(key, image[..., np.asarray(mine)], modality)
        # Put back by a gather: XLA's scatter is slow on the CPU.
        order = [channels + mine.index(c) if c in mine else c for c in range(channels)]
        image = jnp.concatenate([image, changed], axis=-1)[..., np.asarray(order)]
    return image


def _colour(key: Array, x: Array, spec: Colour) -> Array:
    """(h, w, 3) → the same."""
    u = jax.random.uniform(key, (12,))
    x = jnp.where(u[0] < spec.jitter_probability, _jitter(u[4:], x, spec), x)
    x = jnp.where(u[1] < spec.grayscale_probability, _grey(x), x)
    blurred = _blur(x, _between(u[3], *spec.blur_sigma), math.ceil(3 * spec.blur_sigma[1]))
    return jnp.where(u[2] < spec.blur_probability, blurred, x)


def _jitter(u: Array, x: Array, spec: Colour) -> Array:
    """Brightness, contrast and saturation pull towards black, the mean grey and the pixel's grey; hue turns; in any order.

    Hue costs most, so it stands in one place, and each of the other three takes its turn before or after it. `u` are eight
    numbers, even in 0 … 1: four for the order, three for the factors, one for the hue.
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
    """Hue turned in HSV; saturation and value stay.

    Args:
        x: (..., 3) float RGB, 0 … 1.
        shift: scalar, in turns.

    Returns:
        (..., 3), 0 … 1.
    """
    red, green, blue = x[..., 0], x[..., 1], x[..., 2]
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    some = jnp.where(chroma > 0, chroma, 1)
    # The channels are compared with each other, not with the value: compiled, the two may differ in the last bit.
    hue = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) / some,
        jnp.where(green >= blue, (blue - red) / some + 2, (red - green) / some + 4),
    )
    # Red, green and blue are the value less chroma by a trapezoid of the hue, 120° apart.
    place = jnp.mod(jnp.asarray([5.0, 3.0, 1.0]) + (hue + 6 * shift)[..., None], 6)
    trapezoid = jnp.clip(jnp.minimum(place, 4 - place), 0, 1)
    turned = jnp.clip(value[..., None] - chroma[..., None] * trapezoid, 0, 1)
    return jnp.where(shift == 0, x, turned)


def _grey(x: Array) -> Array:
    """(h, w, 3) → (h, w, 1)."""
    return LUMA[0] * x[..., :1] + LUMA[1] * x[..., 1:2] + LUMA[2] * x[..., 2:]


def _blur(x: Array, sigma: Array, radius: int) -> Array:
    """Gaussian, its weights cut at the radius and made to sum to 1; the edge's pixels go on beyond it."""
    # A sum of shifted images: XLA's depthwise convolution is slow on the CPU.
    taps = jnp.exp(-0.5 * jnp.square(jnp.arange(-radius, radius + 1) / jnp.maximum(sigma, 1e-6)))
    taps = taps / taps.sum()
    for axis in (0, 1):
        size = x.shape[axis]
        padded = jnp.pad(x, [(radius, radius) if a == axis else (0, 0) for a in range(3)], mode="edge")
        # Else XLA fuses both axes' sums and what comes before them into one, of the square of the taps.
        padded = jax.lax.optimization_barrier(padded)
        x = sum(taps[k] * jax.lax.slice_in_dim(padded, k, k + size, axis=axis) for k in range(2 * radius + 1))
    return x


def _intensity(key: Array, x: Array, spec: Intensity) -> Array:
    """(h, w, c) → the same."""
    key, noise_key = jax.random.split(key)
    u = jax.random.uniform(key, (3,))
    noisy = jnp.clip(x + spec.noise_sigma * jax.random.normal(noise_key, x.shape), 0, 1)
    x = jnp.where(u[0] < spec.noise_probability, noisy, x)
    curved = jnp.power(jnp.clip(x, 0, 1), _between(u[2], *spec.gamma))
    return jnp.where(u[1] < spec.gamma_probability, curved, x)


def _between(u: Array, low: float | Array, high: float | Array) -> Array:
    """From even in 0 … 1 to even in low … high; exact where they are equal."""
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
        raise UserError(
            f"{where} must be a least and a greatest value" + f", at most {most}" * (most < math.inf)
        )
    if values[0] < 0 or (above is not None and values[0] <= above):
        raise UserError(
            f"{where} must begin above 0" if above is not None else f"{where} must not be negative"
        )
