"""The log-mel spectrogram against a sum written out, and against transformers' NumPy code."""

import jax
import numpy as np
import pytest
from transformers import audio_utils

from fusionjax.errors import UserError
from fusionjax.models import log_mel
from tests.support.sounds import sine


def by_sums(x: np.ndarray, bands: int, window: int, hop: int, size: int, rate: int) -> np.ndarray:
    """(T, F) in float64: the transform as a sum of cosines and sines, each triangle from its definition."""

    def to_hertz(m):
        return 700 * (10 ** (m / 2595) - 1)

    top = 2595 * np.log10(1 + rate / 2 / 700)
    bottom = 2595 * np.log10(1 + 20 / 700)
    corners = [to_hertz(bottom + (top - bottom) * i / (bands + 1)) for i in range(bands + 2)]
    rows = []
    for start in range(0, len(x) - window + 1, hop):
        piece = x[start : start + window] * [
            0.5 - 0.5 * np.cos(2 * np.pi * n / window) for n in range(window)
        ]
        power = []
        for k in range(size // 2 + 1):
            angle = 2 * np.pi * k * np.arange(window) / size
            power.append(np.dot(piece, np.cos(angle)) ** 2 + np.dot(piece, np.sin(angle)) ** 2)
        row = []
        for low, centre, high in zip(corners, corners[1:], corners[2:], strict=False):
            total = 0.0
            for k, p in enumerate(power):
                f = k * rate / size
                if low < f <= centre:
                    total += p * (f - low) / (centre - low)
                elif centre < f < high:
                    total += p * (high - f) / (high - centre)
            row.append(np.log(max(total, 1e-10)))
        rows.append(row)
    return np.array(rows)


def test_equals_the_sums(rng):
    x = (0.1 * rng.normal(size=700) + sine(900, 700 / 4_000, 4_000)).astype(np.float32)
    settings = dict(bands=12, window=100, hop=40, size=128, rate=4_000)
    got, mask = log_mel.log_mel(x[None], **settings)
    assert mask.all() and got.shape == (1, log_mel.num_frames(700, 100, 40), 12)
    np.testing.assert_allclose(got[0], by_sums(x.astype(np.float64), **settings), atol=1e-4)


def test_equals_transformers(rng):
    x = (0.2 * rng.normal(size=16_000)).astype(np.float32)
    bank = audio_utils.mel_filter_bank(257, 80, 20.0, 8_000.0, 16_000, norm=None, mel_scale="htk")
    window = audio_utils.window_function(400, "hann", periodic=True)
    theirs = audio_utils.spectrogram(
        x.astype(np.float64),
        window,
        400,
        160,
        fft_length=512,
        power=2.0,
        center=False,
        mel_filters=bank,
        log_mel="log",
    )
    got, _ = log_mel.log_mel(x[None])
    assert got.shape == (1, 98, 80)
    np.testing.assert_allclose(log_mel.filters(), bank, atol=1e-6)
    np.testing.assert_allclose(got[0], theirs.T, atol=2e-4)


def test_a_tone_is_in_its_band():
    centres = log_mel.mel_to_hertz(np.linspace(log_mel.hertz_to_mel(20), log_mel.hertz_to_mel(8_000), 82))[
        1:-1
    ]
    for hertz in (500, 2_000, 5_000):
        got, _ = log_mel.log_mel(sine(hertz)[None])
        assert np.abs(np.asarray(got)[0].mean(0).argmax() - np.abs(centres - hertz).argmin()) <= 1


def test_a_padded_batch_equals_the_clips_alone(rng):
    lengths = (4_000, 1_655, 400, 399, 0)
    x, mask = np.full((5, 4_000), np.nan, np.float32), np.arange(4_000) < np.array(lengths)[:, None]
    x[mask] = 0.1 * rng.normal(size=mask.sum())
    got, own = jax.jit(log_mel.log_mel)(x, mask)
    assert own.sum(1).tolist() == [log_mel.num_frames(n) for n in lengths] == [23, 8, 1, 0, 0]
    assert not np.asarray(got)[~np.asarray(own)].any()
    for row, length in zip(np.asarray(got), lengths, strict=True):
        if length >= 400:
            alone, _ = log_mel.log_mel(x[lengths.index(length), None, :length])
            np.testing.assert_allclose(row[: alone.shape[1]], alone[0], atol=1e-4)


def test_gradient_is_finite_in_silence_too():
    gradient = jax.grad(lambda x: log_mel.log_mel(x)[0].sum())(np.zeros((1, 800), np.float32))
    assert np.isfinite(gradient).all()
    tone = jax.grad(lambda x: log_mel.log_mel(x)[0].sum())(sine(440, 0.05)[None])
    assert np.isfinite(tone).all() and np.abs(tone).max() > 0


def test_what_cannot_be_is_refused():
    with pytest.raises(
        UserError, match="300 mel bands are too many for a transform of 512 samples at 16000 Hz"
    ):
        log_mel.filters(300)
    with pytest.raises(UserError, match="mel bands from 20 to 9000 Hz must be within 0 to 8000 Hz"):
        log_mel.filters(40, high=9_000.0)
    with pytest.raises(UserError, match="window=600 must be 1 to the transform's 512"):
        log_mel.log_mel(np.zeros((1, 800), np.float32), window=600)
    with pytest.raises(ValueError, match="399 samples are fewer than a window of 400"):
        log_mel.log_mel(np.zeros((1, 399), np.float32))
