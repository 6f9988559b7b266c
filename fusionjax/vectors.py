"""Unit vectors, for models, losses and evaluation."""

import jax
import jax.numpy as jnp
import numpy as np


def unit(x: jax.Array, epsilon: float = 1e-12) -> jax.Array:
    """x / ‖x‖ over the last axis, in x's dtype.

    Args:
        x: (..., D) float.
        epsilon: least squared length. A shorter vector is divided by √epsilon: 0 stays 0, with a finite gradient.

    Returns:
        (..., D).
    """
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), epsilon))


def unit_or_zero(x: jax.Array, epsilon: float = 1e-24) -> jax.Array:
    """As `unit`, but a vector whose squared length is at most `epsilon` becomes 0, and so does its gradient."""
    squared = jnp.square(x).sum(-1, keepdims=True)
    some = squared > epsilon
    return jnp.where(some, x * jax.lax.rsqrt(jnp.where(some, squared, 1)), 0)


def unit_numpy(x: np.ndarray) -> np.ndarray:
    """x / ‖x‖ over the last axis of a NumPy array, in its dtype; 0 stays 0."""
    norms = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / np.where(norms > 0, norms, 1)
