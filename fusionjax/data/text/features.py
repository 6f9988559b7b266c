"""The features of a frozen text encoder, computed once per text and kept on disk."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xxhash

from fusionjax import disk_cache
from fusionjax.data.text.texts import Texts

Encode = Callable[[np.ndarray, np.ndarray], np.ndarray]
_BATCH = 64
_FILE = "features.npy"


def text_features(
    texts: Texts,
    encode: Encode,
    *,
    weights: str,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> np.ndarray:
    """The token features of all texts.

    Args:
        texts: M texts of T tokens.
        encode: tokens (B, T) int32 and mask (B, T) bool → (B, T, C), compiled by the caller; B is always the same.
        weights: digest of the weights of the encoder.
        folder: of the entries, see `disk_cache`; None to keep nothing.
        say: receives one line of progress.

    Returns:
        (M, T, C) float16, 0 at padding; a read-only memory map if `folder` is given.
    """
    if folder is None:
        return _computed(texts, encode)

    def compute(part: Path) -> None:
        began = time.perf_counter()
        found = _computed(
            texts, encode, lambda shape: np.lib.format.open_memmap(part / _FILE, "w+", np.float16, shape)
        )
        assert isinstance(found, np.memmap)
        found.flush()
        seconds = time.perf_counter() - began
        say(f"features of {len(found)} texts in {seconds:.0f} s, {found.nbytes / 2**20:.0f} MiB")

    depends_on = {"version": 1, "weights": weights, "tokens": _digest(texts)}
    path = disk_cache.Entry(folder, "text", depends_on).open(compute)
    return np.load(path / _FILE, mmap_mode="r", allow_pickle=False)


def _computed(
    texts: Texts,
    encode: Encode,
    allocate: Callable[[tuple[int, ...]], np.ndarray] = lambda shape: np.empty(shape, np.float16),
) -> np.ndarray:
    """Computes the features batch by batch; the last batch is filled up, so that only one shape is compiled."""
    count = len(texts.tokens)
    rows = np.arange(-(-count // _BATCH) * _BATCH) % count
    out: np.ndarray | None = None
    for start in range(0, len(rows), _BATCH):
        chosen = rows[start : start + _BATCH]
        mask = texts.mask[chosen]
        features = np.asarray(encode(texts.tokens[chosen], mask), np.float32)
        if out is None:
            out = allocate((count, *features.shape[1:]))
        out[start : start + _BATCH] = np.where(mask[..., None], features, 0)[: count - start]
    assert out is not None  # there is at least one text
    return out


def _digest(texts: Texts) -> str:
    total = xxhash.xxh3_128(str(texts.tokens.shape).encode())
    total.update(np.ascontiguousarray(texts.tokens).tobytes())
    total.update(np.ascontiguousarray(texts.mask).tobytes())
    return total.hexdigest()
