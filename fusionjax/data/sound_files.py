"""Is a sound file whole? Ogg, WAV and AIFF carry what tells; libsndfile reads such files when damaged and says nothing.

A missing end of an Ogg or WAV file, and a damaged page of an Ogg file, cost the listener seconds of sound without an error.
FLAC and MP3 need no look from here: libsndfile raises, or gives fewer samples than the header says.
"""

import struct
import zlib

_OPEN_ENDED = (
    0,
    0xFFFFFFFF,
    0x7FFFFFFF,
)  # sizes that a program writes into a WAV header before it knows them
_REVERSED = bytes(int(f"{i:08b}"[::-1], 2) for i in range(256))


def damage(data: bytes) -> str:
    """What is wrong with a sound file as a whole, one line; "" for nothing that can be seen.

    Args:
        data: the whole file.
    """
    if data[:4] == b"OggS":
        return _ogg(data)
    if data[:4] in (b"RIFF", b"RIFX"):
        return _chunk(data, "<" if data[:4] == b"RIFF" else ">")
    if data[:4] == b"FORM":
        return _chunk(data, ">")
    return ""


def _chunk(data: bytes, order: str) -> str:
    """RIFF and IFF: a size after the name, of what follows. One byte less is a lost padding byte, not a lost sample."""
    if len(data) < 8:
        return "the file ends within its header"
    (size,) = struct.unpack(order + "I", data[4:8])
    if size not in _OPEN_ENDED and len(data) < 8 + size - 1:
        return f"the file ends after {len(data):,} of {8 + size:,} bytes"
    return ""


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
