"""Transforms: sizes, types, determinism, and the distributions that they promise."""

import numpy as np
import pytest
from PIL import Image

from fusionjax import config
from fusionjax.data.image import transforms as t
from tests.support import trees

PICTURE = trees.picture(3, 60, 90)
GREY = (128, 128, 128)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def settings(**fields):
    data = config.default().data
    data.resize, data.image_size = 40, 32
    for key, value in fields.items():
        if key in data.augment:
            data.augment[key] = value
        else:
            data[key] = value
    return data


def test_resize_shorter_keeps_the_aspect():
    assert t.resize_shorter(PICTURE, 30).shape == (30, 45, 3)
    assert t.resize_shorter(PICTURE.transpose(1, 0, 2), 30).shape == (45, 30, 3)
    assert t.resize_shorter(PICTURE, 120, interpolation="bicubic").shape == (120, 180, 3)
    assert t.resize_shorter(PICTURE, 60) is PICTURE


def test_resize_of_an_endless_strip_stays_small():
    assert t.resize_shorter(np.zeros((1, 100_000, 3), np.uint8), 32).shape == (32, 2048, 3)


def test_shrinking_averages():
    checker = np.indices((64, 64)).sum(0) % 2 * 255
    out = t.resize(np.repeat(checker[..., None], 3, 2).astype(np.uint8), 16, 16)
    assert out.min() >= 126 and out.max() <= 129


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(30, 45), (25, 25), (7, 9), (59, 90), (20, 120), (2, 3)])
def test_shrinking_is_pillows_resize_by_the_configured_filter(interpolation, size):
    filter_ = Image.Resampling[interpolation.upper()]
    want = np.asarray(Image.fromarray(PICTURE).resize(size[::-1], filter_)).astype(int)
    got = t.resize(PICTURE, *size, interpolation=interpolation)
    # Large factors go in two steps, each rounded to 8 bits.
    assert got.dtype == np.uint8 and np.abs(got - want).max() <= (2 if size == (2, 3) else 1)


def test_the_filters_differ_when_shrinking_too():
    noise = rng().integers(0, 256, (64, 64, 3), np.uint8)
    made = [t.resize(noise, 48, 40, interpolation=name).astype(int) for name in ("bilinear", "bicubic")]
    assert np.abs(made[0] - made[1]).max() > 20


@pytest.mark.parametrize(("dtype", "top"), [(np.uint16, 60_000), (np.float32, 3.0)])
def test_other_types_shrink_by_the_same_filter(dtype, top):
    picture = PICTURE[..., :2]
    image = (picture * (top / 255)).astype(dtype)
    for name in ("bilinear", "bicubic"):
        got = t.resize(image, 30, 41, interpolation=name)
        want = t.resize(picture, 30, 41, interpolation=name)
        assert got.dtype == dtype and got.shape == (30, 41, 2)
        assert np.abs(got / (top / 255) - want).max() < 1.5


def test_centre_crop_and_padding():
    image = np.zeros((10, 20, 3), np.uint8)
    image[:, 5:15] = 255
    assert t.centre_crop(image, 10, GREY).min() == 255
    padded = t.centre_crop(image, 14, GREY)
    assert padded.shape == (14, 14, 3) and (padded[:2] == 128).all() and (padded[12:] == 128).all()
    assert t.pad(image, 3, GREY).shape == (16, 26, 3)


def test_random_crop_is_a_window_and_reaches_every_place():
    image = np.arange(8 * 9 * 3, dtype=np.uint8).reshape(8, 9, 3)
    seen = set()
    r = rng()
    for _ in range(300):
        out = t.random_crop(image, 7, r, GREY)
        top, left = divmod(int(out[0, 0, 0]) // 3, 9)
        np.testing.assert_array_equal(out, image[top : top + 7, left : left + 7])
        seen.add((top, left))
    assert len(seen) == 6


def test_random_window_has_the_area_and_aspect_asked_for():
    r = rng()
    windows = [t.random_window(300, 400, r, (0.2, 0.6), (0.75, 4 / 3)) for _ in range(400)]
    for top, left, h, w in windows:
        assert top >= 0 and left >= 0 and top + h <= 300 and left + w <= 400
        assert 0.195 < h * w / 120_000 < 0.605 and 0.74 < w / h < 1.35
    areas = np.array([h * w for *_, h, w in windows]) / 120_000
    assert abs(areas.mean() - 0.4) < 0.02


def test_random_window_that_never_fits_is_the_largest_in_the_middle():
    assert t.random_window(10, 1000, rng(), (0.9, 1.0), (0.75, 4 / 3)) == (0, 493, 10, 13)
    assert t.random_window(1000, 10, rng(), (0.9, 1.0), (0.75, 4 / 3)) == (493, 0, 13, 10)


def test_flip_and_rotate():
    np.testing.assert_array_equal(t.flip(t.flip(PICTURE)), PICTURE)
    np.testing.assert_array_equal(t.rotate(PICTURE, 0, GREY), PICTURE)
    square = trees.picture(4, 33, 33)
    assert np.abs(t.rotate(square, 90, GREY).astype(int) - np.rot90(square)).max() <= 1
    assert (t.rotate(square, 45, GREY)[0, 0] == 128).all()


def test_jitter():
    np.testing.assert_array_equal(t.jitter(PICTURE, 0.0, rng()), PICTURE)
    flat = np.full((4, 4, 3), 100, np.uint8)
    values = [t.jitter(flat, 0.4, rng(s))[0, 0, 0] for s in range(200)]
    assert min(values) >= 59 and max(values) <= 141 and max(values) - min(values) > 70


def test_erase_fills_one_rectangle_and_leaves_the_original():
    before = PICTURE.copy()
    out = t.erase(PICTURE, rng(), (1, 2, 3))
    np.testing.assert_array_equal(PICTURE, before)
    erased = (out == (1, 2, 3)).all(-1)
    rows, columns = np.flatnonzero(erased.any(1)), np.flatnonzero(erased.any(0))
    assert erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    assert 0.01 < erased.mean() < 0.34


@pytest.mark.parametrize("crop", ["random", "random_resized", "none"])
@pytest.mark.parametrize("shape", [(60, 90), (20, 20), (200, 17), (1, 1)])
def test_train_transform(crop, shape):
    data = settings(crop=crop, pad=2, rotate=20.0, jitter=0.3, erase=0.5)
    transform, image = t.train_transform(data), trees.picture(5, *shape)
    before = image.copy()
    a, b, c = (transform(image, rng(s)) for s in (0, 0, 1))
    assert a.shape == (32, 32, 3) and a.dtype == np.uint8 and a.flags.c_contiguous
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(image, before)
    assert shape == (1, 1) or not np.array_equal(a, c)


def test_train_transform_without_augmentation_is_the_eval_transform():
    for mode in ("shorter", "squash"):
        data = settings(crop="none", flip=0.0, resize_mode=mode)
        np.testing.assert_array_equal(
            t.train_transform(data)(PICTURE, rng()), t.eval_transform(data)(PICTURE)
        )


def test_eval_transform():
    middle = t.eval_transform(settings())(PICTURE)
    np.testing.assert_array_equal(middle, t.resize(PICTURE, 40, 60)[4:36, 14:46])
    squashed = t.eval_transform(settings(resize_mode="squash", resize=32))(PICTURE)
    np.testing.assert_array_equal(squashed, t.resize(PICTURE, 32, 32))
    larger = t.eval_transform(settings(resize=20))(PICTURE)
    assert larger.shape == (32, 32, 3) and (larger[0] == t.mean_colour(settings())).all()
