"""Cached outputs of a frozen trunk → batches: the streams of `pipeline` over arrays in place of images."""

import numpy as np

from fusionjax.data.loading.auxiliary import Extra, joined
from fusionjax.data.loading.stream import Example, FiniteBatches, SampledOrder, TrainStream
from fusionjax.errors import UserError


def feature_dataset(
    features: np.ndarray,
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
    extra: Extra | None = None,
) -> TrainStream:
    """Endless training batches; epoch e reads pass e mod `passes`. Otherwise as `train_dataset`.

    Args:
        features: (passes, N, h, w, C), any float type, an array or a memory map; a pass is one augmentation
            of all examples.
        labels: integers (N,).
        seed: of the order.
        batch_size: B, of all processes together.
        valid: (passes, N) or (N,), 0 where the image could not be read; None for all 1.
        process_index, process_count: this process, and how many there are.
        threads, prefetch: reading threads, and examples read ahead.
        order: as for `train_dataset`; an example that an epoch shows again comes from the next pass.
        extra: as for `train_dataset`.

    Returns:
        Iterator of batches with features (B / process_count, h, w, C), label, valid and index.

    Raises:
        UserError: shapes that do not fit together, no example, a batch that the processes cannot share.
    """
    if features.ndim < 3 or not len(features):
        raise UserError(f"cached features of shape {features.shape} are not (passes, N, h, w, C)")
    passes, size = features.shape[:2]
    labels, valid = _checked(size, labels, valid)
    valid = np.broadcast_to(valid, (passes, size))

    def read(epoch: int, index: int, repeat: int = 0) -> Example:
        k = (epoch + repeat) % passes
        return joined(
            _example(features[k, index], labels[index], valid[k, index], index), extra, epoch, repeat
        )

    return TrainStream(
        read, size=size, seed=seed, batch_size=batch_size,
        process_index=process_index, process_count=process_count, threads=threads, prefetch=prefetch,
        sampled=order,
    )  # fmt: skip


def feature_batches(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    batch_size: int,
    valid: np.ndarray | None = None,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
    prefetch: int = 64,
    extra: Extra | None = None,
) -> FiniteBatches:
    """Every example once, padded as `eval_batches`. `features` is (N, h, w, C), the rest as above."""
    labels, valid = _checked(len(features), labels, valid)
    padding = joined(_example(np.zeros(features.shape[1:], features.dtype), 0, 0.0, -1), extra, None)
    return FiniteBatches(
        lambda i: joined(_example(features[i], labels[i], valid[i], i), extra, None), padding, size=len(features),
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
