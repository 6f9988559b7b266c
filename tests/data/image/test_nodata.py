"""Which values are no data, and what fills them."""

import numpy as np
import pytest

from fusionjax.data.image import nodata
from fusionjax.data.unreadable import DecodeError


@pytest.mark.parametrize(
    ("dtype", "value", "declared"),
    [
        (np.float32, -10_000, "-10000"),
        (np.float32, -10_000, " -10000 \0"),
        (np.float32, np.float32(0.1), "0.1"),
        (np.float32, np.nan, "nan"),
        (np.float32, -np.inf, "-inf"),
        (np.float32, np.finfo(np.float32).min, "-3.4028234663852886e+38"),
        (np.float32, np.finfo(np.float32).min, "-1.7976931348623157e+308"),
        (np.uint16, 65_535, "65535"),
        (np.uint8, 0, "0"),
        (np.int16, -32_768, "-32768.0"),
    ],
)
def test_values_that_are_declared(dtype, value, declared):
    image = np.full((3, 4, 2), 7, dtype)
    image[1, 2, 0] = value
    found = nodata.mask(image, declared)
    assert np.argwhere(found).tolist() == [[1, 2, 0]]


@pytest.mark.parametrize(
    ("dtype", "declared"),
    [(np.float32, None), (np.float32, ""), (np.float32, "none"), (np.uint8, "-9999"), (np.uint8, "nan")],
)
def test_nothing_is_declared_or_nothing_can_be_it(dtype, declared):
    assert nodata.mask(np.full((3, 4, 2), 7, dtype), declared) is None


def test_filling(rng):
    image = rng.integers(0, 200, (5, 6, 3)).astype(np.uint8)
    image[0, 0, 0] = image[2, 3, 0] = image[1, 1, 2] = 255
    hidden = nodata.mask(image, "255")
    for how in ("mean", "17"):
        out = nodata.fill(image, hidden, how)
        assert out.dtype == np.uint8 and (out[~hidden] == image[~hidden]).all()
        for c in (0, 2):
            want = round(image[..., c][~hidden[..., c]].mean()) if how == "mean" else 17
            assert set(out[..., c][hidden[..., c]]) == {want}
    with pytest.raises(DecodeError, match="config.data.nodata='-1' is not possible in uint8"):
        nodata.fill(image, hidden, "-1")
    with pytest.raises(DecodeError, match="channel 0 holds no data at all"):
        nodata.fill(image[:1, :1], hidden[:1, :1], "mean")
    assert nodata.fill(image[:1, :1], hidden[:1, :1], "9")[0, 0, 0] == 9


def test_an_image_counts_once():
    record = nodata.Record()
    assert record.count() == (0, 0.0)
    for index, share in ((0, 0.25), (3, 0.75), (0, 0.25)):
        record.add(index, np.arange(4) < 4 * share)
    assert record.count() == (2, 0.5)
