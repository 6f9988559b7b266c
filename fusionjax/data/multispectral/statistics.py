"""Mean, standard deviation and range of each channel over the pixels of a split, computed once and kept on disk."""

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fusionjax import disk_cache
from fusionjax.data import fingerprint
from fusionjax.data.source import Source, find_attribute
from fusionjax.data.unreadable import BadImages, DecodeError, why_unreadable
from fusionjax.errors import UserError

log = logging.getLogger(__name__)

_FIELDS = ("mean", "std", "minimum", "maximum")
_VERSION = 3


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Statistics of each channel over all pixels of all readable images, in the units of the stored images.

    Attributes:
        mean: C numbers.
        std: C numbers, the population standard deviation (divided by the number of pixels); 0 for a constant channel.
        minimum, maximum: C numbers.
        images: number of images that were read.
        pixels: number of pixels of all these images.

    Values that a file declares to be no data count in none of the four; see `multispectral.files.read`.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    minimum: tuple[float, ...]
    maximum: tuple[float, ...]
    images: int
    pixels: int


def channel_statistics(
    source: Source,
    folder: Path,
    *,
    bad: BadImages | None = None,
    max_bad_fraction: float = 0.01,
    threads: int = 8,
) -> Statistics:
    """The channel statistics of a source, read from a folder or, the first time, computed from the images.

    The squared differences from the mean of each image are combined by Chan's formula, in float64 and in the order of the
    images: a large mean loses no precision, and the result does not depend on the number of threads. One image per thread is
    in memory.

    Args:
        source: its `load` returns (h, w, C) arrays; sizes may differ, C may not.
        folder: of the entries, see `disk_cache`.
        bad: record that unreadable images are added to, also when the result is read from the folder; None for a new one.
        max_bad_fraction: largest allowed fraction of unreadable images, `config.data.max_bad_fraction`.
        threads: number of reading threads.

    Raises:
        UserError: too many images are unreadable, or all are; images with different numbers of channels.

    Source: Chan, Golub & LeVeque, The American Statistician 37(3), 1983, equation 2.1.
    """
    bad = BadImages() if bad is None else bad

    def compute() -> dict[str, np.ndarray]:
        found, errors = _compute(source, threads)
        reasons = {source.names[i]: why_unreadable(e, source.names[i]) for i, e in errors.items()}
        if found is None:
            _record(reasons, bad)
            bad.check(len(source), max_bad_fraction)
            raise UserError(
                f"split {source.split!r} of {source.name} has no image that can be read: {'; '.join(bad.messages)}"
            )
        temporary = any(isinstance(e, OSError) for e in errors.values())
        text = json.dumps(reasons).encode()
        return {
            **{name: np.asarray(value) for name, value in dataclasses.asdict(found).items()},
            "reasons": np.frombuffer(text, np.uint8),
            "temporary": np.asarray(temporary),
        }

    depends_on = {
        "version": _VERSION,
        "source": source.name,
        "split": source.split,
        "shape": list(find_attribute(source, "image_shape") or ()),  # drawings are rendered at a size
        "fill": find_attribute(source, "fill"),  # may decide which images are readable
        "state": fingerprint.state(source),
    }
    entry = disk_cache.Entry(folder, f"statistics-{source.split}", depends_on)
    arrays = entry.arrays(compute, keep=lambda made: not made["temporary"])
    _record(json.loads(arrays["reasons"].tobytes()), bad)
    bad.check(len(source), max_bad_fraction)
    mean, std, minimum, maximum = (tuple(arrays[name].tolist()) for name in _FIELDS)
    statistics = Statistics(mean, std, minimum, maximum, int(arrays["images"]), int(arrays["pixels"]))
    constant = [i for i, deviation in enumerate(statistics.std) if deviation == 0]
    if constant:
        log.warning("%s: constant over all pixels: channels %s", source.name, ", ".join(map(str, constant)))
    return statistics


def _compute(source: Source, threads: int) -> tuple[Statistics | None, dict[int, Exception]]:
    """The statistics, None where no image can be read; and index → error of each unreadable image."""
    errors: dict[int, Exception] = {}
    whole: _Moments | None = None
    for i, part in enumerate(_moments(source, threads)):
        if isinstance(part, Exception):
            errors[i] = part
            continue
        if whole is not None and len(part.mean) != len(whole.mean):
            raise UserError(
                f"{source.names[i]} has {len(part.mean)} channels, those before it have {len(whole.mean)}"
            )
        whole = part if whole is None else _combined(whole, part)
    if whole is None:
        return None, errors
    if not whole.counts.all():
        empty = ", ".join(map(str, np.flatnonzero(whole.counts == 0)))
        raise UserError(f"split {source.split!r} of {source.name} has no data at all in channels {empty}")
    mean, std, minimum, maximum = (
        tuple(v.tolist())
        for v in (whole.mean, np.sqrt(whole.squares / whole.counts), whole.minimum, whole.maximum)
    )
    return Statistics(mean, std, minimum, maximum, len(source) - len(errors), whole.pixels), errors


class _Moments(NamedTuple):
    """Of one or more images: number of pixels; of the values that are data their number, mean, sum of squared differences
    from it, minimum and maximum, (C,) each.
    """

    pixels: int
    counts: np.ndarray
    mean: np.ndarray
    squares: np.ndarray
    minimum: np.ndarray
    maximum: np.ndarray


def _combined(a: _Moments, b: _Moments) -> _Moments:
    """The moments of two disjoint sets of pixels together."""
    delta, total = b.mean - a.mean, a.counts + b.counts
    some = np.maximum(total, 1)
    return _Moments(
        a.pixels + b.pixels,
        total,
        a.mean + delta * (b.counts / some),
        a.squares + b.squares + delta**2 * (a.counts * b.counts / some),
        np.minimum(a.minimum, b.minimum),
        np.maximum(a.maximum, b.maximum),
    )


def _moments(source: Source, threads: int) -> Iterator[_Moments | Exception]:
    """The moments of each image, in order, or the error of one that cannot be read."""

    def one(i: int) -> _Moments | Exception:
        try:
            loaded = source.load(i)
        except (DecodeError, MemoryError, OSError) as e:
            return e
        image = np.asarray(loaded)
        if image.ndim != 3:
            raise UserError(f"channel statistics need images (h, w, C); {source.names[i]} is {image.shape}")
        pixels = image.reshape(-1, image.shape[-1]).astype(np.float64)
        if not isinstance(loaded, np.ma.MaskedArray):
            counts, mean = np.full(pixels.shape[1], len(pixels)), pixels.mean(axis=0)
            squares = np.square(pixels - mean).sum(axis=0)
            return _Moments(len(pixels), counts, mean, squares, pixels.min(axis=0), pixels.max(axis=0))
        known = ~np.ma.getmaskarray(loaded).reshape(pixels.shape)
        counts = known.sum(axis=0)
        mean = pixels.sum(axis=0, where=known) / np.maximum(counts, 1)
        squares = np.square(pixels - mean).sum(axis=0, where=known)
        low, high = (
            pixels.min(axis=0, where=known, initial=np.inf),
            pixels.max(axis=0, where=known, initial=-np.inf),
        )
        return _Moments(len(pixels), counts, mean, squares, low, high)

    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(one, range(len(source)))


def _record(reasons: Mapping[str, str], bad: BadImages) -> None:
    for name, reason in reasons.items():
        bad.record(name, reason)
