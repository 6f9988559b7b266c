"""Mean, deviation and range of each channel over the pixels of a split, computed once and kept on disk."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from fusionjax import files
from fusionjax.data.feature_cache import store
from fusionjax.data.image.decode import DecodeError
from fusionjax.data.source import Source
from fusionjax.data.unreadable import BadImages
from fusionjax.errors import UserError

log = logging.getLogger(__name__)

_FIELDS = ("mean", "std", "minimum", "maximum")
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Of each channel, over all pixels of all readable images, in the units that the images are stored in.

    Attributes:
        mean: C numbers.
        std: C numbers, of the population (divided by the number of pixels); 0 for a channel that is constant.
        minimum, maximum: C numbers.
        images: that were read.
        pixels: of all of them together.
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
    """The statistics of a source, from the folder or, the first time, from the images.

    Sums of squares are of differences from each image's mean and combined by Chan's formula, in float64, in the order of the
    images: a large mean costs no digits, and the result does not depend on the number of threads. Memory is that of one image
    a thread.

    Args:
        source: whose `load` gives (h, w, C) arrays; sizes may differ, C may not.
        folder: of the kept numbers; the file is named by what they depend on: names, sizes and times of the files. A stale
            or damaged one is never used.
        bad: takes the names of the images that cannot be read, also when the numbers were kept; None for a new record.
        max_bad_fraction: share of them above which this fails; `config.data.max_bad_fraction`.
        threads: that read.

    Raises:
        UserError: too many images cannot be read, or none can; images with different numbers of channels.

    Source: Chan, Golub & LeVeque, The American Statistician 37(3), 1983, equation 2.1.
    """
    bad = BadImages() if bad is None else bad
    path = Path(folder) / f"statistics-{source.split}-{_key(source)}.json"
    kept = _kept(path)
    if kept is None:
        statistics, errors = _compute(source, threads)
        kept = statistics, {source.names[i]: _reason(e) for i, e in errors.items()}
        # An OSError may be the disk's or the network's, and pass.
        if statistics is not None and not any(isinstance(e, OSError) for e in errors.values()):
            _keep(path, *kept)
    statistics, reasons = kept
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
    """The statistics, None where no image can be read; and index → what is wrong with an image."""
    errors: dict[int, Exception] = {}
    count = images = 0
    mean = squares = low = high = None
    for i, part in enumerate(_moments(source, threads)):
        if isinstance(part, Exception):
            errors[i] = part
            continue
        n, part_mean, part_squares, part_low, part_high = part
        if mean is None:
            mean, squares, low, high = np.zeros(len(part_mean)), np.zeros(len(part_mean)), part_low, part_high
        if len(part_mean) != len(mean):
            raise UserError(
                f"{source.names[i]} has {len(part_mean)} channels, those before it have {len(mean)}"
            )
        delta, total = part_mean - mean, count + n
        mean = mean + delta * (n / total)
        squares = squares + part_squares + delta**2 * (count * n / total)
        low, high = np.minimum(low, part_low), np.maximum(high, part_high)
        count, images = total, images + 1
    if mean is None:
        return None, errors
    values = (mean, np.sqrt(squares / count), low, high)
    return Statistics(*(tuple(v.tolist()) for v in values), images, count), errors


def _moments(source: Source, threads: int) -> Iterator[Any]:
    """Of each image, in order: pixels, mean, squared differences from it, minimum, maximum; or why it cannot be read."""

    def one(i: int) -> Any:
        try:
            image = np.asarray(source.load(i))
        except (DecodeError, OSError) as e:
            return e
        if image.ndim != 3:
            raise UserError(
                f"statistics of channels need images (h, w, C); {source.names[i]} is {image.shape}"
            )
        pixels = image.reshape(-1, image.shape[-1]).astype(np.float64)
        mean = pixels.mean(axis=0)
        return len(pixels), mean, np.square(pixels - mean).sum(axis=0), pixels.min(axis=0), pixels.max(axis=0)

    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(one, range(len(source)))


def _reason(error: Exception) -> str:
    text = str(error) if isinstance(error, DecodeError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def _key(source: Source) -> str:
    """Digest of what the numbers are a function of."""
    parts = [_VERSION, source.name, source.split, list(source.names), store.stamps(source)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _keep(path: Path, statistics: Statistics, reasons: dict[str, str]) -> None:
    files.write_text(path, json.dumps(dataclasses.asdict(statistics) | {"bad": reasons}, indent=1))


def _kept(path: Path) -> tuple[Statistics, dict[str, str]] | None:
    """What `_keep` wrote; None where there is nothing, or nothing whole."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        reasons = {str(k): str(v) for k, v in content.pop("bad").items()}
        numbers = {name: tuple(map(float, content.pop(name))) for name in _FIELDS}
        statistics = Statistics(**numbers, **{name: int(content.pop(name)) for name in ("images", "pixels")})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
        log.warning("%s is damaged (%s): the statistics are computed again", path, type(e).__name__)
        return None
    if content or len({len(v) for v in numbers.values()}) != 1 or not np.isfinite([*numbers.values()]).all():
        log.warning("%s is damaged: the statistics are computed again", path)
        return None
    return statistics, reasons
