"""Audio file → mono float32 samples at one rate, cropped or padded to a length, with a mask of the valid samples.

Every format of libsndfile is read: Ogg, WAV, FLAC, MP3, AIFF and more. A file that is damaged, truncated, empty or silent
raises a `DecodeError` with the reason.
"""

import contextlib
import importlib
import io
import math
import os
import sys
from collections.abc import Callable, Iterator
from os import PathLike
from types import ModuleType
from typing import BinaryIO, NamedTuple, Protocol, TypeVar

import numpy as np

from fusionjax import files
from fusionjax.data.audio import integrity, mp3
from fusionjax.data.unreadable import DecodeError, decode_error
from fusionjax.errors import UserError
from fusionjax.types import SAMPLE_RATE

SHORTEST = 400
"""Samples of the first frame of Wav2Vec2, 25 ms at `SAMPLE_RATE`; a shorter clip has no frame."""
SILENCE = 2.0**-15
"""Peak-to-peak amplitude below which a file is silent: one step of 16 bits."""
EPSILON = 1e-7
"""Added to the variance, as in Wav2Vec2's feature extractor."""
_RATES = (1_000, 768_000)
_MOST = 2**28
_UNKNOWN = 2**60
"""More samples than that are libsndfile's word for a number that the header does not state."""
_BLOCK = 2**16
_SD2 = range(148, 155)
"""libsndfile's errors of Sound Designer II, which it takes content of an unknown format for."""

SoundFile = bytes | str | PathLike[str]
"""The content of an audio file, or its path."""
T = TypeVar("T")


class SilentError(DecodeError):
    """An audio file is not damaged, but silent."""


class Header(NamedTuple):
    """The header of an audio file.

    Attributes:
        samples: number of samples per channel.
        rate: sampling rate, Hz.
        channels: number of channels.
    """

    samples: int
    rate: int
    channels: int

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.samples / self.rate


def header(source: SoundFile) -> Header:
    """Reads length, rate and channels without decoding the samples.

    Args:
        source: content or path of the file.

    Raises:
        DecodeError: the file does not exist, is not an audio file, or has an invalid header.
        UserError: the package soundfile is missing.
    """
    return _guarded(lambda: _opened(source, lambda file, found: found))


def read(
    source: SoundFile,
    *,
    rate: int = SAMPLE_RATE,
    longest: int = 0,
    rng: np.random.Generator | None = None,
    max_seconds: float = 600.0,
) -> np.ndarray:
    """Reads an audio file: the mean of its channels, resampled by soxr at quality HQ.

    Args:
        source: content or path of the file.
        rate: sampling rate of the result, Hz.
        longest: maximum number of samples of the result; of a longer file only a window is decoded. 0 for no limit.
        rng: source of the random position of the window; None for the middle.
        max_seconds: maximum duration of a file that is read as a whole; a longer one is refused by its header, before memory
            is allocated for it.

    Returns:
        (S,) float32, 1 ≤ S, and S ≤ `longest` where that is given.

    Raises:
        DecodeError: the file does not exist, is not an audio file, is damaged, truncated, empty, too long, or holds NaN or
        Inf. SilentError: the samples that were read are silent.
        UserError: the packages soundfile and soxr are missing.
    """

    def window(file: _OpenFile, found: Header) -> np.ndarray:
        if not found.samples:
            raise DecodeError("it holds no samples")
        streamed = _streamed(file, found, max_seconds) if found.samples > _UNKNOWN else None
        if streamed is not None:
            found = found._replace(samples=len(streamed))
        count = math.ceil(longest * found.rate / rate) if longest else found.samples
        spare = max(0, found.samples - count)
        start = int(rng.integers(spare + 1)) if rng is not None and spare else spare // 2
        if not longest and found.seconds > max_seconds:
            raise DecodeError(_too_long(found.seconds, max_seconds))
        count = min(count, found.samples - start)
        if count * found.channels > _MOST:
            raise DecodeError(f"{count:,} samples of {found.channels} channels are too many to read at once")
        if streamed is not None:
            return _mono(streamed[start : start + count], found.rate)
        file = _at(file, start)
        samples = file.read(count, dtype="float32", always_2d=True)
        if len(samples) < count:
            got = (start + len(samples)) / found.rate
            raise DecodeError(
                f"the audio ends after {got:.2f} of {found.seconds:.2f} s: the file is truncated"
            )
        return _mono(samples, found.rate)

    def whole() -> np.ndarray:
        with _stream(source) as (stream, size):
            wrong = integrity.damage(stream, size)
        if wrong:
            raise DecodeError(wrong)
        decoded, old = _opened(source, lambda file, found: (window(file, found), found.rate))
        return resample(decoded, old, rate)

    samples = _guarded(whole)
    samples = samples[:longest] if longest else samples
    if not len(samples):
        raise DecodeError(f"it is shorter than one sample at {rate} Hz")
    return samples


