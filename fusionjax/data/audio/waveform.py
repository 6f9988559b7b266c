"""Sound file → one channel of float32 at one rate, cut or padded to a length, with a mask of what is sound.

Whatever libsndfile reads: Ogg, WAV, FLAC, MP3, AIFF and more. Nothing is guessed: a file that is damaged, cut off, empty or
silent is a `DecodeError` that says so.
"""

import importlib
import io
import math
import os
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fusionjax.data.audio import integrity
from fusionjax.data.image.decode import DecodeError
from fusionjax.errors import UserError
from fusionjax.types import SAMPLE_RATE

SHORTEST = 400
"""Samples of Wav2Vec2's first frame, 25 ms at `SAMPLE_RATE`: a shorter clip has none."""
SILENCE = 2.0**-15
"""Range of the samples, highest less lowest, below which there is no sound: one step of 16 bits."""
EPSILON = 1e-7
_RATES = (1_000, 768_000)
_MOST = 2**28

SoundFile = bytes | str | PathLike


class SilentError(DecodeError):
    """A sound file is whole, and there is nothing to hear in it."""


class Header(NamedTuple):
    """What a file says of its sound.

    Attributes:
        samples: of each channel.
        rate: samples a second.
        channels: how many.
    """

    samples: int
    rate: int
    channels: int

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.samples / self.rate


