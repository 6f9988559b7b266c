"""Metric-learning losses: pure functions of a batch's embeddings and identities, in float32.

Each is computed over the whole (global) batch, so that a batch sharded over devices has the same loss and gradients as on one
device. A loss over pairs returns one value per anchor **and** which anchors count, because an anchor may have no positive or
no
negative:

    values, counted = triplet(embeddings, ids, valid)
    loss = losses.masked_mean(values, counted)

Rows whose `valid` is 0 are neither anchors nor part of any pair, whatever they contain; their gradient is 0.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Shaped

from fusionjax.errors import UserError
from fusionjax.types import Array
from fusionjax.vectors import unit

METRICS = ("euclidean", "cosine")
_TINY = 1e-12  # squared length below which a vector counts as 0 and its gradient is 0
_ABSENT = -1e30  # logit of an excluded pair; finite, so that its gradient is 0 and not NaN


def triplet(
    embeddings: Float[Array, "batch width"],
    ids: Int[Array, " batch"],
    valid: Shaped[Array, " batch"] | None = None,
    *,
    margin: float | None = None,
    metric: str = "euclidean",
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """Computes the batch-hard triplet loss: for each anchor, the farthest positive a–p and the nearest negative a–n.

    Args:
        embeddings: (B, D) float.
        ids: (B,) int identities.
        valid: (B,) 1 for a real example, 0 for padding; None where all are real.
        margin: max(0, margin + a–p − a–n); None for the soft margin, ln(1 + e^(a–p − a–n)).
        metric: "euclidean", not squared, or "cosine": 1 − cosine similarity.

    Returns:
        values, (B,) float32, 0 for an anchor that does not count; and counted, (B,) float32, 1 for a valid anchor with a
        positive and a negative.

    Raises:
        UserError: the metric is unknown.

    Source: Hermans et al., 2017, arXiv 1703.07737, equations 5 and 6.
    """
    if metric not in METRICS:
        raise UserError(f"metric={metric!r} is unknown; use {' or '.join(METRICS)}")
    x, valid = _rows(embeddings, valid)
    x = unit(x, _TINY) if metric == "cosine" else x
    positive, negative, counted = _pairs(ids, valid)
    # Pairs are selected by |a|² + |b|² − 2 a·b, which suffers from cancellation; their distances come from the differences.
    products = jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)
    norms = jnp.square(x).sum(-1)
    squared = jax.lax.stop_gradient(norms[:, None] + norms - 2 * products)
    farthest = jnp.where(positive, squared, -jnp.inf).argmax(axis=1)
    nearest = jnp.where(negative, squared, jnp.inf).argmin(axis=1)
    gap = _distance(x, x[farthest], metric) - _distance(x, x[nearest], metric)
    values = jax.nn.softplus(gap) if margin is None else jax.nn.relu(margin + gap)
    return jnp.where(counted, values, 0), counted.astype(jnp.float32)


def circle(
    embeddings: Float[Array, "batch width"],
    ids: Int[Array, " batch"],
    valid: Shaped[Array, " batch"] | None = None,
    *,
    margin: float = 0.25,
    scale: float = 64.0,
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """Computes the circle loss with pair-wise labels.

    With an anchor's positives s_p and negatives s_n, it is ln(1 + Σ e^(γ α_n (s_n − m)) · Σ e^(−γ α_p (s_p − 1 + m))), where
    α_p = [1 + m − s_p]₊ and α_n = [s_n + m]₊. No gradient flows through the weights α, as in the authors' code.

    Args:
        embeddings: (B, D) float; s is the cosine similarity.
        ids: (B,) int identities.
        valid: (B,) 1 for a real example, 0 for padding; None where all are real.
        margin: m, the relaxation.
        scale: γ.

    Returns:
        values, (B,) float32, 0 for an anchor that does not count; and counted, (B,) float32, 1 for a valid anchor with a
        positive and a negative.

    Source: Sun et al., CVPR 2020, equations 4 to 8.
    """
    x, valid = _rows(embeddings, valid)
    x = unit(x, _TINY)
    positive, negative, counted = _pairs(ids, valid)
    s = jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)
    fixed = jax.lax.stop_gradient(s)
    towards = -scale * jax.nn.relu(1 + margin - fixed) * (s - (1 - margin))
    away = scale * jax.nn.relu(fixed + margin) * (s - margin)
    logit_p = jax.nn.logsumexp(jnp.where(positive, towards, _ABSENT), axis=1)
    logit_n = jax.nn.logsumexp(jnp.where(negative, away, _ABSENT), axis=1)
    return jnp.where(counted, jax.nn.softplus(logit_p + logit_n), 0), counted.astype(jnp.float32)


def center(
    embeddings: Float[Array, "batch width"],
    labels: Int[Array, " batch"],
    centers: Float[Array, "classes width"],
) -> Float[Array, " batch"]:
    """Computes the centre loss of each example, `½ |x − c_y|²`.

    The gradient also flows to the centres. To update them by the paper's rule instead, stop it and use `move_centers`.

    Args:
        embeddings: (B, D) float.
        labels: (B,) int, 0 … C − 1.
        centers: (C, D) float.

    Returns:
        (B,) float32, for padding too: take the mean with `losses.masked_mean`.

    Source: Wen et al., ECCV 2016, equation 2, without the sum over the batch.
    """
    difference = embeddings.astype(jnp.float32) - centers.astype(jnp.float32)[labels]
    return 0.5 * jnp.square(difference).sum(-1)


def move_centers(
    embeddings: Float[Array, "batch width"],
    labels: Int[Array, " batch"],
    centers: Float[Array, "classes width"],
    valid: Shaped[Array, " batch"] | None = None,
    *,
    rate: float = 0.5,
) -> Float[Array, "classes width"]:
    """Updates the centres with a batch: c_j − α Σ (c_j − x_i) / (1 + n_j), over the n_j examples of class j.

    Args:
        embeddings: (B, D) float.
        labels: (B,) int, 0 … C − 1.
        centers: (C, D) float.
        valid: (B,) 1 for a real example, 0 for padding; None where all are real.
        rate: α, 0 … 1.

    Returns:
        (C, D) float32; a class without examples keeps its centre.

    Source: Wen et al., ECCV 2016, equation 4.
    """
    x, valid = _rows(embeddings, valid)
    old = centers.astype(jnp.float32)
    pull = jnp.where(valid[:, None], old[labels] - x, 0)
    total = jnp.zeros_like(old).at[labels].add(pull)
    count = jnp.zeros(len(old), jnp.float32).at[labels].add(valid.astype(jnp.float32))
    return old - rate * total / (1 + count)[:, None]


def _rows(embeddings: Array, valid: Array | None) -> tuple[Array, Array]:
    """Returns the embeddings as float32, 0 where not valid, and `valid` as (B,) bool."""
    valid = jnp.ones(embeddings.shape[0], bool) if valid is None else valid > 0
    # where, not a product: a padded row may hold NaN.
    return jnp.where(valid[:, None], embeddings.astype(jnp.float32), 0), valid


def _pairs(ids: Array, valid: Array) -> tuple[Array, Array, Array]:
    """Returns the positives and the negatives of each anchor, (B, B) bool, and which anchors have both, (B,) bool."""
    pair = valid[:, None] & valid
    same = ids[:, None] == ids
    positive, negative = pair & same & ~jnp.eye(len(ids), dtype=bool), pair & ~same
    return positive, negative, positive.any(axis=1) & negative.any(axis=1)


def _distance(a: Array, b: Array, metric: str) -> Array:
    if metric == "cosine":
        return 1 - (a * b).sum(-1)
    return jnp.sqrt(jnp.maximum(jnp.square(a - b).sum(-1), _TINY))
