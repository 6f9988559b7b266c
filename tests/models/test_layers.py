"""Building blocks against their definitions."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import erf

from fusionjax.models import layers


def test_dense_is_the_plain_linear_layer(rng):
    x = rng.normal(size=(2, 3, 4)).astype(np.float32)
    module = layers.Dense(5)
    variables = module.init(jax.random.key(0), x)
    p = variables["params"]
    np.testing.assert_allclose(module.apply(variables, x), x @ p["kernel"] + p["bias"], rtol=1e-5)


def test_the_initial_weights_have_timms_deviation():
    """timm's trunc_normal_(std=0.02) cuts at ±2, not at ±2 σ, which would leave a deviation of 0.0176."""
    drawn = np.asarray(layers.trunc_normal(jax.random.key(0), (1_000, 1_000)))
    assert stats.kstest(drawn.ravel()[:200_000], stats.norm(0, 0.02).cdf).pvalue > 1e-3
    assert drawn.std() == pytest.approx(0.02, rel=5e-3) and np.abs(drawn).max() > 4 * 0.02
    kernel = layers.Dense(1_000).init(jax.random.key(0), np.zeros((1, 1_000)))["params"]["kernel"]
    assert np.asarray(kernel).std() == pytest.approx(0.02, rel=5e-3)


def test_gelu_and_its_gradient_are_exact(rng):
    x = rng.normal(size=100).astype(np.float32) * 3
    want = 0.5 * x * (1 + erf(x / np.sqrt(2)))
    slope = 0.5 * (1 + erf(x / np.sqrt(2))) + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(layers.gelu(x), want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda x: layers.gelu(x).sum())(x), slope, rtol=1e-5, atol=1e-6)


def test_layer_norm_equals_flax(rng):
    x = rng.normal(size=(4, 6)).astype(np.float32) * 5 + 100  # far from zero, where E[x²] − E[x]² fails
    variables = {"params": {"scale": jnp.arange(6.0), "bias": jnp.ones(6)}}
    want = nn.LayerNorm(epsilon=1e-6, use_fast_variance=False).apply(variables, x)
    np.testing.assert_allclose(layers.LayerNorm().apply(variables, x), want, rtol=1e-4, atol=1e-4)


def test_patch_embedding_is_a_strided_convolution(rng):
    x = rng.normal(size=(2, 8, 12, 3)).astype(np.float32)
    module = layers.PatchEmbed(5, 4)
    variables = module.init(jax.random.key(0), x)
    kernel = variables["params"]["kernel"]
    want = jax.lax.conv_general_dilated(
        x, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(module.apply(variables, x), want, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="multiple of the patch size 4"):
        module.apply(variables, x[:, :7])


def test_drop_path_keeps_the_mean():
    x = jnp.ones((4000, 2))
    out = layers.drop_path(x, 0.25, jax.random.key(0))
    assert set(np.unique(out).round(4)) == {0.0, np.float32(4 / 3).round(4)}
    assert (out[:, 0] == out[:, 1]).all(), "an example is dropped whole"
    np.testing.assert_allclose(out.mean(), 1, atol=0.03)
    np.testing.assert_array_equal(layers.drop_path(x, 0.0, jax.random.key(0)), x)
