"""Detection of truncated and damaged audio files that libsndfile reads without an error: Ogg, WAV, AIFF and AU.

libsndfile silently drops the missing end of an Ogg or WAV file and damaged pages of an Ogg file; the size fields and
checksums of these formats reveal the loss. FLAC and MP3 need no check here: libsndfile raises, or returns fewer samples than
the header states. For CAF, libsndfile itself detects a missing end of more than a few samples.
"""

import struct
import zlib

_OPEN_ENDED = (
    0,
    0xFFFFFFFF,
    0x7FFFFFFF,
)  # placeholders that programs write into a WAV header before the size is known
_REVERSED = bytes(int(f"{i:08b}"[::-1], 2) for i in range(256))

HEAD = 64
"""The number of bytes of a file that `damage` needs; a file that begins with OGG is needed as a whole."""
OGG = b"OggS"


def damage(data: bytes, size: int) -> str:
    """Describes damage of an audio file that its size fields or checksums reveal.

    Args:
        data: the content of the file; the first HEAD bytes suffice where they do not begin with OGG.
        size: size of the whole file, in bytes.

    Returns:
        One line; "" where no damage is found.
    """
    if data[:4] == OGG:
        return _ogg(data)
    found = next((fields for name, fields in _SIZES.items() if data.startswith(name)), None)
    if found is None:
        return ""
    at, kind, before = found
    if len(data) < at + struct.calcsize(kind):
        return "the file ends within its header"
    stated = struct.unpack_from(kind, data, at)[0]
    before = before if before >= 0 else struct.unpack_from(">I", data, 4)[0]
    # One missing byte is the padding byte, not a sample.
    if stated not in _OPEN_ENDED and size < before + stated - 1:
        return f"the file ends after {size:,} of {before + stated:,} bytes"
    return ""


_SIZES = {
    b"RIFF": (4, "<I", 8),
    b"RIFX": (4, ">I", 8),
    b"FORM": (4, ">I", 8),
    b"RF64": (20, "<Q", 8),  # in the chunk ds64, which comes first (EBU Tech 3306)
    b"riff": (16, "<Q", 0),  # Wave64, whose names are of 16 bytes
    b".snd": (8, ">I", -1),
}
"""First bytes of a file → (offset, struct format) of its size field, and the bytes not counted by it; −1: the second field."""


def _ogg(data: bytes) -> str:
    """RFC 3533, section 6: pages of a header of 27 bytes, the lengths of up to 255 segments, and the segments."""
    start, page = 0, 0
    while start < len(data):
        page += 1
        if data[start : start + 4] != b"OggS":
            return f"page {page} of the Ogg stream is damaged: it does not begin where the previous page ends"
        if start + 27 > len(data) or start + 27 + data[start + 26] > len(data):
            return f"the file ends within page {page} of its Ogg stream"
        body = start + 27 + data[start + 26]
        end = body + sum(data[start + 27 : body])
        if end > len(data):
            return f"the file ends within page {page} of its Ogg stream"
        (expected,) = struct.unpack("<I", data[start + 22 : start + 26])
        if _ogg_sum(data[start : start + 22] + bytes(4) + data[start + 26 : end]) != expected:
            return f"page {page} of the Ogg stream is damaged: its checksum is wrong"
        start = end
    return ""


def _ogg_sum(page: bytes) -> int:
    """Ogg's CRC-32: polynomial 04c11db7, most significant bit first, from 0. zlib's is the bit-reversed variant."""
    reflected = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2)
