"""The placement of a network's input, against marked images that go through the real preprocessing."""

import numpy as np
import pytest

from fusionjax import config
from fusionjax.data.image import transforms
from fusionjax.interpret import geometry
from fusionjax.interpret.geometry import Cells

SETTINGS = {
    "crop": ({"resize": 256, "image_size": 224}, (300, 500)),
    "portrait": ({"resize": 96, "image_size": 64}, (500, 300)),
    "enlarged": ({"resize": 96, "image_size": 64}, (20, 30)),
    "odd sides": ({"resize": 75, "image_size": 64}, (211, 333)),
    "squash": ({"resize": 72, "image_size": 64, "resize_mode": "squash"}, (120, 200)),
    "rectangle": ({"image_shape": (64, 32)}, (150, 70)),
    "padded": ({"resize": 40, "image_size": 64}, (120, 90)),
    "very long": ({"resize": 32, "image_size": 32}, (10, 900)),
}


def data(**fields):
    c = config.default().data
    c.update(fields)
    return c


def gradient(h, w):
    """An image whose two channels are the positions of its pixels: what a transform does with it shows where it looked."""
    rows, columns = np.meshgrid(np.arange(h) + 0.5, np.arange(w) + 0.5, indexing="ij")
    return np.stack([rows, columns], -1).astype(np.float32)


@pytest.mark.parametrize("name", SETTINGS)
def test_positions_are_those_of_the_real_preprocessing(name):
    fields, (h, w) = SETTINGS[name]
    c = data(modalities=("a", "b"), channels=(1, 1), **fields)  # any number of channels, edges repeated
    made = transforms.eval_transform(c)(gradient(h, w))
    place = geometry.of(c, h, w)
    assert place.size == (h, w) and made.shape[:2] == (place.rows.network, place.columns.network)
    for axis, found in (
        (place.rows, made[:, made.shape[1] // 2, 0]),
        (place.columns, made[made.shape[0] // 2, :, 1]),
    ):
        expected = np.array([axis.to_original(i + 0.5) for i in range(axis.network)])
        inside = (expected > 2 / axis.scale) & (expected < axis.original - 2 / axis.scale)
        inside &= (expected > 2) & (expected < axis.original - 2)  # filters are cut off at the edges
        assert inside.sum() > 5
        error = (found - expected)[
            inside
        ]  # a filter of a few discrete taps is off by up to a tenth, either way
        assert abs(error).max() < 0.12 * max(1, 1 / axis.scale) and abs(error.mean()) < 0.01


def test_what_a_patch_of_the_corner_sees_lights_up_that_corner():
    """300 × 500 through resize and crop: white pixels in a corner of the crop, found again by a map of the input."""
    c, (h, w) = data(resize=256, image_size=224), (300, 500)
    place = geometry.of(c, h, w)
    (top, _), (left, right) = place.rows.seen, place.columns.seen
    assert left == pytest.approx(118.75, abs=0.5) and right == pytest.approx(381.25, abs=0.5)
    image = np.zeros((h, w, 3), np.uint8)
    planted = np.zeros((h, w), bool)
    planted[round(top) : round(top) + 19, round(right) - 19 : round(right)] = (
        True  # one patch of 16 network pixels
    )
    image[planted] = 255
    seen = transforms.eval_transform(c)(image)[..., 0]
    patches = seen.reshape(14, 16, 14, 16).mean((1, 3))
    assert np.unravel_index(patches.argmax(), patches.shape) == (0, 13)
    shown = place.spread(patches, smooth=False)
    assert shown.shape == (h, w) and np.isnan(shown[:, :118]).all() and np.isnan(shown[:, 383:]).all()
    bright = np.nan_to_num(shown) > 128
    assert (bright & planted).sum() > 0.85 * planted.sum() and (
        bright & ~planted
    ).sum() < 0.15 * planted.sum()
    smooth = np.nan_to_num(place.spread(patches), nan=-1)
    assert planted[np.unravel_index(smooth.argmax(), smooth.shape)]
    box = place.box(13, place.even((14, 14)))
    np.testing.assert_allclose(box, (top, right - 18.75, top + 18.75, right), atol=0.1)
    assert place.patch_at(top + 9, right - 9, place.even((14, 14))) == 13
    assert place.patch_at(150, 50, place.even((14, 14))) is None


def test_the_original_may_be_drawn_at_another_size():
    place = geometry.of(data(resize=256, image_size=224), 300, 500)
    small = place.shown_at((150, 250))
    assert small.size == (150, 250)
    np.testing.assert_allclose(np.array(small.columns.seen) * 2, place.columns.seen)
    map = np.random.default_rng(0).random((4, 4))
    assert np.nanmax(abs(small.spread(map) - place.spread(map)[::2, ::2])) < 0.05


def test_patches_that_overlap_lie_where_their_convolution_looks():
    """Patch 16, stride 12 on 64 pixels: centres at 8, 20, 32, 44 and 56, not at a fifth of 64 each."""
    cells = Cells(5, 8, 12)
    place = geometry.whole((64, 64), (64, 64))
    map = np.zeros((5, 5))
    map[1, 3] = 1
    shown = place.spread(map, (cells, cells))
    peak = np.argwhere(shown > 0.9 * shown.max()).mean(0) + 0.5
    np.testing.assert_allclose(peak, (20, 44), atol=0.6)
    assert cells.at(np.array([0.0, 13.9, 14.1, 63.0])).tolist() == [0, 0, 1, 4]


def test_a_map_of_several_channels_and_a_single_patch():
    place = geometry.whole((6, 8), (4, 4))
    colours = place.spread(np.arange(12.0).reshape(2, 2, 3))
    assert colours.shape == (6, 8, 3)
    np.testing.assert_allclose(colours[0, 0], [0, 1, 2])
    np.testing.assert_allclose(place.spread(np.full((1, 1), 5.0)), 5.0)
