"""TIFF files that other libraries read wrongly, or not at all."""

import io

import numpy as np
import pytest
import tifffile

from fusionjax.data.image.decode import decode
from fusionjax.data.unreadable import DecodeError
from tests.support import trees

LIMIT = 10_000
PICTURE = trees.picture(1)


def planes(bands: int, dtype=np.uint16, **options) -> bytes:
    fourth = np.full((*PICTURE.shape[:2], bands - 3), 60, np.uint8)
    values = np.concatenate([PICTURE, fourth], -1).astype(dtype) * (257 if dtype == np.uint16 else 1)
    out = io.BytesIO()
    tifffile.imwrite(
        out, np.moveaxis(values, -1, 0), photometric="rgb", planarconfig="separate", metadata=None, **options
    )
    return out.getvalue()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("bands", [3, 4])
def test_planes(dtype, order, bands):
    options = {"extrasamples": ["unspecified"]} if bands == 4 else {}
    np.testing.assert_array_equal(decode(planes(bands, dtype, byteorder=order, **options), LIMIT), PICTURE)


def test_deep_planes_with_alpha_are_one_line():
    with pytest.raises(DecodeError, match="save it with interleaved samples"):
        decode(planes(4, extrasamples=["unassalpha"]), LIMIT)


@pytest.mark.parametrize("compression", ["lzw", "zlib", "zstd"])
def test_compressed_bands(tmp_path, compression):
    from fusionjax.data.multispectral import files

    values = np.random.default_rng(0).random((16, 16, 5)).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", planarconfig="contig",
                     compression=compression, predictor=3)  # fmt: skip
    np.testing.assert_array_equal(files.read(tmp_path / "a.tif", 5), values)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_other_samples_say_what_to_do(dtype):
    out = io.BytesIO()
    tifffile.imwrite(out, np.zeros((8, 8, 3), dtype), photometric="rgb")
    with pytest.raises(
        DecodeError, match="other samples than grey or RGB: save it with 8 or 16 bits, or name its bands"
    ):
        decode(out.getvalue(), LIMIT)
