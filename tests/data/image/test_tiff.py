"""TIFF files that other libraries read wrongly, or not at all."""

import io
import sys

import numpy as np
import pytest
import tifffile

from fusionjax.data.image.decode import decode
from fusionjax.data.unreadable import DecodeError
from fusionjax.errors import UserError
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
@pytest.mark.parametrize("bands", [3, 4, 5])
def test_planes(dtype, order, bands):
    options = {"extrasamples": ["unspecified"] * (bands - 3)} if bands > 3 else {}
    np.testing.assert_array_equal(decode(planes(bands, dtype, byteorder=order, **options), LIMIT), PICTURE)


def test_deep_planes_with_alpha_are_one_line():
    with pytest.raises(DecodeError, match="of planes with alpha: save it as RGB"):
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
        DecodeError, match="other samples than grey or RGB, .* save it as RGB with 8 or 16 bits, or name"
    ):
        decode(out.getvalue(), LIMIT)


def test_five_samples_of_16_bits_and_the_limit_of_pixels():
    out = io.BytesIO()
    values = np.concatenate([PICTURE, PICTURE[..., :2]], -1).astype(np.uint16) * 257
    tifffile.imwrite(out, values, photometric="rgb", extrasamples=["unspecified"] * 2, metadata=None)
    np.testing.assert_array_equal(decode(out.getvalue(), LIMIT), PICTURE)
    with pytest.raises(DecodeError, match="more than data.max_pixels=1000"):
        decode(out.getvalue(), 1000)
    with pytest.raises(DecodeError):
        decode(out.getvalue()[: len(out.getvalue()) // 2], LIMIT)
    with pytest.raises(DecodeError):
        decode(b"II*\0" + bytes(200), LIMIT)


def test_without_tifffile(monkeypatch):
    data = planes(3)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(UserError, match='needs the package tifffile: pip install "fusionjax'):
        decode(data, LIMIT)
    with pytest.raises(DecodeError, match="needs the package tifffile"):  # or it is damaged
        decode(b"II*\0" + bytes(200), LIMIT)
