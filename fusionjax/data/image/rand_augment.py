"""RandAugment: a few random operations on an image, all of about the same strength.

Cubuk et al., NeurIPS 2020, arXiv 1909.13719, in the form that DeiT and CrossViT train with (timm's
`rand-m9-mstd0.5-inc1`): every operation is applied with probability ½, its magnitude is drawn around `magnitude`, and
more magnitude always means more change. Pillow does the work.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

Op = Callable[[Image.Image, float, Sequence[int]], Image.Image]

MAX = 10.0
"""The maximum magnitude."""
_APPLY = 0.5


def rand_augment(
    image: np.ndarray,
    rng: np.random.Generator,
    colour: Sequence[int],
    *,
    operations: int = 2,
    magnitude: float = 9.0,
    deviation: float = 0.5,
) -> np.ndarray:
    """Applies operations of `OPERATIONS`, drawn with replacement, one after another.

    Args:
        image: uint8 RGB (h, w, 3).
        rng: the source of all randomness.
        colour: RGB, fills the area that a geometric operation leaves empty.
        operations: number of operations drawn; each is then applied with probability ½.
        magnitude: mean strength, 0 … 10.
        deviation: standard deviation of the normal distribution of the magnitude, which is clipped to 0 … 10.

    Returns:
        uint8 (h, w, 3).
    """
    picture = Image.fromarray(image)
    names = list(OPERATIONS)
    for k in rng.integers(len(names), size=operations):
        if rng.uniform() > _APPLY:
            continue
        level = float(np.clip(rng.normal(magnitude, deviation), 0, MAX)) / MAX
        sign = -1.0 if rng.uniform() < 0.5 else 1.0
        picture = apply(picture, names[k], level, sign, colour)
    return np.asarray(picture)


def apply(picture: Image.Image, name: str, level: float, sign: float, colour: Sequence[int]) -> Image.Image:
    """Applies one operation.

    Args:
        picture: RGB image.
        name: a key of `OPERATIONS`.
        level: strength, 0 … 1.
        sign: −1 or 1, the direction of operations that have two.
        colour: as for `rand_augment`.

    Returns:
        RGB image of the same size.
    """
    strength, op = OPERATIONS[name]
    return op(picture, strength(level, sign), colour)


def _affine(matrix: Callable[[float, Image.Image], tuple[float, ...]]) -> Op:
    def op(picture: Image.Image, amount: float, colour: Sequence[int]) -> Image.Image:
        return picture.transform(
            picture.size,
            Image.Transform.AFFINE,
            matrix(amount, picture),
            resample=Image.Resampling.BICUBIC,
            fillcolor=tuple(colour),
        )

    return op


def _enhance(kind: type) -> Op:
    return lambda picture, amount, _: kind(picture).enhance(amount)


def _rotate(picture: Image.Image, degrees: float, colour: Sequence[int]) -> Image.Image:
    return picture.rotate(degrees, resample=Image.Resampling.BICUBIC, fillcolor=tuple(colour))


def _solarize_add(picture: Image.Image, amount: float, _: Sequence[int]) -> Image.Image:
    table = [min(255, value + int(amount)) if value < 128 else value for value in range(256)]
    return picture.point(table * 3)


def _none(level: float, sign: float) -> float:
    return 0.0


def _factor(level: float, sign: float) -> float:
    """The factor of an enhancement: 1 is no change."""
    return max(0.1, 1 + 0.9 * level * sign)


OPERATIONS: Mapping[str, tuple[Callable[[float, float], float], Op]] = {
    "auto_contrast": (_none, lambda picture, *_: ImageOps.autocontrast(picture)),
    "equalize": (_none, lambda picture, *_: ImageOps.equalize(picture)),
    "invert": (_none, lambda picture, *_: ImageOps.invert(picture)),
    "rotate": (lambda level, sign: 30 * level * sign, _rotate),
    # One bit remains at the highest level: Pillow refuses 0 bits, with which timm's operation would give black.
    "posterize": (
        lambda level, _: max(1, 4 - int(4 * level)),
        lambda picture, bits, _: ImageOps.posterize(picture, int(bits)),
    ),
    "solarize": (
        lambda level, _: 256 - min(256, int(256 * level)),
        lambda picture, threshold, _: ImageOps.solarize(picture, int(threshold)),
    ),
    "solarize_add": (lambda level, _: min(128, int(110 * level)), _solarize_add),
    "color": (_factor, _enhance(ImageEnhance.Color)),
    "contrast": (_factor, _enhance(ImageEnhance.Contrast)),
    "brightness": (_factor, _enhance(ImageEnhance.Brightness)),
    "sharpness": (_factor, _enhance(ImageEnhance.Sharpness)),
    "shear_x": (lambda level, sign: 0.3 * level * sign, _affine(lambda a, _: (1, a, 0, 0, 1, 0))),
    "shear_y": (lambda level, sign: 0.3 * level * sign, _affine(lambda a, _: (1, 0, 0, a, 1, 0))),
    "translate_x": (
        lambda level, sign: 0.45 * level * sign,
        _affine(lambda a, picture: (1, 0, a * picture.width, 0, 1, 0)),
    ),
    "translate_y": (
        lambda level, sign: 0.45 * level * sign,
        _affine(lambda a, picture: (1, 0, 0, 0, 1, a * picture.height)),
    ),
}
"""Name → ((level 0 … 1, sign) → amount in the unit of the operation, the operation)."""
