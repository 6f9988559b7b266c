"""Log-mel spectrogram, for a small audio encoder: periodic Hann window, power, HTK's mel scale, natural logarithm.

Frames are whole windows of the clip (none is centred on its edge), so a clip's frames do not depend on the padding behind it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from fusionjax.errors import UserError
from fusionjax.types import SAMPLE_RATE

WINDOW, HOP, SIZE, BANDS = 400, 160, 512, 80
"""25 ms, 10 ms, the length of the transform, mel bands."""
FLOOR = 1e-10
"""Power below which the logarithm is taken of this."""


def hann(length: int) -> np.ndarray:
    """Periodic Hann window, sin²(π n / length), float32 (length,)."""
    return np.square(np.sin(np.pi * np.arange(length) / length)).astype(np.float32)


def hertz_to_mel(frequency: np.ndarray) -> np.ndarray:
    """HTK's scale: 2595 · log10(1 + f / 700)."""
    return 2595 * np.log10(1 + np.asarray(frequency, np.float64) / 700)


def mel_to_hertz(mel: np.ndarray) -> np.ndarray:
    """The inverse of `hertz_to_mel`."""
    return 700 * (10 ** (np.asarray(mel, np.float64) / 2595) - 1)


@functools.lru_cache(maxsize=16)
def filters(
    bands: int = BANDS, size: int = SIZE, rate: int = SAMPLE_RATE, low: float = 20.0, high: float = 0.0
) -> np.ndarray:
    """Triangles of height 1, whose corners are evenly spaced in mel, over the transform's frequencies in Hz.

    Args:
        bands: F.
        size: length of the transform.
        rate: samples a second.
        low, high: Hz, the outer corners; `high` 0 for half of the rate.

    Returns:
        float32 (size // 2 + 1, F), read-only.

    Raises:
        UserError: corners that cannot be, or a band so narrow that no frequency of the transform is in it.
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
    """Whole windows in so many samples."""
    return max(0, (samples - window) // hop + 1)


def log_mel(
    samples: jax.Array | np.ndarray,
    mask: jax.Array | np.ndarray | None = None,
    *,
    bands: int = BANDS,
    window: int = WINDOW,
    hop: int = HOP,
    size: int = SIZE,
    rate: int = SAMPLE_RATE,
) -> tuple[jax.Array, jax.Array]:
    """Logarithm of the mel spectrogram; compiles, and has a gradient.

    Args:
        samples: (B, S) float.
        mask: bool (B, S), True for sound, which comes first; None where all is.
        bands, window, hop, size, rate: mel bands F, samples of a window and from one to the next, length of the transform,
            samples a second.

    Returns:
        float32 (B, T, F), T = `num_frames(S)`, and bool (B, T), True for the frames whose window is all sound. Other frames
        are 0.

    Raises:
        UserError: a window longer than the transform; as `filters`.
        ValueError: fewer samples than a window.
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
    # The default precision of a matmul is bfloat16 on some devices: not enough for a logarithm.
    mel = jnp.matmul(power, filters(bands, size, rate), precision=jax.lax.Precision.HIGHEST)
    own = jnp.ones(mel.shape[:2], bool)
    if mask is not None:
        own = jnp.arange(frames) * hop + window <= jnp.sum(mask, 1)[:, None]
    return jnp.where(own[..., None], jnp.log(jnp.maximum(mel, FLOOR)), 0), own
