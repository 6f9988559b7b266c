"""Audio augmentation: of the waveform, and masks over frames and features. All functions take an explicit generator.

The masks are SpecAugment's (Park et al., Interspeech 2019, arXiv 1904.08779), drawn as for Wav2Vec2 (Baevski et al., NeurIPS
2020, arXiv 2006.11477, section 3.1): starts without replacement, spans of one length that may overlap.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from fusionjax.errors import UserError
from fusionjax.types import SAMPLE_RATE


def gain(samples: np.ndarray, decibels: float) -> np.ndarray:
    """Multiplies the samples by 10^(decibels / 20).

    Normalisation undoes it: it only matters for encoders whose input keeps the loudness.

    Args:
        samples: (S,) float.
        decibels: gain.

    Returns:
        (S,) float32.
    """
    return (samples * np.float32(10 ** (decibels / 20))).astype(np.float32)


def add_noise(samples: np.ndarray, snr: float, rng: np.random.Generator) -> np.ndarray:
    """Adds white noise with a power `snr` decibels below that of the clip.

    Args:
        samples: (S,) float.
        snr: signal-to-noise ratio, dB.
        rng: the source of the noise.

    Returns:
        (S,) float32.
    """
    power = float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0
    deviation = np.sqrt(power / 10 ** (snr / 10))
    return (samples + deviation * rng.standard_normal(len(samples))).astype(np.float32)


def shift(samples: np.ndarray, offset: int) -> np.ndarray:
    """Shifts a clip in time; samples shifted in are 0, samples shifted out are discarded.

    Args:
        samples: (S,).
        offset: number of samples; positive is later, negative earlier.

    Returns:
        (S,), of the same dtype.
    """
    offset = max(-len(samples), min(len(samples), offset))
    out = np.zeros_like(samples)
    if offset >= 0:
        out[offset:] = samples[: len(samples) - offset]
    else:
        out[:offset] = samples[-offset:]
    return out


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random shift, gain and noise of a waveform, in that order.

    Attributes:
        gain: the gain is uniform in ± this many decibels.
        noise: probability of added noise.
        snr: range of the signal-to-noise ratio, dB, uniform.
        shift: the shift is uniform in ± this many seconds.
        rate: sampling rate, Hz.

    Raises:
        UserError: a value out of range.
    """

    gain: float = 6.0
    noise: float = 0.5
    snr: tuple[float, float] = (15.0, 40.0)
    shift: float = 0.1
    rate: int = SAMPLE_RATE

    def __post_init__(self) -> None:
        if not 0 <= self.noise <= 1:
            raise UserError(f"noise={self.noise} of the waveform must be a probability, 0 to 1")
        if self.gain < 0 or self.shift < 0:
            raise UserError(f"gain={self.gain} and shift={self.shift} of the waveform must not be negative")
        if len(self.snr) != 2 or self.snr[0] > self.snr[1]:
            raise UserError(f"snr={tuple(self.snr)} of the waveform must be two numbers, low <= high")

    def __call__(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(S,) → (S,) float32, a new array."""
        furthest = round(self.shift * self.rate)
        out = shift(samples, int(rng.integers(-furthest, furthest + 1)))
        out = gain(out, rng.uniform(-self.gain, self.gain))
        if rng.random() < self.noise:
            out = add_noise(out, rng.uniform(*self.snr), rng)
        return out


def spans(
    length: int,
    rng: np.random.Generator,
    *,
    probability: float = 0.05,
    span: int = 10,
    least: int = 2,
) -> np.ndarray:
    """A random mask over one axis: spans of equal length whose starts are drawn without replacement.

    The number of spans is probability · length / span, rounded up or down at random so that its mean is exact; it is at least
    `least`, and at most the number that fits without overlap. Spans may overlap, so the masked fraction is smaller than
    `probability`. transformers draws one rounding per batch; here it is drawn per clip, so that the mask of a clip does not
    depend on the other clips.

    Args:
        length: T, the positions that may be masked: the frames of a clip, or its features.
        rng: the source of randomness.
        probability: fraction of the positions that spans without overlap would mask; 0 for no mask.
        span: length of a span; an axis shorter than this is not masked.
        least: minimum number of spans.

    Returns:
        (T,) bool, True where masked.

    Raises:
        UserError: a value out of range.
    """
    if not 0 <= probability <= 1 or span < 1 or least < 0:
        raise UserError(
            f"probability={probability}, span={span} and least={least} of a mask must be 0 to 1, 1 or more, and 0 or more"
        )
    masked = np.zeros(length, bool)
    if not probability or length < span:
        return masked
    count = max(int(probability * length / span + rng.random()), least)
    count = min(count, length // span)
    starts = rng.choice(length - span + 1, count, replace=False)
    masked[(starts[:, None] + np.arange(span)).ravel()] = True
    return masked


def frame_masks(
    lengths: Sequence[int],
    total: int,
    rng: np.random.Generator,
    *,
    probability: float = 0.05,
    span: int = 10,
    least: int = 2,
) -> np.ndarray:
    """The mask of `spans` for each clip of a batch, over its own frames.

    Args:
        lengths: B numbers of frames, see `models.backbones.audio.num_frames`.
        total: T, frames of the padded batch.
        rng: the source of randomness, used clip by clip.
        probability, span, least: as for `spans`.

    Returns:
        (B, T) bool, False at padding: the argument `masked_frames` of `models.backbones.audio.Wav2Vec2`.
    """
    out = np.zeros((len(lengths), total), bool)
    for row, length in zip(out, lengths, strict=True):
        row[:length] = spans(int(length), rng, probability=probability, span=span, least=least)
    return out


def spec_augment(
    features: np.ndarray,
    mask: np.ndarray,
    rng: np.random.Generator,
    *,
    time: float = 0.1,
    time_span: int = 10,
    frequency: float = 0.1,
    frequency_span: int = 8,
    fill: float | None = None,
) -> np.ndarray:
    """SpecAugment: masks spans of frames and of bands of a spectrogram.

    Args:
        features: (T, F) float.
        mask: (T,) bool, False at padding, which comes last.
        rng: the source of randomness.
        time, time_span: probability and length of the spans of frames, see `spans`; at least one unless it is 0.
        frequency, frequency_span: the same for the bands.
        fill: value of the masked entries; None for the mean over the frames that are not padding.

    Returns:
        (T, F), a new array; padding is not changed.
    """
    own = int(np.sum(mask))
    covered = np.zeros(features.shape, bool)
    covered[:own] |= spans(own, rng, probability=time, span=time_span, least=1)[:, None]
    covered[:own] |= spans(features.shape[1], rng, probability=frequency, span=frequency_span, least=1)
    if fill is None:
        fill = float(features[:own].mean()) if own else 0.0
    return np.where(covered, np.asarray(fill, features.dtype), features)
