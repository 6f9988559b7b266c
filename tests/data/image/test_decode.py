"""Every kind of image comes out as RGB uint8, and whatever is wrong is a DecodeError."""

import errno
import io
import os
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from fusionjax.data.image import decode as decoding
from fusionjax.data.image.decode import decode
from fusionjax.data.unreadable import DecodeError
from tests.support import trees

LIMIT = 10_000
PICTURE = trees.picture(1)
GREY = np.asarray(Image.fromarray(PICTURE).convert("L"))


def encode(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def rgb() -> Image.Image:
    return Image.fromarray(PICTURE)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_colour(kind):
    out = decode(encode(rgb(), kind), LIMIT)
    assert out.dtype == np.uint8 and out.flags.c_contiguous
    np.testing.assert_array_equal(out, PICTURE)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_lossy_colour(kind):
    out = decode(encode(rgb(), kind), LIMIT).astype(int)
    assert np.abs(out - PICTURE).mean() < 8  # RGB taken for BGR is off by 40


def test_cmyk_jpeg():
    out = decode(encode(rgb().convert("CMYK"), "JPEG", quality=95), LIMIT).astype(int)
    assert np.abs(out - PICTURE).mean() < 8


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_grey(kind):
    out = decode(encode(Image.fromarray(GREY), kind), LIMIT)
    assert out.shape == (40, 48, 3) and np.abs(out[..., 1].astype(int) - GREY).max() < 12


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_laid_on_white(mode):
    image = Image.new("RGBA", (6, 4), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 3, 4))
    data = encode(
        image.convert("LA") if mode == "LA" else image.quantize(4) if mode == "PA" else image, "PNG"
    )
    out = decode(data, LIMIT)
    assert out[0, 0].max() == 0 and out[0, 5].min() == 255


def test_half_transparent():
    image = Image.new("RGBA", (2, 2), (200, 0, 0, 128))
    assert np.abs(decode(encode(image, "PNG"), LIMIT)[0, 0].astype(int) - [227, 127, 127]).max() <= 1


def test_palette_and_bilevel():
    palette = rgb().quantize(32)
    np.testing.assert_array_equal(decode(encode(palette, "PNG"), LIMIT), np.asarray(palette.convert("RGB")))
    assert set(np.unique(decode(encode(rgb().convert("1"), "PNG"), LIMIT))) <= {0, 255}


def test_sixteen_bits():
    deep = GREY.astype(np.uint16) * 257
    out = decode(encode(Image.fromarray(deep), "PNG"), LIMIT)
    np.testing.assert_array_equal(out[..., 0], GREY)
    np.testing.assert_array_equal(decode(PICTURE.astype(np.uint16) * 257, LIMIT), PICTURE)


def test_arrays_and_paths(tmp_path):
    assert decode(GREY, LIMIT).shape == (40, 48, 3)
    np.testing.assert_array_equal(decode(PICTURE, LIMIT), PICTURE)
    path = tmp_path / "a.png"
    path.write_bytes(encode(rgb(), "PNG"))
    np.testing.assert_array_equal(decode(path, LIMIT), PICTURE)
    np.testing.assert_array_equal(decode(str(path), LIMIT), PICTURE)


def test_bytes_that_a_strict_jpeg_decoder_refuses():
    data = simplejpeg.encode_jpeg(PICTURE)
    start = data.index(b"\xff\xc4")
    out = decode(data[:start] + b"\0\0\0" + data[start:], LIMIT).astype(int)
    assert np.abs(out - PICTURE).mean() < 8


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("share", [0.6, 0.05])
def test_truncated(kind, share, capfd):
    data = encode(rgb(), kind)
    with pytest.raises(DecodeError):
        decode(data[: int(len(data) * share)], LIMIT)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP"])
def test_larger_than_the_limit(kind):
    with pytest.raises(DecodeError, match=r"40 × 48 pixels are more than data.max_pixels=1000"):
        decode(encode(rgb(), kind), 1000)


def test_no_limit_but_max_pixels(monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    decoding._set_up_libraries.cache_clear()
    np.testing.assert_array_equal(decode(encode(rgb(), "PNG"), LIMIT), PICTURE)
    assert not recwarn.list


def test_bomb_is_refused_from_its_header():
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    with pytest.raises(DecodeError):
        decode(bomb + chunk(b"IEND", b""), 100_000_000)


@pytest.mark.parametrize(
    "source", [b"", b"not an image", b"\xff\xd8\xff", np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 3)),
               np.zeros((0, 4, 3), np.uint8), "/no/such/file.jpg"]
)  # fmt: skip
def test_no_image(source):
    with pytest.raises(DecodeError) as e:
        decode(source, LIMIT)
    assert str(e.value) and "\n" not in str(e.value)


def test_memory_stays_near_the_size_of_the_pixels():
    """Compositing in 32 bits took eight times as much."""
    pixels = np.full((1500, 1600, 4), 200, np.uint8)
    data = encode(Image.fromarray(pixels), "PNG")
    tracemalloc.start()
    try:
        decode(data, pixels.size)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert pixels.nbytes < peak < 3 * pixels.nbytes + 2**25


def test_a_pipe_and_a_device_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(DecodeError, match="it is a named pipe, not a regular file"):
        decode(tmp_path / "pipe.jpg", LIMIT)
    with pytest.raises(DecodeError, match="it is a device, not a regular file"):
        decode("/dev/zero", LIMIT)


def test_what_is_not_the_images_fault_is_no_decode_error(monkeypatch):
    def fails(error):
        def raises(*_):
            raise error

        monkeypatch.setattr("fusionjax.data.image.decode.cv2.imdecode", raises)
        decode(encode(rgb(), "PNG"), LIMIT)

    with pytest.raises(MemoryError):
        fails(MemoryError())
    no_memory = cv2.error("Insufficient memory")
    no_memory.code = cv2.Error.StsNoMem
    with pytest.raises(MemoryError):
        fails(no_memory)
    with pytest.raises(OSError, match="Too many open files"):
        fails(OSError(errno.EMFILE, "Too many open files"))
    with pytest.raises(DecodeError, match="the system says: Input/output error"):
        fails(OSError(errno.EIO, "Input/output error"))
