"""Image sources → batches: decoding, augmentation, batching, and the rows of this process in each batch.

An image that cannot be read raises nothing here: it becomes a row with `valid` 0, its name is recorded, and the run stops
when there are too many.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import cv2
import numpy as np
from ml_collections import ConfigDict

from fusionjax.data.image import transforms
from fusionjax.data.image.decode import decode
from fusionjax.data.loading.auxiliary import Auxiliary, with_auxiliary
from fusionjax.data.loading.stream import Example, FiniteBatches, HostBatch, SampledOrder, TrainStream
from fusionjax.data.sampling import order as order_lib
from fusionjax.data.source import Source, find_attribute, listed_columns
from fusionjax.data.unreadable import BadImages, DecodeError, why_unreadable
from fusionjax.errors import UserError

_STREAM = 0xA06  # keeps these draws apart from others that start from the same seed


def train_dataset(
    source: Source,
    data: ConfigDict,
    *,
    seed: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    bad: BadImages | None = None,
    order: SampledOrder | None = None,
    auxiliary: Auxiliary | None = None,
) -> TrainStream:
    """Endless training batches.

    The order is a function of (seed, epoch), the augmentation of an image one of (seed, epoch, index): the numbers of threads
    and processes do not change a bit. Where an order repeats an image within an epoch, its augmentation differs.

    Args:
        source: the training split.
        data: `config.data`.
        seed: seed of the order and of the augmentation.
        batch_size: B, over all processes.
        process_index, process_count: index of this process, and number of processes.
        bad: the record that unreadable images are added to, one per source; None for a new one.
        order: the order of the examples, e.g. `identity_batches.IdentityOrder`; None for one permutation per epoch.
        auxiliary: auxiliary inputs; None for none.

    Returns:
        Iterator with `get_state` and `set_state`. A batch has the keys image, label, valid and index (see `fusionjax.types`),
        those of `data.carry` (int32) and those of `auxiliary`; its arrays have B / process_count rows.

    Raises:
        UserError: an empty source; B is not a multiple of the number of processes, or does not fit the order. While
            iterating: too many unreadable images.
    """
    size, bad = len(source), bad or BadImages()
    transform = transforms.train_transform(data)
    read_one = _reader(source, data, bad)

    def read(epoch: int, index: int, repeat: int = 0) -> Example:
        row = read_one(index, lambda image: transform(image, _rng(seed, epoch, index, repeat)))
        return with_auxiliary(row, auxiliary, epoch, repeat)

    return TrainStream(
        read, size=size, seed=seed, batch_size=batch_size,
        process_index=process_index, process_count=process_count, threads=data.threads,
        prefetch=data.prefetch, check=lambda: bad.check(size, data.max_bad_fraction), sampled=order,
    )  # fmt: skip


def eval_batches(
    source: Source,
    data: ConfigDict,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    bad: BadImages | None = None,
    auxiliary: Auxiliary | None = None,
) -> FiniteBatches:
    """Every example once, in the order of the indices, without augmentation.

    The last batch is filled up with padding examples, which have `valid` 0 and `index` −1.

    Args:
        source: the split to evaluate.
        data, batch_size, process_index, process_count, bad, auxiliary: as for `train_dataset`.

    Returns:
        Batches that can be iterated over repeatedly, with the keys of `train_dataset`.

    Raises:
        UserError: as for `train_dataset`.
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
        auxiliary,
    )


def augmented_batches(
    source: Source,
    data: ConfigDict,
    *,
    seed: int,
    epoch: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    bad: BadImages | None = None,
) -> FiniteBatches:
    """Every example once, by index, augmented as in `epoch` of `train_dataset`: one pass of a feature cache.

    Args:
        source, data, seed, batch_size, process_index, process_count, bad: as for `train_dataset`.
        epoch: the training epoch whose augmentation is applied, from 0.

    Returns:
        Batches that can be iterated over repeatedly.
    """
    transform = transforms.train_transform(data)

    def apply(image: np.ndarray, index: int) -> np.ndarray:
        return transform(image, _rng(seed, epoch, index))

    return _finite(source, data, apply, batch_size, process_index, process_count, bad)


def _finite(
    source: Source,
    data: ConfigDict,
    apply: Callable[[np.ndarray, int], np.ndarray],
    batch_size: int,
    process_index: int,
    process_count: int,
    bad: BadImages | None,
    auxiliary: Auxiliary | None = None,
) -> FiniteBatches:
    size, bad = len(source), bad or BadImages()
    read_one = _reader(source, data, bad)
    return FiniteBatches(
        lambda index: with_auxiliary(read_one(index, lambda image: apply(image, index)), auxiliary, None),
        with_auxiliary(_example(_blank(source, data), 0, 0.0, -1, data.carry), auxiliary, None),
        size=size, batch_size=batch_size,
        process_index=process_index, process_count=process_count, threads=data.threads,
        prefetch=data.prefetch, check=lambda: bad.check(size, data.max_bad_fraction),
    )  # fmt: skip


