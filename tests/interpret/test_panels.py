"""Panels by their pixels: colours where the map says, on the original image."""

import matplotlib
import numpy as np
import pytest

from fusionjax import config
from fusionjax.interpret import geometry, panels
from fusionjax.interpret.panels import Panel, Picture


def picture(h=300, w=500):
    data = config.default().data
    data.resize, data.image_size = 256, 224
    return Picture("a.png", np.full((h, w, 3), 200, np.uint8), geometry.of(data, h, w))


def square():
    return Picture("a.png", np.full((224, 224, 3), 200, np.uint8), geometry.whole((224, 224), (224, 224)))


def planted(row, column, grid=(14, 14)):
    values = np.full(grid, 0.1)
    values[row, column] = 5.0
    return values


def test_the_largest_weight_is_brightest_in_its_corner_and_what_the_crop_left_out_is_faded():
    one = picture()
    drawn = Panel("map", "map", "share", planted(0, 13), (14, 14)).drawn(one).astype(float)
    assert drawn.shape == (300, 500, 3)
    bright = np.array(matplotlib.colormaps[panels.SHARE](1.0)[:3])
    closeness = -abs(drawn / 255 - bright).sum(-1)
    at = np.unravel_index(closeness.argmax(), closeness.shape)
    assert 18 < at[0] < 38 and 362 <= at[1] < 382
    outside = drawn[:, :117]
    assert np.ptp(outside) == 0 and outside.min() > 240, "faded to almost white, without a colour"
    assert one.cropped and picture(300, 300).cropped is not False


def test_the_range_is_in_multiples_of_uniform_attention():
    values = planted(3, 4)
    low, high = Panel("", "m", "share", values, (14, 14)).range()
    assert (low, high) == pytest.approx((0.1 / values.mean(), 5 / values.mean()))
    uniform = Panel("", "m", "share", np.full((2, 2), 0.25), (2, 2))
    assert uniform.range() == (0.95, 1.05)
    almost = Panel("", "m", "share", np.array([[0.25, 0.2501], [0.2499, 0.25]]), (2, 2)).drawn(square())
    assert np.ptp(almost.astype(int), axis=(0, 1)).max() < 8, "all but uniform looks uniform"
    difference = Panel("", "d", "difference", np.array([[0.1, -0.3], [0.1, 0.1]]), (2, 2))
    assert difference.range() == pytest.approx((-1.2, 1.2))
    zero = Panel("", "m", "share", np.zeros((2, 2)), (2, 2))
    assert zero.range() == (0.0, 1.05) and np.isfinite(zero.drawn(picture())).all()


def test_zero_of_a_difference_is_white():
    drawn = Panel("", "d", "difference", np.array([[0.0, 0.0], [0.0, 1.0]]), (2, 2)).drawn(square())
    corner, other = drawn[10, 10].astype(int), drawn[-10, -10].astype(int)
    assert np.ptp(corner) < 12 and other[0] > other[2] + 60, "grey at zero, orange above"


def test_selected_patches_keep_their_colours():
    one = square()
    one.original[...] = (200, 30, 30)
    drawn = Panel("", "s", "patches", np.array([0, 195]), (14, 14)).drawn(one)
    assert (drawn[5, 5] == (200, 30, 30)).all() and (drawn[-5, -5] == (200, 30, 30)).all()
    assert np.ptp(drawn[100, 100]) == 0 and drawn[100, 100, 0] < 60


def test_values_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"map: values \(3, 3\) are not \(2, 2\)"):
        Panel("", "map", "share", np.ones((3, 3)), (2, 2))
    with pytest.raises(ValueError, match="map: values that are not finite"):
        Panel("", "map", "share", np.array([[np.nan, 1], [1, 1]]), (2, 2))


def test_a_large_picture_is_drawn_smaller_with_the_same_placement():
    small = picture().at_most(250)
    assert small.original.shape == (150, 250, 3) and small.placement.size == (150, 250)
    assert small.placement.columns.seen == pytest.approx((59.4, 190.6), abs=0.3)
    assert picture().at_most(1000).original.shape == (300, 500, 3)
