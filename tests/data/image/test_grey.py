"""Greyscale of more than 8 bits: black and white follow from the file's type and tags, never from the image's own values."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from fusionjax.data.image.decode import decode
from fusionjax.data.unreadable import DecodeError

LIMIT = 10_000
GREY = np.random.default_rng(0).integers(2, 180, (12, 16)).astype(np.uint8)


def tiff(values: np.ndarray, **options) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, values, metadata=None, **{"photometric": "minisblack"} | options)
    return out.getvalue()


def grey(data: bytes, *value_range) -> np.ndarray:
    out = decode(data, LIMIT, *value_range)
    assert out.shape == (*GREY.shape, 3) and out.dtype == np.uint8
    return out[..., 0]


def test_floating_point_is_0_to_1_or_what_is_said_or_refused():
    shares, whole = tiff((GREY / 255).astype(np.float32)), tiff(GREY.astype(np.float32))
    np.testing.assert_array_equal(grey(shares), GREY)
    with pytest.raises(
        DecodeError, match=r"grey values are 2 to 179, not 0 to 1: set config.data.value_range"
    ):
        decode(whole, LIMIT)
    np.testing.assert_array_equal(grey(whole, (0.0, 255.0)), GREY)
    np.testing.assert_array_equal(grey(tiff(GREY * np.float32(100)), (0, 25_500)), GREY)
    assert set(np.unique(grey(whole, (50, 51)))) == {0, 255}  # a range that was asked for clips


def test_the_declared_range_of_a_file_is_used():
    declared = [(340, "f", 1, 0.0, True), (341, "f", 1, 255.0, True)]
    np.testing.assert_array_equal(grey(tiff(GREY.astype(np.float32), extratags=declared)), GREY)
    declared = [(340, "i", 1, 0, True), (341, "i", 1, 65_535, True)]
    np.testing.assert_array_equal(grey(tiff(GREY.astype(np.int32) * 257, extratags=declared)), GREY)


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int16])
def test_types_without_a_usual_range_need_one(dtype):
    data = tiff(GREY.astype(dtype))
    with pytest.raises(DecodeError, match="2 to 179, and their type has no range"):
        decode(data, LIMIT)
    np.testing.assert_array_equal(grey(data, (0, 255)), GREY)


def test_unsigned_32_bits_are_not_negative():
    np.testing.assert_array_equal(grey(tiff(GREY * np.uint32(2**24)), (0, 255 * 2**24)), GREY)


def test_dark_pictures_of_16_bits_stay_dark():
    np.testing.assert_array_equal(grey(tiff(GREY.astype(np.uint16) * 257)), GREY)
    assert grey(tiff(GREY.astype(np.uint16))).max() == 1
    out = io.BytesIO()
    Image.fromarray(GREY.astype(np.uint16)).save(out, "PNG")
    assert grey(out.getvalue()).max() == 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_white_may_be_zero(dtype):
    top = 1 if dtype is np.float32 else np.iinfo(dtype).max
    values = (GREY / 255 * top).astype(dtype)
    inverted = grey(tiff(values, photometric="miniswhite"))
    assert np.abs(inverted.astype(int) + grey(tiff(values)) - 255).max() <= 1


def test_no_data_is_filled_and_nan_is_damage():
    values = (GREY / 255).astype(np.float32)
    holes = values.copy()
    holes[2:5, 3:7] = -10_000
    found = grey(tiff(holes, extratags=[(42113, "s", 0, "-10000", True)])).astype(int)
    whole = np.ones(GREY.shape, bool)
    whole[2:5, 3:7] = False
    np.testing.assert_array_equal(found[whole], GREY[whole])
    assert np.abs(found[~whole] - GREY[whole].mean()).max() <= 1
    with pytest.raises(DecodeError, match="-10000"):
        decode(tiff(holes), LIMIT)
    holes[2, 3] = np.nan
    with pytest.raises(DecodeError, match="not finite"):
        decode(tiff(holes, extratags=[(42113, "s", 0, "-10000", True)]), LIMIT)
    holes[2:5, 3:7] = np.nan
    np.testing.assert_array_equal(grey(tiff(holes, extratags=[(42113, "s", 0, "nan", True)])), found)
