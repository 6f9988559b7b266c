"""Facts of single images, read by several threads: size, channels, sums, small copies."""

import hashlib
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import imagehash
import numpy as np
from PIL import Image

from fusionjax.data.image.decode import decode
from fusionjax.data.source import Source
from fusionjax.data.unreadable import DecodeError, why_unreadable

_SIDE = 16


@dataclass(frozen=True)
class ImageFacts:
    """One image.

    Attributes:
        problem: why it cannot be read; "" where it can.
        sum: of its bytes.
        size: (width, height) in pixels; (0, 0) where it cannot be read.
        mode: format and channels as the file has them, e.g. "JPEG RGB".
        hash: 64 bits that similar pictures share (DCT, pHash).
        small: uint8 (16, 16, 3).
    """

    problem: str
    sum: bytes = b""
    size: tuple[int, int] = (0, 0)
    mode: str = ""
    hash: int = 0
    small: np.ndarray | None = None


def read_all(
    source: Source, max_pixels: int, *, threads: int, progress: Callable[[], object] = lambda: None
) -> list[ImageFacts]:
    """The facts of every image of a split.

    Args:
        source: the split.
        max_pixels: the largest number of pixels of an image that is read.
        threads: that read.
        progress: called after each image.

    Raises:
        UserError: the machine, not a file, is the cause of an error.
    """

    def one(i: int) -> ImageFacts:
        found = _read(source, i, max_pixels)
        progress()
        return found

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, range(len(source))))


def thumbnail(source: Source, i: int, max_pixels: int, side: int = 112) -> bytes:
    """A small JPEG of an image, at most `side` pixels wide and high; empty where it cannot be read."""
    try:
        image = decode(source.load(i), max_pixels)
    except (DecodeError, OSError, MemoryError):
        return b""
    shrink = min(1.0, side / max(image.shape[:2]))
    size = max(1, round(image.shape[1] * shrink)), max(1, round(image.shape[0] * shrink))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    done, encoded = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return encoded.tobytes() if done else b""


def _read(source: Source, i: int, max_pixels: int) -> ImageFacts:
    try:
        encoded = source.load(i)
        image = decode(encoded, max_pixels)
    except (DecodeError, OSError, MemoryError) as e:
        return ImageFacts(why_unreadable(e, source.names[i]))
    data = encoded.tobytes() if isinstance(encoded, np.ndarray) else encoded
    height, width = image.shape[:2]
    small = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    grey = Image.fromarray(
        cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (64, 64), interpolation=cv2.INTER_AREA)
    )
    bits = np.packbits(imagehash.phash(grey).hash).tobytes()
    return ImageFacts(
        "", hashlib.blake2b(data, digest_size=16).digest(), (width, height), _mode(encoded),
        int.from_bytes(bits, "big"), small,
    )  # fmt: skip


def _mode(encoded: bytes | np.ndarray) -> str:
    if isinstance(encoded, np.ndarray):
        return "array"
    with Image.open(io.BytesIO(encoded)) as picture:
        return f"{picture.format} {picture.mode}"


def alike(facts: Sequence[ImageFacts], *, bits: int = 4, difference: float = 6.0) -> np.ndarray:
    """Pairs of images that look the same although their files differ: other size, compression, or slight changes.

    Args:
        facts: of N images.
        bits: of the 64 of `hash`, in which they may differ.
        difference: of the small copies, in grey values; mean of the absolute values.

    Returns:
        (M, 2) int64, pairs i < j.
    """
    good = [(i, f, f.small) for i, f in enumerate(facts) if f.small is not None]
    if not good:
        return np.zeros((0, 2), np.int64)
    hashes = np.asarray([f.hash for _, f, _ in good], np.uint64)
    small = np.stack([s for _, _, s in good]).astype(np.int16).reshape(len(good), -1)
    pairs = []
    for start in range(0, len(good), 256):
        block = hashes[start : start + 256]
        near = np.bitwise_count(block[:, None] ^ hashes[None, start:]) <= bits
        for i, j in zip(*np.nonzero(np.triu(near, 1)), strict=True):
            a, b = start + int(i), start + int(j)
            if good[a][1].sum != good[b][1].sum and np.abs(small[a] - small[b]).mean() <= difference:
                pairs.append((good[a][0], good[b][0]))
    return np.asarray(pairs, np.int64).reshape(-1, 2)
