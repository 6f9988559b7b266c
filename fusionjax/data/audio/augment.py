"""Augmentation of sound: of the waveform, and masks over frames and features. Functions of an explicit generator.

The masks are SpecAugment's (Park et al., Interspeech 2019, arXiv 1904.08779), drawn as for Wav2Vec2 (Baevski et al., NeurIPS
2020, arXiv 2006.11477, section 3.1): starts without replacement, spans of one length that may overlap.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from fusionjax.errors import UserError
from fusionjax.types import SAMPLE_RATE


def gain(samples: np.ndarray, decibels: float) -> np.ndarray:
    """Samples times 10^(decibels / 20). Normalising undoes it: it matters to encoders that hear loudness."""
    return (samples * np.float32(10 ** (decibels / 20))).astype(np.float32)


def add_noise(samples: np.ndarray, snr: float, rng: np.random.Generator) -> np.ndarray:
    """White noise whose power is `snr` decibels below the clip's own.

    Args:
        samples: (S,) float.
        snr: signal-to-noise ratio, dB.
        rng: draws the noise.
    """
    power = float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0
    deviation = np.sqrt(power / 10 ** (snr / 10))
    return (samples + deviation * rng.standard_normal(len(samples))).astype(np.float32)


def shift(samples: np.ndarray, offset: int) -> np.ndarray:
    """Later by `offset` samples, earlier where it is negative; what comes in is 0, what leaves is lost."""
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
        gain: ± decibels, uniform.
        noise: probability of noise.
        snr: lowest and highest signal-to-noise ratio, dB, uniform.
        shift: ± seconds, uniform.
        rate: samples a second.

    Raises:
        UserError: a value that cannot be.
    """

    gain: float = 6.0
    noise: float = 0.5
    snr: Sequence[float] = (15.0, 40.0)
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
        """(S,) → (S,) float32, another array."""
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
    """Masked positions of one axis: spans of one length, their starts drawn without replacement.

    Their number is probability · length / span, rounded up or down by chance so that it is right on average, at least `least`,
    and at most what fits side by side. Overlaps make the masked share smaller than `probability`. transformers draws one
    rounding for a batch, this draws one for every clip, so that a clip's mask does not depend on its neighbours.

    Args:
        length: T, positions that may be masked: a clip's own frames, or its features.
        rng: draws.
        probability: share of the positions that spans without overlaps would mask; 0 for no mask.
        span: positions of a span. An axis that is shorter has none.
        least: spans at least.

    Returns:
        bool (T,), True where masked.

    Raises:
        UserError: a value that cannot be.
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
    lengths: Sequence[int], total: int, rng: np.random.Generator, **settings: float
) -> np.ndarray:
    """`spans` for each clip of a batch, over its own frames.

    Args:
        lengths: B, each clip's frames, see `models.audio.num_frames`.
        total: T, frames of the padded batch.
        rng: draws, clip by clip.
        **settings: of `spans`.

    Returns:
        bool (B, T), False at padding: `masked_frames` of `models.audio.Wav2Vec2`.
    """
    out = np.zeros((len(lengths), total), bool)
    for row, length in zip(out, lengths, strict=True):
        row[:length] = spans(int(length), rng, **settings)
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
    """A spectrogram with spans of frames and of bands covered.

    Args:
        features: (T, F) float.
        mask: bool (T,), True for the clip's own frames, which come first.
        rng: draws.
        time, time_span: probability and length of the spans of frames, see `spans`; at least one where it is not 0.
        frequency, frequency_span: likewise of the bands.
        fill: value of what is covered; None for the mean over the clip's own frames.

    Returns:
        (T, F), another array; frames outside of the mask are as they were.
    """
    own = int(np.sum(mask))
    covered = np.zeros(features.shape, bool)
    covered[:own] |= spans(own, rng, probability=time, span=time_span, least=1)[:, None]
    covered[:own] |= spans(features.shape[1], rng, probability=frequency, span=frequency_span, least=1)
    if fill is None:
        fill = float(features[:own].mean()) if own else 0.0
    return np.where(covered, np.asarray(fill, features.dtype), features)