def header(source: SoundFile) -> Header:
    """Length, rate and channels, without decoding the sound.

    Args:
        source: the file's bytes, or its path.

    Raises:
        DecodeError: no such file, not a sound file, a header that cannot be.
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
    """The sound of a file: the mean of its channels, resampled by soxr at quality HQ.

    Args:
        source: the file's bytes, or its path.
        rate: samples a second of the result.
        longest: S, the most samples of the result; of a longer sound only such a window is decoded. 0 for all.
        rng: draws where the window begins; None for the middle.
        max_seconds: length above which a sound that is read whole is refused, from its header, before memory is taken for it.

    Returns:
        float32 (S',), S' ≤ `longest` where that is given; at least one sample.

    Raises:
        DecodeError: whatever is wrong: no such file, no sound file, damaged, ends early, no samples, a sample that is not a
            number, too long. `SilentError` where nothing is to be heard in what was read.
        UserError: the packages that read sound are missing.
    """
    data, size = _guarded(lambda: _looked_at(source))

    def window(file: Any, found: Header) -> np.ndarray:
        if not found.samples:
            raise DecodeError("it holds no samples")
        count = math.ceil(longest * found.rate / rate) if longest else found.samples
        spare = max(0, found.samples - count)
        start = int(rng.integers(spare + 1)) if rng is not None and spare else spare // 2
        if not longest and found.seconds > max_seconds:
            raise DecodeError(f"{found.seconds:.0f} s of sound are more than max_seconds={max_seconds:g}")
        if start:
            file.seek(start)
        count = min(count, found.samples - start)
        if count * found.channels > _MOST:
            raise DecodeError(f"{count:,} samples of {found.channels} channels are too many to read at once")
        samples = file.read(count, dtype="float32", always_2d=True)
        if len(samples) < count:
            got = (start + len(samples)) / found.rate
            raise DecodeError(f"the sound ends after {got:.2f} of {found.seconds:.2f} s: the file is cut off")
        return _mono(samples, found.rate)

    def whole() -> np.ndarray:
        wrong = integrity.damage(data, size)
        if wrong:
            raise DecodeError(wrong)
        return resample(*_opened(source, lambda file, found: (window(file, found), found.rate)), rate)

    samples = _guarded(whole)
    samples = samples[:longest] if longest else samples
    if not len(samples):
        raise DecodeError(f"it is shorter than one sample at {rate} Hz")
    return samples


def resample(samples: np.ndarray, old: int, new: int) -> np.ndarray:
    """(S,) float32 at `old` Hz → (S · new / old rounded,) at `new` Hz: soxr, quality HQ, which keeps what both rates can hold.

    Raises:
        UserError: soxr is missing.
    """
    return samples if old == new else package("soxr").resample(samples, old, new, quality="HQ")


def fit(
    samples: np.ndarray, length: int, rng: np.random.Generator | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A clip of a fixed length.

    Args:
        samples: (S,) float.
        length: T. Of a longer clip a window is kept, a shorter one is followed by zeros.
        rng: draws the window; None for the middle.

    Returns:
        Samples (T,) and bool mask (T,), True for sound, which comes first.
    """
    spare = len(samples) - length
    if spare > 0:
        start = int(rng.integers(spare + 1)) if rng is not None else spare // 2
        samples = samples[start : start + length]
    out = np.zeros(length, samples.dtype)
    out[: len(samples)] = samples
    return out, np.arange(length) < len(samples)


def normalise(samples: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Zero mean and unit variance over the sound alone, as Wav2Vec2 wants its input: (x − mean) / √(variance + 1e-7).

    Args:
        samples: (..., T) float, one clip a row.
        mask: bool (..., T), True for sound; None where all is.

    Returns:
        float32 (..., T), 0 outside of the mask; all 0 for a clip without sound.
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
    """A file as the encoder takes it: read, cut or padded, normalised.

    Args:
        source: the file's bytes, or its path.
        length: T, samples of the result.
        rate: samples a second.
        rng: draws the window of a longer sound, and the augmentation; None for the middle and none.
        augment: (samples (S,), rng) → (S,), e.g. `audio_augment.Augment`; only with `rng`.
        shortest: samples below which the encoder has no frame.

    Returns:
        Samples float32 (T,), normalised over the sound and 0 after it, and its bool mask (T,).

    Raises:
        DecodeError: as `read`; a clip that is shorter than `shortest`.
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


def package(name: str) -> Any:
    """soundfile or soxr.

    Raises:
        UserError: it is missing.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f'sound needs the package {name}: pip install "fusionjax[audio]"') from None


class _Bytes(io.BytesIO):
    """Bytes that libsndfile may seek before the start of, as a damaged header makes it do, without a traceback on stderr."""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return self.tell()


def _looked_at(source: SoundFile) -> tuple[bytes, int]:
    """What `sound_files.damage` needs of a file, which may be hours long, and the file's size."""
    if not isinstance(source, str | PathLike):
        return bytes(source), len(source)
    with open(source, "rb") as file:
        data = file.read(integrity.HEAD)
        data += file.read() if data.startswith(integrity.OGG) else b""
        return data, os.fstat(file.fileno()).st_size


def _opened(source: SoundFile, use: Callable[[Any, Header], Any]) -> Any:
    """`use` of an open file and its header. A path is read by libsndfile itself: without Python's lock, and faster."""
    soundfile = package("soundfile")
    by_path = isinstance(source, str | PathLike)
    if not (Path(source).stat().st_size if by_path else len(source)):
        raise DecodeError("the file is empty")
    with soundfile.SoundFile(str(source) if by_path else _Bytes(source)) as file:
        found = Header(int(file.frames), int(file.samplerate), int(file.channels))
        if not _RATES[0] <= found.rate <= _RATES[1]:
            raise DecodeError(f"its rate of {found.rate} Hz is not within {_RATES[0]:,} to {_RATES[1]:,}")
        return use(file, found)


def _mono(samples: np.ndarray, rate: int) -> np.ndarray:
    """(S, channels) → their mean (S,), if it is sound."""
    # Column by column: NumPy's sum over so short an axis takes ten times as long.
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


def _guarded(work: Callable[[], Any]) -> Any:
    """The result, or a DecodeError of whatever was raised; the libraries raise many types on damaged data."""
    try:
        return work()
    except (DecodeError, UserError):
        raise
    except FileNotFoundError:
        raise DecodeError("there is no such file") from None
    except Exception as error:
        # libsndfile's words stand alone: its exception puts the name of a file object before them.
        words = getattr(error, "error_string", "") or f"{type(error).__name__}: {error}"
        raise DecodeError(" ".join(words.split())[:300]) from error
