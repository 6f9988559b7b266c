"""Image sources → batches: decode, augment, batch, with this process's share of each batch.

Nothing here raises for an image that cannot be read: it becomes a row with `valid` 0, its name is recorded,
and the run stops when there are too many.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np

from fusionjax.data.image import transforms
from fusionjax.data.image.decode import DecodeError, decode
from fusionjax.data.loading.auxiliary import Extra, joined
from fusionjax.data.loading.stream import Example, FiniteBatches, SampledOrder, TrainStream
from fusionjax.data.sampling import order as order_lib
from fusionjax.data.source import Source
from fusionjax.data.unreadable import BadImages
from fusionjax.errors import UserError

_STREAM = 0xA06  # keeps these draws apart from others that start from the same seed


def train_dataset(
    source: Source,
    data: Any,
    *,
    seed: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    bad: BadImages | None = None,
    order: SampledOrder | None = None,
    extra: Extra | None = None,
) -> TrainStream:
    """Endless training batches.

    The order is a function of (seed, epoch), an image's augmentation of (seed, epoch, index): neither
    threads nor processes change a bit. Where an order shows an image again in an epoch, its augmentation is
    another.

    Args:
        source: what to train on.
        data: `config.data`.
        seed: of the order and of the augmentation.
        batch_size: B, of all processes together.
        process_index, process_count: this process, and how many there are.
        bad: takes the names of unreadable images; one record a source. None for a new one.
        order: which example comes when, e.g. `samplers.IdentityOrder`; None for a permutation an epoch.
        extra: what travels beside the images; None for nothing.

    Returns:
        Iterator with `get_state` and `set_state`; a batch has image, label, valid and index
        (`fusionjax.types`), B / process_count rows.

    Raises:
        UserError: an empty source, a batch that the processes cannot share or that does not fit the order;
            from the iterator: too many unreadable images.
    """
    size, bad = len(source), bad or BadImages()
    transform = transforms.train_transform(data)
    read_one = _reader(source, data, bad)

    def read(epoch: int, index: int, repeat: int = 0) -> Example:
        row = read_one(index, lambda image: transform(image, _rng(seed, epoch, index, repeat)))
        return joined(row, extra, epoch, repeat)

    return TrainStream(
        read, size=size, seed=seed, batch_size=batch_size,
        process_index=process_index, process_count=process_count, threads=data.threads,
        prefetch=data.prefetch, check=lambda: bad.check(size, data.max_bad_fraction), sampled=order,
    )  # fmt: skip


def eval_batches(
    source: Source,
    data: Any,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    bad: BadImages | None = None,
    extra: Extra | None = None,
) -> FiniteBatches:
    """Every example once, by index, without augmentation; the last batch is padded with valid 0 and index −1.

    Args and errors are those of `train_dataset`; the result can be iterated over again and again.
    """
    transform = transforms.eval_transform(data)
    return _finite(
        source,
        data,
        lambda image, index: transform(image),
        batch_size,
        process_index,
        process_count,
        bad,
        extra,
    )


def augmented_batches(
    source: Source,
    data: Any,
    *,
    seed: int,
    epoch: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    bad: BadImages | None = None,
) -> FiniteBatches:
    """Every example once, by index, augmented as in `epoch` of `train_dataset`: a pass of a feature cache."""
    transform = transforms.train_transform(data)

    def apply(image: np.ndarray, index: int) -> np.ndarray:
        return transform(image, _rng(seed, epoch, index))

    return _finite(source, data, apply, batch_size, process_index, process_count, bad)


def _finite(
    source: Source,
    data: Any,
    apply: Callable[[np.ndarray, int], np.ndarray],
    batch_size: int,
    process_index: int,
    process_count: int,
    bad: BadImages | None,
    extra: Extra | None = None,
) -> FiniteBatches:
    size, bad = len(source), bad or BadImages()
    read_one = _reader(source, data, bad)
    return FiniteBatches(
        lambda index: joined(read_one(index, lambda image: apply(image, index)), extra, None),
        joined(_example(_blank(source, data), 0, 0.0, -1, data.carry), extra, None),
        size=size, batch_size=batch_size,
        process_index=process_index, process_count=process_count, threads=data.threads,
        prefetch=data.prefetch, check=lambda: bad.check(size, data.max_bad_fraction),
    )  # fmt: skip


def _reader(source: Source, data: Any, bad: BadImages) -> Callable[[int, Callable], Example]:
    """(index, transform) → example; an image that cannot be read is recorded and comes out blank."""
    _single_threaded_opencv()
    labels, blank = source.labels, _blank(source, data)
    carried = _carried(source, data.carry)

    def read(index: int, transform: Callable[[np.ndarray], np.ndarray]) -> Example:
        try:
            image = transform(read_image(source, index, data))
        except Exception as e:  # raised in a reading thread it would lose more than its own example
            reason = str(e) if isinstance(e, DecodeError) else f"{type(e).__name__}: {e}"
            bad.record(source.names[index], " ".join(reason.split()))
            return _example(blank, 0, 0.0, index, data.carry)
        return _example(image, labels[index], 1.0, index) | {k: v[index] for k, v in carried.items()}

    return read


def _rng(seed: int, epoch: int, index: int, repeat: int = 0) -> np.random.Generator:
    return np.random.default_rng([_STREAM, seed, epoch, index, *([repeat] if repeat else [])])


def read_image(source: Source, index: int, data: Any) -> np.ndarray:
    """An example as its source has it: RGB uint8 (h, w, 3), or (h, w, C) where `data.modalities` speaks of channels.

    Raises:
        DecodeError, OSError: as `Source.load`.
    """
    if not data.modalities:
        return decode(source.load(index), data.max_pixels)
    image, count = np.asarray(source.load(index)), transforms.channels(data)
    if image.ndim != 3 or image.shape[-1] != count:
        raise DecodeError(f"it is {image.shape}, not (H, W, {count})")
    return image


def dtype_of(source: Any) -> np.dtype:
    """Of the images in a batch: uint8, or what a source of other images says of them, also where it is wrapped."""
    while source is not None:
        found = getattr(source, "dtype", None)
        if found is not None:
            return np.dtype(found)
        source = getattr(source, "source", None)
    return np.dtype(np.uint8)


def _blank(source: Source, data: Any) -> np.ndarray:
    return np.zeros((*transforms.image_shape(data), transforms.channels(data)), dtype_of(source))


def _carried(source: Source, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The columns of `data.carry`, int32."""
    columns = source.columns
    for name in names:
        if name not in columns or np.asarray(columns[name]).dtype.kind not in "iu":
            raise UserError(
                f"config.data.carry names {name!r}, and {source.name} has no such column of whole numbers; its "
                f"columns are {', '.join(columns) or 'none'}"
            )
    return {name: np.asarray(columns[name]).astype(np.int32) for name in names}


