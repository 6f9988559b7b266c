"""Cross-entropy, focal loss, class weights and the weighting of branches against NumPy and optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fusionjax.train import losses

LABELS, WEIGHTS = np.array([0, 2, 1, 2, 0]), np.array([0.5, 2.0, 3.0])


@pytest.fixture
def logits(rng):
    return 3 * rng.standard_normal((5, 3)).astype(np.float32)


@pytest.fixture
def targets(rng):
    return rng.dirichlet(np.ones(3), 5).astype(np.float32)


def log_softmax(x):
    x = np.float64(x)
    return x - np.log(np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True)) - x.max(1, keepdims=True)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_focal_equals_the_equation(logits, targets, gamma, weights):
    log_p = log_softmax(logits)
    terms = -0.25 * (1 - np.exp(log_p)) ** gamma * log_p * (1 if weights is None else weights)
    options = dict(alpha=0.25, gamma=gamma, class_weights=weights)
    got = losses.focal(logits, LABELS, **options)
    assert got.shape == (5,) and got.dtype == jnp.float32
    np.testing.assert_allclose(got, terms[np.arange(5), LABELS], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        losses.focal(logits, targets, **options), (targets * terms).sum(1), rtol=1e-4, atol=1e-6
    )
    one_hot = np.eye(3, dtype=np.float32)[LABELS]
    np.testing.assert_allclose(losses.focal(logits, one_hot, **options), got, rtol=1e-6)


def test_focal_without_focus_is_cross_entropy(logits):
    got = losses.focal(logits, LABELS, alpha=1.0, gamma=0.0, class_weights=WEIGHTS)
    np.testing.assert_allclose(got, losses.cross_entropy(logits, LABELS, class_weights=WEIGHTS), rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_of_a_certain_answer(gamma):
    """p rounds to 1 in the first row and to 0 in the second."""
    logits = jnp.array([[200.0, 0.0], [0.0, 200.0]])

    def value(logits):
        return losses.focal(logits, np.array([0, 0]), alpha=1.0, gamma=gamma).sum()

    total, grad = jax.value_and_grad(value)(logits)
    np.testing.assert_allclose(total, 200, rtol=1e-6)
    np.testing.assert_allclose(grad, [[0, 0], [-1, 1]], atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_of_cross_entropy(logits, targets, smoothing):
    log_p = log_softmax(logits)
    for labels, target in ((LABELS, np.eye(3)[LABELS]), (targets, targets)):
        smooth = (1 - smoothing) * target + smoothing / 3
        got = losses.cross_entropy(logits, labels, label_smoothing=smoothing, class_weights=WEIGHTS)
        np.testing.assert_allclose(got, -(smooth * WEIGHTS * log_p).sum(1), rtol=1e-4)
        plain = losses.cross_entropy(logits, labels, label_smoothing=smoothing)
        ones = losses.cross_entropy(logits, labels, label_smoothing=smoothing, class_weights=np.ones(3))
        np.testing.assert_array_equal(plain, ones)
        np.testing.assert_allclose(plain, -(smooth * log_p).sum(1), rtol=1e-4)


def test_label_smoothing_equals_optax(rng):
    logits, labels = rng.normal(size=(6, 4)), rng.integers(0, 4, 6)
    smooth = optax.smooth_labels(jax.nn.one_hot(labels, 4), 0.1)
    want = optax.softmax_cross_entropy(logits, smooth)
    np.testing.assert_allclose(losses.cross_entropy(logits, labels, label_smoothing=0.1), want, rtol=1e-5)
    np.testing.assert_allclose(losses.cross_entropy(logits, smooth), want, rtol=1e-5)


def test_padding_does_not_enter_the_mean():
    values = jnp.array([1.0, 3.0, jnp.inf])
    assert losses.masked_mean(values, jnp.array([1.0, 1.0, 0.0])) == 2
    assert jax.grad(lambda v: losses.masked_mean(v, jnp.array([1.0, 1.0, 0.0])))(values)[2] == 0
    assert losses.masked_mean(values, jnp.zeros(3)) == 0


def test_uncertainty_weighting_is_the_equation():
    got = losses.uncertainty_weighted({"sa": 2.0, "glca": 3.0}, {"sa": 0.5, "glca": -1.0, "pwca": 9.0})
    assert abs(got - 0.5 * (np.exp(-0.5) * 2 + 0.5 + np.exp(1.0) * 3 - 1)) < 1e-5
    start = losses.uncertainty_weighted({"sa": 2.0}, {"sa": 0.0})
    assert start == 1.0
