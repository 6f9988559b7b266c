"""Audio file → mono float32 samples at one rate, cropped or padded to a length, with a mask of the valid samples.

Every format of libsndfile is read: Ogg, WAV, FLAC, MP3, AIFF and more. A file that is damaged, truncated, empty or silent
raises a `DecodeError` with the reason.
"""

import importlib
import io
import math
import os
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from fusionjax.data.audio import integrity
from fusionjax.data.unreadable import DecodeError
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
    data, size = _guarded(lambda: _looked_at(source))

    def window(file: _OpenFile, found: Header) -> np.ndarray:
        if not found.samples:
            raise DecodeError("it holds no samples")
        count = math.ceil(longest * found.rate / rate) if longest else found.samples
        spare = max(0, found.samples - count)
        start = int(rng.integers(spare + 1)) if rng is not None and spare else spare // 2
        if not longest and found.seconds > max_seconds:
            raise DecodeError(f"{found.seconds:.0f} s of audio are more than max_seconds={max_seconds:g}")
        if start:
            file.seek(start)
        count = min(count, found.samples - start)
        if count * found.channels > _MOST:
            raise DecodeError(f"{count:,} samples of {found.channels} channels are too many to read at once")
        samples = file.read(count, dtype="float32", always_2d=True)
        if len(samples) < count:
            got = (start + len(samples)) / found.rate
            raise DecodeError(
                f"the audio ends after {got:.2f} of {found.seconds:.2f} s: the file is truncated"
            )
        return _mono(samples, found.rate)

    def whole() -> np.ndarray:
        wrong = integrity.damage(data, size)
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


def _looked_at(source: SoundFile) -> tuple[bytes, int]:
    """The bytes of a file (which may be hours long) that `integrity.damage` needs, and the size of the file."""
    if not isinstance(source, str | PathLike):
        return bytes(source), len(source)
    with open(source, "rb") as file:
        data = file.read(integrity.HEAD)
        data += file.read() if data.startswith(integrity.OGG) else b""
        return data, os.fstat(file.fileno()).st_size


class _OpenFile(Protocol):
    """What is used of `soundfile.SoundFile`."""

    def seek(self, frames: int) -> int: ...

    def read(self, frames: int, dtype: str, always_2d: bool) -> np.ndarray: ...


def _opened(source: SoundFile, use: Callable[[_OpenFile, Header], T]) -> T:
    """The result of `use` on an open file and its header. libsndfile reads a path itself, without Python's lock."""
    soundfile = package("soundfile")
    opened: str | _Bytes
    if isinstance(source, str | PathLike):
        opened, size = str(source), Path(source).stat().st_size
    else:
        opened, size = _Bytes(source), len(source)
    if not size:
        raise DecodeError("the file is empty")
    with soundfile.SoundFile(opened) as file:
        found = Header(int(file.frames), int(file.samplerate), int(file.channels))
        if not _RATES[0] <= found.rate <= _RATES[1]:
            raise DecodeError(f"its rate of {found.rate} Hz is not within {_RATES[0]:,} to {_RATES[1]:,}")
        return use(file, found)


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
    """The result of `work`; every exception becomes a DecodeError, as the libraries raise many types on damaged data."""
    try:
        return work()
    except (DecodeError, UserError):
        raise
    except FileNotFoundError:
        raise DecodeError("there is no such file") from None
    except Exception as error:
        # libsndfile's own message: its exception puts the name of a file object before it.
        words = getattr(error, "error_string", "") or f"{type(error).__name__}: {error}"
        raise DecodeError(" ".join(words.split())[:300]) from error
