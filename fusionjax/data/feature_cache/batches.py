"""Cached features of a frozen backbone → batches: the streams of `pipeline` over arrays instead of images."""

from typing import Any, Protocol

import numpy as np

from fusionjax.data.loading.auxiliary import Auxiliary, with_auxiliary
from fusionjax.data.loading.stream import Example, FiniteBatches, SampledOrder, TrainStream
from fusionjax.errors import UserError


class FeatureArray(Protocol):
    """What is read of an array of features: `np.ndarray`, a memory map, or rows selected from one (`store.IndexedRows`)."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def ndim(self) -> int: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: int | slice | np.ndarray | tuple[int, int | np.ndarray], /) -> Any: ...


def feature_dataset(
    features: FeatureArray,
    labels: np.ndarray,
    *,
    seed: int,
    batch_size: int,
    valid: np.ndarray | None = None,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
    prefetch: int = 64,
    order: SampledOrder | None = None,
    auxiliary: Auxiliary | None = None,
) -> TrainStream:
    """Endless training batches of features; otherwise as `pipeline.train_dataset`.

    Args:
        features: (passes, N, h, w, C), any float dtype; a pass holds one augmentation of all examples. Epoch e reads pass
            e mod `passes`.
        labels: (N,) integers.
        seed: seed of the order.
        batch_size: B, over all processes.
        valid: (passes, N) or (N,), 0 where the image could not be read; None for all 1.
        process_index, process_count: index of this process, and number of processes.
        threads, prefetch: number of reading threads, and of examples read ahead.
        order: as for `train_dataset`; an example that is repeated within an epoch comes from the next pass.
        auxiliary: auxiliary inputs; None for none.

    Returns:
        Iterator of batches with features (B / process_count, h, w, C), label, valid and index.

    Raises:
        UserError: shapes that do not agree, no example, or B is not a multiple of the number of processes.
    """
    if features.ndim < 3 or not len(features):
        raise UserError(f"cached features of shape {features.shape} are not (passes, N, h, w, C)")
    passes, size = features.shape[:2]
    labels, valid = _checked(size, labels, valid)
    valid = np.broadcast_to(valid, (passes, size))

    def read(epoch: int, index: int, repeat: int = 0) -> Example:
        k = (epoch + repeat) % passes
        return with_auxiliary(
            _example(features[k, index], labels[index], valid[k, index], index), auxiliary, epoch, repeat
        )

    return TrainStream(
        read, size=size, seed=seed, batch_size=batch_size,
        process_index=process_index, process_count=process_count, threads=threads, prefetch=prefetch,
        sampled=order,
    )  # fmt: skip


def feature_batches(
    features: FeatureArray,
    labels: np.ndarray,
    *,
    batch_size: int,
    valid: np.ndarray | None = None,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
    prefetch: int = 64,
    auxiliary: Auxiliary | None = None,
) -> FiniteBatches:
    """Every example once, in the order of the indices; the last batch is filled up as by `pipeline.eval_batches`.

    Args:
        features: (N, h, w, C), any float dtype.
        labels, batch_size, valid, process_index, process_count, threads, prefetch, auxiliary: as for `feature_dataset`;
            `valid` is (N,).

    Returns:
        Batches that can be iterated over repeatedly, with the keys of `feature_dataset`.

    Raises:
        UserError: as for `feature_dataset`.
    """
    labels, valid = _checked(len(features), labels, valid)
    padding = with_auxiliary(
        _example(np.zeros(features.shape[1:], features.dtype), 0, 0.0, -1), auxiliary, None
    )
    return FiniteBatches(
        lambda i: with_auxiliary(_example(features[i], labels[i], valid[i], i), auxiliary, None), padding, size=len(features),
        batch_size=batch_size, process_index=process_index, process_count=process_count, threads=threads,
        prefetch=prefetch,
    )  # fmt: skip


def _checked(size: int, labels: np.ndarray, valid: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    labels = np.asarray(labels)
    valid = np.ones(size, np.float32) if valid is None else np.asarray(valid, np.float32)
    if labels.shape != (size,) or valid.shape[-1:] != (size,):
        raise UserError(
            f"{size} cached features, but labels of shape {labels.shape} and valid of shape {valid.shape}"
        )
    return labels, valid


def _example(features: np.ndarray, label: int, valid: float, index: int) -> Example:
    return {
        "features": np.asarray(features),
        "label": np.int32(label if valid else 0),
        "valid": np.float32(valid),
        "index": np.int32(index),
    }
