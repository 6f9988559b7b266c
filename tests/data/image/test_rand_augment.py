"""RandAugment: deterministic, strengths that mean something, shapes that stay."""

import numpy as np
import pytest
from PIL import Image

from fusionjax import config
from fusionjax.data.image import rand_augment as ra
from fusionjax.data.image import transforms
from tests.support import trees

PICTURE = trees.picture(3, 40, 56)
COLOUR = (124, 116, 104)


def moved(name, level, sign=1.0):
    out = np.asarray(ra.apply(Image.fromarray(PICTURE), name, level, sign, COLOUR))
    assert out.shape == PICTURE.shape and out.dtype == np.uint8
    return float(np.abs(out.astype(float) - PICTURE).mean())


def test_same_generator_same_image_and_the_input_stays():
    before = PICTURE.copy()
    seen = []
    for seed in range(12):
        a, b = (ra.rand_augment(PICTURE, np.random.default_rng(seed), COLOUR) for _ in range(2))
        assert a.shape == PICTURE.shape and a.dtype == np.uint8 and np.array_equal(a, b)
        seen.append(a.tobytes())
    assert np.array_equal(before, PICTURE)
    assert len(set(seen)) >= 6


@pytest.mark.parametrize(
    "name", [n for n in ra.OPERATIONS if n not in ("auto_contrast", "equalize", "invert", "posterize")]
)
def test_level_zero_is_the_identity_and_more_is_more(name):
    assert moved(name, 0.0) == 0
    for sign in (-1.0, 1.0):
        assert 0 <= moved(name, 0.1, sign) < moved(name, 1.0, sign)


def test_operations_without_a_strength():
    assert moved("invert", 0.3) == moved("invert", 0.9) > 1
    assert moved("posterize", 0.0) < moved("posterize", 0.9)
    flat = Image.fromarray(np.full_like(PICTURE, 90))
    for name in ("equalize", "auto_contrast"):
        assert np.array_equal(np.asarray(ra.apply(flat, name, 1.0, 1.0, COLOUR)), np.asarray(flat))


def test_uncovered_corners_take_the_colour():
    out = np.asarray(ra.apply(Image.fromarray(PICTURE), "translate_x", 1.0, 1.0, COLOUR))
    assert (out[:, -5:] == COLOUR).all() and not (out[:, :5] == COLOUR).all()


def test_no_operations_change_nothing():
    assert np.array_equal(ra.rand_augment(PICTURE, np.random.default_rng(0), COLOUR, operations=0), PICTURE)


def test_train_transform_uses_it_and_erases_with_noise():
    data = config.default().data
    with data.unlocked():
        data.resize = data.image_size = 32
        data.augment.crop, data.augment.flip = "none", 0.0
    plain = transforms.train_transform(data)(PICTURE, np.random.default_rng(0))
    data.augment.rand_operations = 3
    changed = [transforms.train_transform(data)(PICTURE, np.random.default_rng(s)) for s in range(4)]
    assert any(not np.array_equal(plain, c) for c in changed)
    data.augment.rand_operations, data.augment.erase, data.augment.erase_fill = 0, 1.0, "noise"
    erased = transforms.train_transform(data)(PICTURE, np.random.default_rng(0))
    hole = erased[(erased != plain).any(-1)]
    assert len(hole) > 8 and len(np.unique(hole)) > 8, "noise, not one colour"
