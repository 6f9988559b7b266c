"""Unit vectors: length 1, and what becomes of vectors without a direction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import vectors


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32)


@pytest.mark.parametrize("function", [vectors.unit, vectors.unit_or_zero, vectors.unit_numpy])
def test_every_vector_has_length_one_and_its_direction(function, rows):
    got = np.asarray(function(rows))
    assert got.dtype == np.float32
    want = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=-1, keepdims=True)
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("function", [vectors.unit, vectors.unit_or_zero, vectors.unit_numpy])
def test_zero_stays_zero(function):
    assert not np.asarray(function(np.zeros((2, 3), np.float32))).any()


@pytest.mark.parametrize("function", [vectors.unit, vectors.unit_or_zero])
@pytest.mark.parametrize("epsilon", [1e-12, 1e-24])
def test_gradient_is_that_of_x_over_its_length(function, epsilon, rows):
    x, weight = jnp.asarray(rows[0]), jnp.asarray(rows[1])
    got = jax.grad(lambda x: (function(x, epsilon) * weight).sum())(x)
    u = vectors.unit_numpy(rows[0].astype(np.float64))
    projected = rows[1] - (rows[1] * u).sum(-1, keepdims=True) * u
    np.testing.assert_allclose(got, projected / np.linalg.norm(rows[0], axis=-1, keepdims=True), atol=1e-5)


def test_short_vectors_are_divided_by_the_root_of_epsilon_or_are_zero():
    short = jnp.asarray([[3e-7, 0.0], [0.0, 0.0], [3e-6, 0.0]], jnp.float32)
    np.testing.assert_allclose(vectors.unit(short)[:, 0], [0.3, 0, 1], rtol=1e-5)
    np.testing.assert_allclose(vectors.unit_or_zero(short, 1e-12)[:, 0], [0, 0, 1], rtol=1e-5)
    for function, slope in ((vectors.unit, 1e6), (vectors.unit_or_zero, 0)):
        _, pull = jax.vjp(lambda x, function=function: function(x, 1e-12), short)
        np.testing.assert_allclose(pull(jnp.ones((3, 2)))[0][1], [slope, slope], rtol=1e-5)


def test_dtype_stays():
    assert vectors.unit(jnp.ones((2, 3), jnp.bfloat16)).dtype == jnp.bfloat16
    assert vectors.unit_numpy(np.ones((2, 3))).dtype == np.float64
