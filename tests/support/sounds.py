"""Makers of small sound files, for the tests."""

import io

import numpy as np
import soundfile


def sine(hertz: float, seconds: float = 1.0, rate: int = 16_000, height: float = 0.5) -> np.ndarray:
    """float32 (S,)."""
    return (height * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encoded(
    samples: np.ndarray, rate: int = 16_000, format: str = "WAV", subtype: str | None = None
) -> bytes:
    """(S,) or (S, channels) as a file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=format, subtype=subtype)
    return buffer.getvalue()
