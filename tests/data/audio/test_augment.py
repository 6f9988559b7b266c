"""Augmentation of sound: what each change does, and what the masks cover."""

import numpy as np
import pytest

from fusionjax.data.audio import augment
from fusionjax.errors import UserError
from tests.support.sounds import sine


def test_gain_is_in_decibels():
    x = sine(440)
    np.testing.assert_allclose(augment.gain(x, 20), 10 * x, rtol=1e-6)
    np.testing.assert_allclose(augment.gain(x, -6.0206), x / 2, rtol=1e-5)


@pytest.mark.parametrize("snr", [0.0, 10.0, 30.0])
def test_noise_has_the_power_that_is_asked_for(rng, snr):
    x = sine(440, 4.0)
    noise = augment.add_noise(x, snr, rng) - x
    measured = 10 * np.log10(np.mean(x**2) / np.mean(noise**2))
    assert abs(measured - snr) < 0.1 and abs(noise.mean()) < 0.01


def test_shift_moves_and_fills_with_zeros():
    x = np.arange(1, 6, dtype=np.float32)
    assert augment.shift(x, 2).tolist() == [0, 0, 1, 2, 3]
    assert augment.shift(x, -2).tolist() == [3, 4, 5, 0, 0]
    assert augment.shift(x, 0).tolist() == x.tolist()
    assert not augment.shift(x, 9).any() and not augment.shift(x, -9).any()


def test_augment_is_a_function_of_the_generator():
    x, before = sine(440), sine(440)
    every = augment.Augment(gain=6, noise=0.5, shift=0.1)
    runs = [every(x, np.random.default_rng(s)) for s in (0, 0, 1)]
    assert np.array_equal(runs[0], runs[1]) and not np.array_equal(runs[0], runs[2])
    assert runs[0].shape == x.shape and runs[0].dtype == np.float32 and np.array_equal(x, before)
    none = augment.Augment(gain=0, noise=0, shift=0)
    np.testing.assert_array_equal(none(x, np.random.default_rng(0)), x)
    heights = [np.abs(augment.Augment(6, 0, shift=0)(x, np.random.default_rng(s))).max() for s in range(200)]
    assert 0.5 / 2 <= min(heights) < 0.27 and 0.93 < max(heights) <= 1.0  # ±6 dB is half and double


@pytest.mark.parametrize(("length", "probability", "span", "least"), [
    (149, 0.05, 10, 2), (149, 0.65, 10, 2), (768, 0.1, 10, 0), (12, 0.05, 10, 2), (20, 1.0, 10, 0), (9, 0.5, 10, 2),
])  # fmt: skip
def test_spans_are_whole_and_as_many_as_they_should_be(length, probability, span, least):
    counts, starts = [], set()
    for seed in range(300):
        masked = augment.spans(
            length, np.random.default_rng(seed), probability=probability, span=span, least=least
        )
        assert masked.shape == (length,) and masked.dtype == bool
        edges = np.flatnonzero(np.diff(np.concatenate([[0], masked.astype(int), [0]])))
        assert all(b - a >= span for a, b in edges.reshape(-1, 2)), "a span was cut"
        counts.append(masked.sum())
        starts.update(edges[::2].tolist())
    expected = min(max(probability * length / span, least), length // span)
    assert max(counts) <= np.ceil(expected) * span and (min(counts) >= span) == (expected >= 1)
    if length >= 149:
        assert np.mean(counts) < expected * span + 1 and np.mean(counts) > 0.6 * min(expected * span, length)
        assert {0, length - span} & starts and len(starts) > 30


def test_the_number_of_spans_is_right_on_average():
    """0.1 · 25 / 10 is a quarter of a span: in a quarter of the draws there is one."""
    drawn = [
        augment.spans(25, np.random.default_rng(s), probability=0.1, least=0).any() for s in range(2_000)
    ]
    assert abs(np.mean(drawn) - 0.25) < 0.03


def test_frame_masks_leave_padding_alone(rng):
    masks = augment.frame_masks([49, 30, 5, 0], 49, rng, probability=0.5, span=10, least=1)
    assert masks.shape == (4, 49) and masks[0].any() and masks[1, :30].any()
    assert not masks[1, 30:].any() and not masks[2:].any()


def test_spec_augment_covers_whole_frames_and_bands(rng):
    features = rng.normal(size=(100, 40)).astype(np.float32)
    mask = np.arange(100) < 60
    out = augment.spec_augment(features, mask, rng, time=0.2, frequency=0.2, fill=9.0)
    covered = out == 9.0
    np.testing.assert_array_equal(out[~covered], features[~covered])
    assert not covered[60:].any()
    frames, bands = covered[:60].all(axis=1), covered[:60].all(axis=0)
    np.testing.assert_array_equal(covered[:60], frames[:, None] | bands[None, :])
    assert 0 < frames.sum() < 60 and 0 < bands.sum() < 40
    mean = augment.spec_augment(features, mask, rng, time=0.2, frequency=0.0)
    changed = mean != features
    np.testing.assert_allclose(mean[changed], features[:60].mean(), rtol=1e-5)
    empty = augment.spec_augment(features, np.zeros(100, bool), rng)
    np.testing.assert_array_equal(empty, features)


def test_what_cannot_be_is_refused(rng):
    for settings, match in (
        (dict(noise=2), "noise=2"),
        (dict(gain=-1), "gain=-1"),
        (dict(snr=(3, 1)), "snr="),
    ):
        with pytest.raises(UserError, match=match):
            augment.Augment(**settings)
    with pytest.raises(UserError, match=r"probability=1\.5, span=10 and least=2"):
        augment.spans(100, rng, probability=1.5)
