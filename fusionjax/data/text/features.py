"""The features of a frozen text encoder, computed once per text and kept on disk."""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fusionjax.data.text.texts import Texts

Encode = Callable[[np.ndarray, np.ndarray], np.ndarray]
_BATCH = 64


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
        folder: folder of the files, whose names hold a digest of everything they depend on; None to keep nothing.
        say: receives one line of progress.

    Returns:
        (M, T, C) float16, 0 at padding; a read-only memory map if `folder` is given.
    """
    if folder is None:
        return _computed(texts, encode)
    path = Path(folder) / f"text-{_key(texts, weights)}.npy"
    if _open(path) is None:  # absent or damaged
        began = time.perf_counter()
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as made:  # whole or absent, whoever else writes it
            part = Path(made) / path.name
            found = _computed(
                texts, encode, lambda shape: np.lib.format.open_memmap(part, "w+", np.float16, shape)
            )
            assert isinstance(found, np.memmap)
            found.flush()
            os.replace(part, path)
        say(
            f"features of {len(found)} texts in {time.perf_counter() - began:.0f} s, {found.nbytes / 2**20:.0f} MiB"
        )
    opened = _open(path)
    assert opened is not None  # just written, or opened above
    return opened


def _open(path: Path) -> np.ndarray | None:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None


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


def _key(texts: Texts, weights: str) -> str:
    total = hashlib.sha256(f"fusionjax text features 1 {weights} {texts.tokens.shape}".encode())
    total.update(np.ascontiguousarray(texts.tokens).tobytes())
    total.update(np.ascontiguousarray(texts.mask).tobytes())
    return total.hexdigest()[:16]