def resample(samples: np.ndarray, old: int, new: int) -> np.ndarray:
    """Resamples with soxr, quality HQ.

    Args:
        samples: (S,) float32.
        old: sampling rate of `samples`, Hz.
        new: sampling rate of the result, Hz.

    Returns:
        (round(S · new / old),) float32.

    Raises:
        UserError: soxr is missing.
    """
    return samples if old == new else package("soxr").resample(samples, old, new, quality="HQ")


def fit(
    samples: np.ndarray, length: int, rng: np.random.Generator | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Crops or pads a clip to a fixed length.

    Args:
        samples: (S,) float.
        length: T. Of a longer clip a window is kept, a shorter one is padded with zeros at its end.
        rng: source of the random position of the window; None for the middle.

    Returns:
        samples (T,), and mask (T,) bool, False at padding.
    """
    spare = len(samples) - length
    if spare > 0:
        start = int(rng.integers(spare + 1)) if rng is not None else spare // 2
        samples = samples[start : start + length]
    out = np.zeros(length, samples.dtype)
    out[: len(samples)] = samples
    return out, np.arange(length) < len(samples)


def normalise(samples: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Zero mean and unit variance over the valid samples, (x − mean) / √(variance + 1e-7), the input of Wav2Vec2.

    Args:
        samples: (..., T) float, one clip per row.
        mask: (..., T) bool, False at padding; None where there is none.

    Returns:
        (..., T) float32, 0 outside of the mask; all 0 for a clip without valid samples.
    """
    mask = np.ones(np.shape(samples), bool) if mask is None else np.asarray(mask, bool)
    values = np.where(mask, samples, 0).astype(np.float64)
    count = np.maximum(mask.sum(-1, keepdims=True), 1)
    centred = np.where(mask, values - values.sum(-1, keepdims=True) / count, 0)
    variance = np.square(centred).sum(-1, keepdims=True) / count
    return (centred / np.sqrt(variance + EPSILON)).astype(np.float32)


def clip(
    source: SoundFile,
    length: int,
    *,
    rate: int = SAMPLE_RATE,
    rng: np.random.Generator | None = None,
    augment: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
    shortest: int = SHORTEST,
) -> tuple[np.ndarray, np.ndarray]:
    """Reads a file as input of the encoder: decoded, cropped or padded, normalised.

    Args:
        source: content or path of the file.
        length: T, samples of the result.
        rate: sampling rate of the result, Hz.
        rng: source of the window of a longer file and of the augmentation; None for the middle and no augmentation.
        augment: (samples (S,), rng) → (S,), e.g. `augment.Augment`; used only with `rng`.
        shortest: minimum number of samples, for which the encoder has a frame.

    Returns:
        samples (T,) float32, normalised over the valid samples and 0 at padding; mask (T,) bool, False at padding.

    Raises:
        DecodeError: as `read`; also a clip shorter than `shortest`.
        UserError: as `read`.
    """
    samples = read(source, rate=rate, longest=length, rng=rng)
    if len(samples) < shortest:
        raise DecodeError(
            f"{1000 * len(samples) / rate:.1f} ms are less than the {1000 * shortest / rate:g} ms of a frame"
        )
    if augment is not None and rng is not None:
        samples = augment(samples, rng)
    samples, mask = fit(samples, length)
    return normalise(samples, mask), mask


def package(name: str) -> ModuleType:
    """Imports soundfile or soxr.

    Raises:
        UserError: the package is missing.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f'audio needs the package {name}: pip install "fusionjax[audio]"') from None


class _Bytes(io.BytesIO):
    """A stream in which libsndfile may seek before the start, as it does for damaged headers, without a traceback."""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return self.tell()


@contextlib.contextmanager
def _stream(source: SoundFile) -> Iterator[tuple[BinaryIO, int]]:
    """A file, opened, and its size in bytes."""
    if not isinstance(source, str | PathLike):
        yield io.BytesIO(source), len(source)
        return
    size = files.check_readable(source, sys.maxsize)  # only parts of it are read
    with open(source, "rb") as file:
        yield file, size


class _OpenFile(Protocol):
    """What is used of `soundfile.SoundFile`."""

    def seek(self, frames: int) -> int: ...

    def read(self, frames: int, dtype: str, always_2d: bool) -> np.ndarray: ...


def _opened(source: SoundFile, use: Callable[[_OpenFile, Header], T]) -> T:
    """The result of `use` on an open file and its header. libsndfile reads a path itself, without Python's lock."""
    soundfile = package("soundfile")
    with _stream(source) as (stream, size):
        if not size:
            raise DecodeError("the file is empty")
        named = isinstance(source, str | PathLike) and os.fspath(source).lower().endswith(".mp3")
        completed = mp3.completed(stream, size, named=named)
    content = source if completed is None else completed
    # As bytes, a name need not be UTF-8.
    opened = os.fsencode(content) if isinstance(content, str | PathLike) else _Bytes(content)
    with soundfile.SoundFile(opened) as file:
        file.seekable = lambda: False  # read() would seek afterwards, which some formats cannot
        found = Header(int(file.frames), int(file.samplerate), int(file.channels))
        if not _RATES[0] <= found.rate <= _RATES[1]:
            raise DecodeError(f"its rate of {found.rate} Hz is not within {_RATES[0]:,} to {_RATES[1]:,}")
        return use(file, found)


def _at(file: _OpenFile, start: int) -> _OpenFile:
    """The file at a sample; a file that cannot seek there, such as GSM, is decoded from its beginning."""
    if not start:
        return file
    try:
        file.seek(start)
    except RuntimeError:
        while start:
            skipped = len(file.read(min(start, _BLOCK), dtype="float32", always_2d=True))
            if not skipped:
                raise
            start -= skipped
    return file


def _streamed(file: _OpenFile, found: Header, max_seconds: float) -> np.ndarray:
    """All samples (S, channels) of a file whose header leaves their number open, such as FLAC that was written to a pipe."""
    parts: list[np.ndarray] = []
    while not parts or len(parts[-1]) == _BLOCK:
        parts.append(file.read(_BLOCK, dtype="float32", always_2d=True))
        if len(parts) * _BLOCK > max_seconds * found.rate + _BLOCK:
            raise DecodeError(_too_long(len(parts) * _BLOCK / found.rate, max_seconds))
    return np.concatenate(parts)


def _too_long(seconds: float, max_seconds: float) -> str:
    return f"{seconds:.0f} s of audio are more than max_seconds={max_seconds:g}"


def _mono(samples: np.ndarray, rate: int) -> np.ndarray:
    """(S, channels) → mean over the channels (S,); raises DecodeError for NaN, Inf and silence."""
    # Column by column: NumPy's sum over such a short axis takes ten times as long.
    total = samples[:, 0].copy()
    for channel in samples.T[1:]:
        total += channel
    total *= np.float32(1 / samples.shape[1])
    if not np.isfinite(total).all():
        first = int(np.argmin(np.isfinite(total)))
        raise DecodeError(f"sample {first} ({first / rate:.3f} s) is not a finite number")
    if np.ptp(total) < SILENCE:
        raise SilentError(f"it is silent: {len(total) / rate:.2f} s without a sound")
    return total


def _guarded(work: Callable[[], T]) -> T:
    """The result of `work`; exceptions become DecodeErrors, as the libraries raise many types on damaged data."""
    try:
        return work()
    except DecodeError:
        raise
    except Exception as error:
        if getattr(error, "code", None) in _SD2:
            raise DecodeError("its format is not recognised") from None
        raise decode_error(error) from error