def _example(image: np.ndarray, label: int, valid: float, index: int, carry: Sequence[str] = ()) -> Example:
    """One row; what `carry` names is 0."""
    row = {"image": image, "label": np.int32(label), "valid": np.float32(valid), "index": np.int32(index)}
    return row | {name: np.int32(0) for name in carry}


@functools.cache
def _single_threaded_opencv() -> None:
    """The reading threads are the parallelism; OpenCV's own within each of them would only contend."""
    cv2.setNumThreads(0)


def view(source: Source, index: int, data: Any) -> np.ndarray:
    """An example as the model sees it at test, as stored; what reports show. Raises as `read_image`."""
    return transforms.eval_transform(data)(read_image(source, index, data))


def array_batches(
    images: list[np.ndarray],
    size: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    carried: Mapping[str, Sequence[int]] = MappingProxyType({}),
    extra: Extra | None = None,
) -> Iterator[Example]:
    """Images at hand, all of one shape, uint8, in batches of `size`, of which this process gets its share; padded as above.
    `carried` has a value an image for each name of `data.carry`, `extra` a row an image."""
    blank = (
        joined(_example(np.zeros_like(images[0]), 0, 0.0, -1, tuple(carried)), extra, None) if images else {}
    )
    local = order_lib.local_batch_size(size, process_index, process_count)
    for start in range(0, len(images), size):
        rows = [
            joined(_example(images[i], 0, 1.0, i), extra, None)
            | {name: np.int32(values[i]) for name, values in carried.items()}
            for i in range(start, min(start + size, len(images)))
        ]
        rows += [blank] * (size - len(rows))
        rows = rows[process_index * local : (process_index + 1) * local]
        yield {key: np.stack([row[key] for row in rows]) for key in rows[0]}
