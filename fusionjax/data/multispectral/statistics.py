"""Mean, standard deviation and range of each channel over the pixels of a split, computed once and kept on disk."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fusionjax import files
from fusionjax.data.feature_cache import store
from fusionjax.data.source import Source
from fusionjax.data.unreadable import BadImages, DecodeError
from fusionjax.errors import UserError

log = logging.getLogger(__name__)

_FIELDS = ("mean", "std", "minimum", "maximum")
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Statistics of each channel over all pixels of all readable images, in the units of the stored images.

    Attributes:
        mean: C numbers.
        std: C numbers, the population standard deviation (divided by the number of pixels); 0 for a constant channel.
        minimum, maximum: C numbers.
        images: number of images that were read.
        pixels: number of pixels of all these images.
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
        folder: folder of the result. The name of the file holds a digest of the names, sizes and times of the images, so an
            outdated one is never used; a damaged one is computed again.
        bad: record that unreadable images are added to, also when the result is read from the folder; None for a new one.
        max_bad_fraction: largest allowed fraction of unreadable images, `config.data.max_bad_fraction`.
        threads: number of reading threads.

    Raises:
        UserError: too many images are unreadable, or all are; images with different numbers of channels.

    Source: Chan, Golub & LeVeque, The American Statistician 37(3), 1983, equation 2.1.
    """
    bad = BadImages() if bad is None else bad
    path = Path(folder) / f"statistics-{source.split}-{_key(source)}.json"
    statistics, reasons = _stored(path) or (None, {})
    if statistics is None:
        statistics, errors = _compute(source, threads)
        reasons = {source.names[i]: _reason(e) for i, e in errors.items()}
        # An OSError may be temporary.
        if statistics is not None and not any(isinstance(e, OSError) for e in errors.values()):
            _store(path, statistics, reasons)
    for name, reason in reasons.items():
        bad.record(name, reason)
    bad.check(len(source), max_bad_fraction)
    if statistics is None:
        raise UserError(
            f"split {source.split!r} of {source.name} has no image that can be read: {'; '.join(bad.messages)}"
        )
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
    mean, std, minimum, maximum = (
        tuple(v.tolist())
        for v in (whole.mean, np.sqrt(whole.squares / whole.pixels), whole.minimum, whole.maximum)
    )
    return Statistics(mean, std, minimum, maximum, len(source) - len(errors), whole.pixels), errors


class _Moments(NamedTuple):
    """Of one or more images: number of pixels; mean, sum of squared differences from it, minimum and maximum, (C,) float64."""

    pixels: int
    mean: np.ndarray
    squares: np.ndarray
    minimum: np.ndarray
    maximum: np.ndarray


def _combined(a: _Moments, b: _Moments) -> _Moments:
    """The moments of two disjoint sets of pixels together."""
    delta, total = b.mean - a.mean, a.pixels + b.pixels
    return _Moments(
        total,
        a.mean + delta * (b.pixels / total),
        a.squares + b.squares + delta**2 * (a.pixels * b.pixels / total),
        np.minimum(a.minimum, b.minimum),
        np.maximum(a.maximum, b.maximum),
    )


def _moments(source: Source, threads: int) -> Iterator[_Moments | Exception]:
    """The moments of each image, in order, or the error of one that cannot be read."""

    def one(i: int) -> _Moments | Exception:
        try:
            image = np.asarray(source.load(i))
        except (DecodeError, OSError) as e:
            return e
        if image.ndim != 3:
            raise UserError(f"channel statistics need images (h, w, C); {source.names[i]} is {image.shape}")
        pixels = image.reshape(-1, image.shape[-1]).astype(np.float64)
        mean = pixels.mean(axis=0)
        squares = np.square(pixels - mean).sum(axis=0)
        return _Moments(len(pixels), mean, squares, pixels.min(axis=0), pixels.max(axis=0))

    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(one, range(len(source)))


def _reason(error: Exception) -> str:
    text = str(error) if isinstance(error, DecodeError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def _key(source: Source) -> str:
    """Digest of everything that the statistics depend on."""
    parts = [_VERSION, source.name, source.split, list(source.names), store.file_fingerprints(source)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _store(path: Path, statistics: Statistics, reasons: dict[str, str]) -> None:
    files.write_text(path, json.dumps(dataclasses.asdict(statistics) | {"bad": reasons}, indent=1))


def _stored(path: Path) -> tuple[Statistics, dict[str, str]] | None:
    """What `_store` wrote; None where the file is absent or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        reasons = {str(k): str(v) for k, v in content.pop("bad").items()}
        numbers = {name: tuple(map(float, content.pop(name))) for name in _FIELDS}
        mean, std, minimum, maximum = (numbers[name] for name in _FIELDS)
        images, pixels = int(content.pop("images")), int(content.pop("pixels"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
        log.warning("%s is damaged (%s): the statistics are computed again", path, type(e).__name__)
        return None
    if content or len({len(v) for v in numbers.values()}) != 1 or not np.isfinite([*numbers.values()]).all():
        log.warning("%s is damaged: the statistics are computed again", path)
        return None
    return Statistics(mean, std, minimum, maximum, images, pixels), reasons
