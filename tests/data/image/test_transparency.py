"""Only what a file declares to be alpha is alpha; transparent pixels are white."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from fusionjax.data.image.decode import decode
from tests.support import trees

LIMIT = 10_000
PICTURE = trees.picture(1)
FOURTH = np.full((*PICTURE.shape[:2], 1), 60, np.uint8)


def tiff(*samples: np.ndarray, kind: str | int, dtype=np.uint8) -> bytes:
    values = np.concatenate(samples, axis=-1).astype(dtype) * (257 if dtype == np.uint16 else 1)
    out = io.BytesIO()
    tifffile.imwrite(
        out, values, photometric="rgb", extrasamples=[kind] + ["unspecified"] * (len(samples) - 2)
    )
    return out.getvalue()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_near_infrared_is_not_alpha(dtype):
    np.testing.assert_array_equal(
        decode(tiff(PICTURE, FOURTH, kind="unspecified", dtype=dtype), LIMIT), PICTURE
    )


def test_two_further_bands_are_left_out():
    np.testing.assert_array_equal(
        decode(tiff(PICTURE, FOURTH, FOURTH + 9, kind="unspecified"), LIMIT), PICTURE
    )


def test_a_fourth_sample_that_is_not_described_is_no_alpha():
    data = tiff(PICTURE, FOURTH, kind="unassalpha")
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        at = file.pages[0].tags[338].offset
    undescribed = data[:at] + struct.pack("<H", 60_000) + data[at + 2 :]  # no longer ExtraSamples
    np.testing.assert_array_equal(decode(undescribed, LIMIT), PICTURE)


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_declared_alpha_of_tiff_is_laid_on_white(kind, dtype):
    """Associated alpha is multiplied into the colours already, unassociated is not."""
    red = np.zeros((6, 8, 3), np.uint8)
    red[..., 0] = 100 if kind == "assocalpha" else 199
    data = tiff(red, np.full((6, 8, 1), 128, np.uint8), kind=kind, dtype=dtype)
    assert np.abs(decode(data, LIMIT)[0, 0].astype(int) - [227, 127, 127]).max() <= 1


@pytest.mark.parametrize("compression", [0, 3])
def test_the_unused_byte_of_a_bmp_is_not_alpha(compression):
    """32 bits with a header of 40 bytes, without masks and with those of the three colours; the fourth byte is 0."""
    height, width = PICTURE.shape[:2]
    pixels = np.concatenate([PICTURE[::-1, :, ::-1], 0 * FOURTH], -1).tobytes()
    masks = struct.pack("<III", 0xFF0000, 0xFF00, 0xFF) if compression else b""
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 32, compression, len(pixels), 2835, 2835, 0, 0)
    start = 14 + len(head) + len(masks)
    data = b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + head + masks + pixels
    np.testing.assert_array_equal(decode(data, LIMIT), PICTURE)


def test_targa_says_how_many_bits_are_alpha():
    rgba = np.concatenate([PICTURE, 0 * FOURTH], -1)
    out = io.BytesIO()
    Image.fromarray(rgba).save(out, "TGA")
    data = bytearray(out.getvalue())
    assert data[17] & 15 == 8 and decode(bytes(data), LIMIT).min() == 255
    data[17] &= 0xF0
    np.testing.assert_array_equal(decode(bytes(data), LIMIT), PICTURE)


def test_jpeg_2000_with_and_without_a_channel_of_opacity():
    out = io.BytesIO()
    Image.fromarray(np.concatenate([PICTURE, 0 * FOURTH], -1)).save(out, "JPEG2000", irreversible=False)
    data = out.getvalue()
    assert decode(data, LIMIT).min() == 255
    np.testing.assert_array_equal(decode(data.replace(b"cdef", b"free"), LIMIT), PICTURE)


def png(depth: int, row: bytes, width: int, transparent: int, kind: int = 0) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, kind, 0, 0, 0))
    body = chunk(b"tRNS", struct.pack(">H", transparent)) + chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("depth", "row", "transparent", "expected"),
    [
        (1, bytes([0b01010101]), 0, [255, 255, 255, 255]),
        (2, bytes([0b00011011, 0]), 1, [0, 255, 170, 255]),
        (4, bytes([0x03, 0xF3, 0, 0]), 3, [0, 255, 255, 255]),
        (8, bytes([0, 7, 9, 255, 0, 0, 0, 0]), 0, [255, 7, 9, 255]),
        (16, b"\0\0\x12\x34\x12\x35\xff\xff" + bytes(8), 0x1234, [0, 255, 18, 255]),
        (8, bytes(8), 0, [255] * 4),  # the only value
        (16, bytes(16), 0, [255] * 4),
    ],
)
def test_the_transparent_value_of_a_grey_png_is_white(depth, row, transparent, expected):
    out = decode(png(depth, row, 8, transparent), LIMIT)
    assert out[0, :4].tolist() == [[v] * 3 for v in expected]


def test_the_transparent_colour_of_a_png_is_white():
    out = io.BytesIO()
    Image.fromarray(PICTURE).save(out, "PNG", transparency=tuple(PICTURE[0, 0].tolist()))
    expected = PICTURE.copy()
    expected[(PICTURE[0, 0] == PICTURE).all(-1)] = 255
    np.testing.assert_array_equal(decode(out.getvalue(), LIMIT), expected)