def _reader(
    source: Source, data: ConfigDict, bad: BadImages
) -> Callable[[int, transforms.Transform], Example]:
    """(index, transform) → example; an image that cannot be read is recorded, and its example is blank."""
    _single_threaded_opencv()
    labels, blank = source.labels, _blank(source, data)
    carried = _carried(source, data.carry)

    def read(index: int, transform: transforms.Transform) -> Example:
        try:
            image = transform(read_image(source, index, data))
        except Exception as e:  # an exception in a reading thread would lose further examples
            bad.record(source.names[index], why_unreadable(e, source.names[index]))
            return _example(blank, 0, 0.0, index, data.carry)
        return _example(image, labels[index], 1.0, index) | {k: v[index] for k, v in carried.items()}

    return read


def _rng(seed: int, epoch: int, index: int, repeat: int = 0) -> np.random.Generator:
    return np.random.default_rng([_STREAM, seed, epoch, index, *([repeat] if repeat else [])])


def read_image(source: Source, index: int, data: ConfigDict) -> np.ndarray:
    """Reads and decodes one example.

    Args:
        source: a source.
        index: position of the example.
        data: `config.data`.

    Returns:
        RGB uint8 (h, w, 3); where `data.modalities` is set, (h, w, C) as stored.

    Raises:
        DecodeError, OSError: the example cannot be read, or does not have C channels.
    """
    if not data.modalities:
        return decode(source.load(index), data.max_pixels, data.value_range)
    image, count = np.asarray(source.load(index)), transforms.channels(data)
    if image.ndim != 3 or image.shape[-1] != count:
        raise DecodeError(f"it is {image.shape}, not (H, W, {count})")
    return image


def dtype_of(source: Source) -> np.dtype:
    """The dtype of the images in a batch: the attribute `dtype` of the source (or of the one it wraps), else uint8."""
    found = find_attribute(source, "dtype")
    return np.dtype(np.uint8 if found is None else found)


def _blank(source: Source, data: ConfigDict) -> np.ndarray:
    return np.zeros((*transforms.image_shape(data), transforms.channels(data)), dtype_of(source))


def _carried(source: Source, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The columns that `data.carry` names, (N,) int32."""
    columns = source.columns
    for name in names:
        if name not in columns or np.asarray(columns[name]).dtype.kind not in "iu":
            raise UserError(
                f"config.data.carry names {name!r}, and {source.name} has no such column of integers; its "
                f"columns are {listed_columns(source)}"
            )
        span, values = np.iinfo(np.int32), columns[name]
        beyond = np.flatnonzero((values < span.min) | (values > span.max))
        if len(beyond):
            raise UserError(
                f"config.data.carry names {name!r}, and {source.names[beyond[0]]} has {values[beyond[0]]} there: a batch "
                "carries integers of 32 bits, so number the values from 0"
            )
    return {name: np.asarray(columns[name]).astype(np.int32) for name in names}


def _example(image: np.ndarray, label: int, valid: float, index: int, carry: Sequence[str] = ()) -> Example:
    """One row; the columns named by `carry` are 0."""
    row: Example = {
        "image": image,
        "label": np.int32(label),
        "valid": np.float32(valid),
        "index": np.int32(index),
    }
    return row | {name: np.int32(0) for name in carry}


@functools.cache
def _single_threaded_opencv() -> None:
    """The reading threads run in parallel; threads of OpenCV within each of them would only contend."""
    cv2.setNumThreads(0)


def view(source: Source, index: int, data: ConfigDict) -> np.ndarray:
    """One example after the evaluation transform, not normalised, as reports show it; arguments and errors of `read_image`."""
    return transforms.eval_transform(data)(read_image(source, index, data))


def array_batches(
    images: list[np.ndarray],
    size: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    carried: Mapping[str, Sequence[int]] = MappingProxyType({}),
    auxiliary: Auxiliary | None = None,
) -> Iterator[HostBatch]:
    """In-memory images as batches; the last one is filled up with padding examples.

    Args:
        images: N images (h, w, C) of one shape and dtype.
        size: B, over all processes.
        process_index, process_count: index of this process, and number of processes.
        carried: name of `data.carry` → N integers.
        auxiliary: auxiliary inputs of the N images; None for none.

    Yields:
        Batches with the keys of `eval_batches`; label is 0.
    """
    blank = (
        with_auxiliary(_example(np.zeros_like(images[0]), 0, 0.0, -1, tuple(carried)), auxiliary, None)
        if images
        else {}
    )
    local = order_lib.local_batch_size(size, process_index, process_count)
    for start in range(0, len(images), size):
        rows = [
            with_auxiliary(_example(images[i], 0, 1.0, i), auxiliary, None)
            | {name: np.int32(values[i]) for name, values in carried.items()}
            for i in range(start, min(start + size, len(images)))
        ]
        rows += [blank] * (size - len(rows))
        rows = rows[process_index * local : (process_index + 1) * local]
        yield {key: np.stack([row[key] for row in rows]) for key in rows[0]}
