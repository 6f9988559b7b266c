"""Detection of truncated and damaged audio files that libsndfile reads without an error: Ogg, WAV, AIFF and AU.

libsndfile silently drops the missing end of an Ogg or WAV file and damaged pages of an Ogg file; the size fields and
checksums of these formats reveal the loss. FLAC and MP3 need no check here: libsndfile raises, or returns fewer samples than
the header states; for MP3 without a header see `mp3`. For CAF, libsndfile itself detects a missing end of more than a few
samples.
"""

import struct
import zlib
from typing import BinaryIO, NamedTuple

# Placeholders that programs write into a header before the size is known; the last one is of SoX.
_OPEN_ENDED = (0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000)
_REVERSED = bytes(int(f"{i:08b}"[::-1], 2) for i in range(256))


class _Chunks(NamedTuple):
    """How a container stores its chunks.

    Attributes:
        start: position of the first chunk.
        name: bytes of a chunk's name.
        size: struct format of the size after it.
        counted: bytes before the content that the size counts.
        align: chunks begin at multiples of it.
        sound: beginning of the name of the chunk that holds the samples.
    """

    start: int
    name: int
    size: str
    counted: int
    align: int
    sound: bytes


_CONTAINERS = {
    b"RIFF": _Chunks(12, 4, "<I", 0, 2, b"data"),
    b"RIFX": _Chunks(12, 4, ">I", 0, 2, b"data"),
    b"RF64": _Chunks(12, 4, "<I", 0, 2, b"data"),
    b"FORM": _Chunks(12, 4, ">I", 0, 2, b"SSND"),
    b"riff": _Chunks(40, 16, "<Q", 24, 8, b"data"),  # Wave64
}
"""First bytes of a file → its chunks."""
_CHUNKS = 10_000
"""The number of chunks among which that of the samples is looked for."""
_OGG = b"OggS"


def damage(file: BinaryIO, size: int) -> str:
    """Describes damage of an audio file that its size fields or checksums reveal.

    Of the size fields, those of the samples decide: programs that record in a browser or write to a pipe leave others wrong,
    with all samples there.

    Args:
        file: opened for reading, at any position.
        size: its bytes.

    Returns:
        One line; "" where no damage is found.
    """
    file.seek(0)
    head = file.read(16)
    if head.startswith(_OGG):
        return _ogg(head + file.read())
    if head.startswith(b".snd"):
        if len(head) < 12:
            return "the file ends within its header"
        start, stated = struct.unpack(">II", head[4:12])
        return _ends(start, stated, size)
    kind = next((kind for name, kind in _CONTAINERS.items() if head.startswith(name)), None)
    return "" if kind is None else _container(file, size, kind)


def _container(file: BinaryIO, size: int, kind: _Chunks) -> str:
    """What `damage` says of a file of chunks."""
    at, head, long = kind.start, kind.name + struct.calcsize(kind.size), None
    for _ in range(_CHUNKS):
        if at + head > size:
            break
        file.seek(at)
        chunk = file.read(head + 16)
        (stated,) = struct.unpack_from(kind.size, chunk, kind.name)
        if chunk.startswith(b"ds64") and len(chunk) == head + 16:  # RF64's sizes of 64 bits (EBU Tech 3306)
            (long,) = struct.unpack_from("<Q", chunk, head + 8)
        if chunk.startswith(kind.sound):
            known = long if long is not None and stated == 0xFFFFFFFF else stated - kind.counted
            return _ends(at + head, known, size)
        step = max(stated - kind.counted, 0) + head
        at += step + -step % kind.align
    return ""  # libsndfile names a file without such a chunk


def _ends(start: int, stated: int, size: int) -> str:
    """What `damage` says of a file whose `stated` bytes of samples begin at `start`."""
    # One missing byte is the padding byte, not a sample.
    if stated in _OPEN_ENDED or size >= start + stated - 1:
        return ""
    return f"the file ends after {size:,} of {start + stated:,} bytes"


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
