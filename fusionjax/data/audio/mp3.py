"""The length of an MP3 file, which libsndfile guesses from the bit rate of the first frame where no Xing header states it.

At the guessed length it stops reading, however much follows.
"""

import struct
from typing import BinaryIO, NamedTuple

_XING = (b"Xing", b"Info")
_TAG = b"ID3\4\0\0\0\0\0\x0a" + bytes(10)
_BLOCK = 4096
_TAGS = 2**14
"""Bytes of tags that may follow the frames; more is taken for further frames, of a file appended to another."""
_BIT_RATES = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""(1 for MPEG-1, else 2; layer) → kbit/s of the indices 1 to 14 (ISO 11172-3 and 13818-3, 2.4.2.3)."""
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
"""Version bits → sampling rates, Hz."""


class _Frame(NamedTuple):
    """The header of a frame: its size in bytes, what all frames of a file share, and where a Xing header would begin."""

    size: int
    kind: tuple[int, int, int]
    xing: int


def completed(file: BinaryIO, size: int, *, named: bool) -> bytes | None:
    """The content of an MP3 file with what libsndfile needs beside it: a Xing header with the length, and a tag.

    Args:
        file: opened for reading, at any position.
        size: its bytes.
        named: libsndfile will see that the name ends in .mp3. Otherwise it recognises the content by an ID3v2 tag alone.

    Returns:
        The content with a tag, and with the header where the file has none, or one of fewer frames than it holds. None where
        nothing is missing, or the file is not MPEG layer III.
    """
    start = _after_tags(file)
    file.seek(start)
    block = file.read(_BLOCK)
    if not start and block[:1] != b"\xff":
        return None
    frame = _frame(block, 0)
    recognised = named or start > 0
    if recognised and frame is not None and _states_length(block, frame, size - start):
        return None
    data = block + file.read()
    start = _next(data, 0, None)
    frame = _frame(data, start)
    if frame is None or frame.kind[1] != 3:
        return None
    count, end = _count(data, start, frame.kind)
    stated = _stated(data[start:], frame)
    if stated is not None and count <= stated + 1:  # the header's own frame is not counted
        return None if recognised and not start else _TAG + data[start:]
    return _TAG + _header(data[start : start + 4], frame, count, end - start) + data[start:]


def _after_tags(file: BinaryIO) -> int:
    """The position after all ID3v2 tags, 0 where there is none."""
    start = 0
    while True:
        file.seek(start)
        tag = file.read(10)
        if len(tag) < 10 or not tag.startswith(b"ID3"):
            return start
        size = 0
        for byte in tag[6:]:
            size = size << 7 | byte & 0x7F
        start += 10 + size + (10 if tag[5] & 0x10 else 0)


def _next(data: bytes, start: int, kind: tuple[int, int, int] | None) -> int:
    """The position of the first frame from `start` on that another one or the end follows; the end where there is none."""
    while start < len(data):
        start = data.find(b"\xff", start)
        if start < 0:
            break
        found = _frame(data, start)
        if found and kind in (None, found.kind):
            after = _frame(data, start + found.size)
            if start + found.size == len(data) or (after and after.kind == found.kind):
                return start
        start += 1
    return len(data)


def _count(data: bytes, start: int, kind: tuple[int, int, int]) -> tuple[int, int]:
    """The number of whole frames, and the end of the last one. What lies between frames is skipped."""
    count = end = 0
    while start < len(data):
        found = _frame(data, start)
        if found is None or found.kind != kind:
            start = _next(data, start + 1, kind)
        elif start + found.size > len(data):
            break
        else:
            count, start = count + 1, start + found.size
            end = start
    return count, end


def _frame(data: bytes, at: int) -> _Frame | None:
    """The header at a position; None where there is none, or its bit rate is "free"."""
    if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] < 0xE0:
        return None
    version, layer = data[at + 1] >> 3 & 3, 4 - (data[at + 1] >> 1 & 3)
    bit_rate, rate, padding = data[at + 2] >> 4, data[at + 2] >> 2 & 3, data[at + 2] >> 1 & 1
    if version == 1 or layer == 4 or bit_rate in (0, 15) or rate == 3:
        return None
    first, mono = version == 3, data[at + 3] >> 6 == 3
    bits, hertz = 1000 * _BIT_RATES[1 if first else 2, layer][bit_rate - 1], _RATES[version][rate]
    if layer == 1:
        size = (12 * bits // hertz + padding) * 4
    else:
        size = (144 if first or layer == 2 else 72) * bits // hertz + padding
    side = (17 if mono else 32) if first else (9 if mono else 17)
    return _Frame(size, (version, layer, hertz), 4 + side)


def _stated(data: bytes, frame: _Frame) -> int | None:
    """The number of frames in the Xing header of the frame that `data` begins with; None where there is none."""
    if data[frame.xing : frame.xing + 4] not in _XING or len(data) < frame.xing + 16:
        return None
    flags, count = struct.unpack_from(">II", data, frame.xing + 4)
    return count if flags & 1 else None


def _states_length(data: bytes, frame: _Frame, size: int) -> bool:
    """Whether a Xing header states the number of frames, and one of bytes that reaches the end of the file."""
    if _stated(data, frame) is None:
        return False
    flags, _, stated = struct.unpack_from(">III", data, frame.xing + 4)
    return bool(flags & 2) and stated + _TAGS >= size


def _header(first: bytes, frame: _Frame, count: int, size: int) -> bytes:
    """A frame like the first one of a file, with nothing but a Xing header: numbers of frames and bytes."""
    head = bytearray(first)
    head[1] |= 1  # no checksum
    for bit_rate in range(1, 15):
        head[2] = bit_rate << 4 | head[2] & 0b1100
        own = _frame(bytes(head), 0)
        if own is not None and own.size >= frame.xing + 16:
            break
    assert own is not None  # the rate and the layer are those of a frame
    body = bytes(frame.xing - 4) + b"Xing" + struct.pack(">III", 3, count, size + own.size)
    return bytes(head) + body + bytes(own.size - 4 - len(body))
