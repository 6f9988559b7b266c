"""The features of a frozen backbone, computed once and kept on disk: later epochs only compute the layers above it."""

import dataclasses
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from fusionjax import disk_cache, files, progress
from fusionjax.data import fingerprint
from fusionjax.data.feature_cache.batches import FeatureArray
from fusionjax.data.loading import pipeline
from fusionjax.data.loading.stream import HostBatch
from fusionjax.data.source import Source, Subset
from fusionjax.data.unreadable import BadImages
from fusionjax.errors import UserError
from fusionjax.types import Array, PyTree

log = logging.getLogger(__name__)

_VERSION = 4
"""Of what is computed from an image besides what the config says; raised when that changes, such as the resize filter."""
_FEATURES, _VALID, _REASONS = "features.npy", "valid.npy", "unreadable.json"
_PASSING = "passing.json"
"""The images that could not be read for a reason that may pass: an entry with this file serves one run."""


@dataclasses.dataclass(frozen=True)
class CachedFeatures:
    """The features of a split.

    Attributes:
        features: (passes, N, h, w, C) float16, a read-only memory map, or rows of one; pass 0 is not augmented.
        valid: (passes, N) float32, 0 where an image could not be read.
        labels: (N,) int32.
    """

    features: FeatureArray
    valid: np.ndarray
    labels: np.ndarray


class IndexedRows:
    """A lazy view of the rows of an array at given indices: rows are copied only when they are read.

    Args:
        array: (passes, M, ...), or (M, ...) for the view `self[k]`.
        indices: (N,) integers, positions along the axis of size M.
        axis: the axis of size M, 1 or 0.
    """

    def __init__(self, array: FeatureArray, indices: np.ndarray, axis: int = 1):
        self._array, self._indices, self._axis = array, indices, axis
        self.shape = (*array.shape[:axis], len(indices), *array.shape[axis + 1 :])
        self.ndim, self.dtype = array.ndim, array.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(
        self, key: int | slice | np.ndarray | tuple[int, int | np.ndarray]
    ) -> "np.ndarray | IndexedRows":
        if not self._axis:
            return self._array[self._indices[key]]
        if isinstance(key, tuple):
            return self._array[key[0], self._indices[key[1]]]
        return IndexedRows(self._array[key], self._indices, 0)


