"""Is a sound file whole? Ogg, WAV, AIFF and AU carry what tells; libsndfile reads such files when damaged and says nothing.

A missing end of an Ogg or WAV file, and a damaged page of an Ogg file, cost the listener seconds of sound without an error.
FLAC and MP3 need no look from here: libsndfile raises, or gives fewer samples than the header says. Of CAF nothing is known:
libsndfile finds a missing end of more than a few samples.
"""

import struct
import zlib

_OPEN_ENDED = (
    0,
    0xFFFFFFFF,
    0x7FFFFFFF,
)  # sizes that a program writes into a WAV header before it knows them
_REVERSED = bytes(int(f"{i:08b}"[::-1], 2) for i in range(256))

HEAD = 64
"""Bytes of a file that `damage` needs, unless they begin with OGG: then it needs all."""
OGG = b"OggS"


def damage(data: bytes, size: int) -> str:
    """What is wrong with a sound file as a whole, one line; "" for nothing that can be seen.

    Args:
        data: the file, or its first HEAD bytes where these do not begin with OGG.
        size: bytes of the whole file.
    """
    if data[:4] == OGG:
        return _ogg(data)
    found = next((fields for name, fields in _SIZES.items() if data.startswith(name)), None)
    if found is None:
        return ""
    at, kind, before = found
    if len(data) < at + struct.calcsize(kind):
        return "the file ends within its header"
    said = struct.unpack_from(kind, data, at)[0]
    before = before if before >= 0 else struct.unpack_from(">I", data, 4)[0]
    # One byte less is a lost padding byte, not a lost sample.
    if said not in _OPEN_ENDED and size < before + said - 1:
        return f"the file ends after {size:,} of {before + said:,} bytes"
    return ""


_SIZES = {
    b"RIFF": (4, "<I", 8),
    b"RIFX": (4, ">I", 8),
    b"FORM": (4, ">I", 8),
    b"RF64": (20, "<Q", 8),  # in the chunk ds64, which comes first (EBU Tech 3306)
    b"riff": (16, "<Q", 0),  # Wave64, whose names are of 16 bytes
    b".snd": (8, ">I", -1),
}
"""How a file begins → where it says a size, as what, and how many bytes that leaves out; -1 where the second field says."""


def _ogg(data: bytes) -> str:
    """RFC 3533, section 6: pages of a header of 27 bytes, the lengths of up to 255 segments, and the segments."""
    start, page = 0, 0
    while start < len(data):
        page += 1
        if data[start : start + 4] != b"OggS":
            return f"page {page} of the Ogg stream is damaged: it does not begin where the one before ends"
        if start + 27 > len(data) or start + 27 + data[start + 26] > len(data):
            return f"the file ends within page {page} of its Ogg stream"
        body = start + 27 + data[start + 26]
        end = body + sum(data[start + 27 : body])
        if end > len(data):
            return f"the file ends within page {page} of its Ogg stream"
        (expected,) = struct.unpack("<I", data[start + 22 : start + 26])
        if _ogg_sum(data[start : start + 22] + bytes(4) + data[start + 26 : end]) != expected:
            return f"page {page} of the Ogg stream is damaged: its checksum does not fit"
        start = end
    return ""


def _ogg_sum(page: bytes) -> int:
    """Ogg's CRC-32: polynomial 04c11db7, most significant bit first, from 0. zlib's has the bits the other way round."""
    reflected = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2)
