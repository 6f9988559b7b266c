"""Log-mel spectrogram: periodic Hann window, power spectrum, HTK's mel scale, natural logarithm.

Frames are whole windows of the clip (none is centred on an edge), so they do not depend on the padding after the clip.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from fusionjax.errors import UserError
from fusionjax.types import SAMPLE_RATE, Array

WINDOW, HOP, SIZE, BANDS = 400, 160, 512, 80
"""Samples per window (25 ms) and per hop (10 ms), length of the Fourier transform, number of mel bands."""
FLOOR = 1e-10
"""Lower bound of the power before the logarithm."""


def hann(length: int) -> np.ndarray:
    """Returns the periodic Hann window sin²(π n / length), (length,) float32."""
    return np.square(np.sin(np.pi * np.arange(length) / length)).astype(np.float32)


def hertz_to_mel(frequency: np.ndarray | float) -> np.ndarray:
    """Converts frequencies in Hz to HTK's mel scale, 2595 · log10(1 + f / 700); any shape, float64."""
    return np.asarray(2595 * np.log10(1 + np.asarray(frequency, np.float64) / 700))


def mel_to_hertz(mel: np.ndarray | float) -> np.ndarray:
    """Converts mel to Hz, the inverse of `hertz_to_mel`."""
    return np.asarray(700 * (10 ** (np.asarray(mel, np.float64) / 2595) - 1))


@functools.lru_cache(maxsize=16)
def filters(
    bands: int = BANDS, size: int = SIZE, rate: int = SAMPLE_RATE, low: float = 20.0, high: float = 0.0
) -> np.ndarray:
    """Returns triangular mel filters of height 1, with corners evenly spaced in mel.

    Args:
        bands: F, number of filters.
        size: length of the Fourier transform.
        rate: samples per second.
        low, high: the outer corners in Hz; a `high` of 0 means half the sampling rate.

    Returns:
        (size // 2 + 1, F) float32, read-only.

    Raises:
        UserError: the corners are not 0 ≤ low < high ≤ rate / 2, or a band is so narrow that it contains no frequency of
            the transform.
    """
    high = high or rate / 2
    if not 0 <= low < high <= rate / 2:
        raise UserError(
            f"mel bands from {low:g} to {high:g} Hz must be within 0 to {rate / 2:g} Hz, low < high"
        )
    corners = mel_to_hertz(np.linspace(hertz_to_mel(low), hertz_to_mel(high), bands + 2))
    frequencies = np.arange(size // 2 + 1)[:, None] * rate / size
    rising = (frequencies - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - frequencies) / (corners[2:] - corners[1:-1])
    out = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    if not out.any(axis=0).all():
        raise UserError(
            f"{bands} mel bands are too many for a transform of {size} samples at {rate} Hz: take fewer"
        )
    out.setflags(write=False)
    return out


def num_frames(samples: int, window: int = WINDOW, hop: int = HOP) -> int:
    """Returns the number of whole windows in `samples` samples."""
    return max(0, (samples - window) // hop + 1)


def log_mel(
    samples: Float[Array, "batch samples"],
    mask: Bool[Array, "batch samples"] | None = None,
    *,
    bands: int = BANDS,
    window: int = WINDOW,
    hop: int = HOP,
    size: int = SIZE,
    rate: int = SAMPLE_RATE,
) -> tuple[Float[Array, "batch frames bands"], Bool[Array, "batch frames"]]:
    """Computes the logarithm of the mel spectrogram; can be compiled and differentiated.

    Args:
        samples: (B, S) float.
        mask: (B, S) bool, True for the samples of the clip, which come before the padding; None if there is no padding.
        bands: F, number of mel bands.
        window, hop: samples per window, and from one window to the next.
        size: length of the Fourier transform.
        rate: samples per second.

    Returns:
        The spectrogram, (B, T, F) float32 with T = `num_frames(S)`, and (B, T) bool, True for frames whose window
        contains no padding. All other frames are 0.

    Raises:
        UserError: the window is longer than the transform, or as for `filters`.
        ValueError: there are fewer samples than a window has.
    """
    if window > size or min(window, hop) < 1:
        raise UserError(
            f"window={window} must be 1 to the transform's {size} samples, and hop={hop} 1 or more"
        )
    frames = num_frames(samples.shape[1], window, hop)
    if not frames:
        raise ValueError(f"{samples.shape[1]} samples are fewer than a window of {window}")
    x = jnp.asarray(samples, jnp.float32)
    if mask is not None:
        x = jnp.where(mask, x, 0)
    place = np.arange(frames)[:, None] * hop + np.arange(window)
    spectrum = jnp.fft.rfft(x[:, place] * hann(window), size)
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    # On some devices a matmul defaults to bfloat16, which is too coarse for a logarithm.
    mel = jnp.matmul(power, filters(bands, size, rate), precision=jax.lax.Precision.HIGHEST)
    own = jnp.ones(mel.shape[:2], bool)
    if mask is not None:
        own = jnp.arange(frames) * hop + window <= jnp.sum(mask, 1)[:, None]
    return jnp.where(own[..., None], jnp.log(jnp.maximum(mel, FLOOR)), 0), own