class FeatureCache:
    """Opens the features of a source; computes those that are not on disk.

    Args:
        folder: of the entries, see `disk_cache`.
        encode: batch of images → (B, h, w, C), compiled by the caller.
        weights: digest of the weights of the backbone.
        data: `config.data`.
        seed: seed of the augmentation.
        bad: record that unreadable images are added to.
        say: receives one line of progress.
    """

    def __init__(
        self,
        folder: Path,
        encode: Callable[[HostBatch], Array],
        *,
        weights: str,
        data: ConfigDict,
        seed: int,
        bad: BadImages,
        say: Callable[[str], None],
    ):
        self._folder, self._encode, self._weights = Path(folder), encode, weights
        self._data, self._seed, self._bad, self._say = data, seed, bad, say

    def train(self, source: Source) -> CachedFeatures:
        """`data.cache.passes` passes: first the images without augmentation, then with a different augmentation each.

        Raises:
            UserError: no examples, or more than `data.max_bad_fraction` of the images are unreadable.
        """
        return self._open(source, self._data.cache.passes)

    def evaluation(self, source: Source) -> CachedFeatures:
        """One pass, the images without augmentation; raises as `train`."""
        return self._open(source, 1)

    def _open(self, source: Source, passes: int) -> CachedFeatures:
        if isinstance(source, Subset):
            # Several questions about one image: its features are computed once.
            pictures, at = np.unique(source.indices, return_inverse=True)
            if len(pictures) < len(source):
                whole = self._open(Subset(source.source, pictures), passes)
                return CachedFeatures(
                    IndexedRows(whole.features, at), whole.valid[:, at], np.asarray(source.labels, np.int32)
                )
        entry = disk_cache.Entry(
            self._folder, source.split, self._depends_on(source, passes), shared=jax.process_count() == 1
        )
        path = entry.open(
            lambda part: self._compute(source, passes, part),
            reuse=lambda path: not (path / _PASSING).exists(),
        )
        for name, reason in files.read_json(path / _REASONS).items():
            self._bad.record(name, reason)
        self._bad.check(len(source), self._data.max_bad_fraction)
        labels = np.asarray(source.labels, np.int32)
        return CachedFeatures(np.load(path / _FEATURES, mmap_mode="r"), np.load(path / _VALID), labels)

    def _compute(self, source: Source, passes: int, folder: Path) -> None:
        began = time.perf_counter()
        if not len(source):
            raise UserError(f"split {source.split!r} of {source.name} has no examples")
        np.save(folder / _VALID, self._fill(source, passes, folder / _FEATURES))
        (folder / _REASONS).write_text(json.dumps(self._bad.reasons))
        passing = self._bad.passing
        if passing:
            (folder / _PASSING).write_text(json.dumps(passing))
            log.warning(
                "%d images of %s could not be read because of the system, not of the file, first %s: the features are "
                "computed again at the next start",
                len(passing),
                source.split,
                passing[0],
            )
        seconds = time.perf_counter() - began
        images = passes * len(source)
        self._say(
            f"features of {source.split}: {images} images ({passes} passes) in {seconds:.0f} s, "
            f"{images / seconds:.0f} images/s, {(folder / _FEATURES).stat().st_size / 2**20:.0f} MiB"
        )

    def _fill(self, source: Source, passes: int, path: Path) -> np.ndarray:
        """Writes the features of all passes to `path`; returns which images were read, (passes, N) float32."""
        valid = np.zeros((passes, len(source)), np.float32)
        out: np.memmap | None = None
        with progress.phase(f"features of {source.split}", passes * len(source), "images") as phase:
            for k in range(passes):
                for batch in self._batches(source, k):
                    rows = batch["index"] >= 0
                    features = np.asarray(self._encode({"image": batch["image"]}))[rows]
                    if out is None:
                        shape = (passes, len(source), *features.shape[1:])
                        out = _allocate(path, shape)
                    out[k, batch["index"][rows]] = features
                    valid[k, batch["index"][rows]] = batch["valid"][rows]
                    phase.advance(len(features))
        assert out is not None  # the source has examples
        out.flush()
        return valid

    def _batches(self, source: Source, k: int) -> Iterable[HostBatch]:
        size = self._data.cache.batch_size
        if k == 0:
            return pipeline.eval_batches(source, self._data, batch_size=size, bad=self._bad)
        return pipeline.augmented_batches(
            source, self._data, seed=self._seed, epoch=k, batch_size=size, bad=self._bad
        )

    def _depends_on(self, source: Source, passes: int) -> dict[str, Any]:
        """Everything that the features depend on."""
        data = json.loads(self._data.to_json_best_effort())
        for field in ("threads", "prefetch", "max_bad_fraction", "cache", "eval_splits", "languages", "audio_languages",
                      "sound", "questions", "question_types", "answers", "answer_pictures"):  # fmt: skip
            data.pop(field)
        return {
            "version": _VERSION,
            "weights": self._weights,
            "data": data,
            "seed": self._seed,
            "source": source.name,
            "split": source.split,
            "passes": passes,
            "examples": len(source),
            "state": fingerprint.state(source),
        }


def _allocate(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A float16 array on disk whose space is allocated: a full disk is an OSError now, not a SIGBUS later."""
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return out


def digest(tree: PyTree) -> str:
    """The sha256, in hexadecimal, of the paths, dtypes, shapes and bytes of all arrays of a tree."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        array = np.ascontiguousarray(leaf)
        total.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()
