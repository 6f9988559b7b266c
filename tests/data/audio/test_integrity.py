"""The size of the samples decides whether a file is whole, not the sizes around it."""

import io
import struct

import pytest

from fusionjax.data.audio import integrity, waveform
from fusionjax.data.unreadable import DecodeError
from tests.support.sounds import encoded, sine


def damage(data: bytes) -> str:
    return integrity.damage(io.BytesIO(data), len(data))


@pytest.mark.parametrize(("format", "at", "kind"), [("WAV", 4, "<I"), ("AIFF", 4, ">I"), ("W64", 16, "<Q")])
@pytest.mark.parametrize("off", [-8, 8, 5000])
def test_a_wrong_size_of_the_container_does_not_matter(format, at, kind, off):
    data = bytearray(encoded(sine(440), format=format))
    (size,) = struct.unpack_from(kind, data, at)
    struct.pack_into(kind, data, at, size + off)
    assert damage(bytes(data)) == "" and len(waveform.read(bytes(data))) == 16_000


@pytest.mark.parametrize(("name", "order"), [("WAV", "<"), ("AIFF", ">")])
def test_chunks_before_and_after_the_samples(name, order):
    data = encoded(sine(440), format=name)
    chunk = b"LIST" + struct.pack(order + "I", 301) + bytes(302)
    longer = data[:12] + chunk * 3 + data[12:]
    assert damage(longer) == "" and len(waveform.read(longer)) == 16_000
    assert "the file ends after" in damage(longer[:-100])
    cut = data + chunk[:40]  # the samples are whole
    assert damage(cut) == "" and len(waveform.read(cut)) == 16_000


@pytest.mark.parametrize("format", ["WAV", "AIFF", "RF64", "W64", "AU"])
def test_every_cut_in_the_samples_or_before_is_named(format):
    data = encoded(sine(440, 0.1), format=format)
    for end in [*range(1, 160), len(data) // 2, len(data) - 2]:
        with pytest.raises(DecodeError):
            waveform.read(data[:end])


@pytest.mark.parametrize("stated", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_a_size_that_was_not_known_yet(stated):
    data = bytearray(encoded(sine(440)))
    struct.pack_into("<I", data, data.find(b"data") + 4, stated)
    assert damage(bytes(data)) == ""


def test_a_file_of_zeros_is_not_searched_for_ever():
    assert damage(b"RIFF" + bytes(2**20)) == ""
