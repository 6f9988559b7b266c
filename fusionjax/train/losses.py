"""Training losses: pure functions of logits or embeddings, one value an example, in float32."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

Array = jax.Array


def cross_entropy(logits: Array, labels: Array, *, label_smoothing: float = 0.0) -> Array:
    """Softmax cross-entropy.

    Args:
        logits: (B, C).
        labels: (B,) int, or (B, C) float targets that sum to 1 (as mixup makes them).
        label_smoothing: ε; the target becomes (1 − ε) · target + ε / C (Szegedy et al., CVPR 2016).

    Returns:
        (B,) float32.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    if labels.ndim == 1:
        nll = -jnp.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]
    else:
        nll = -(labels * log_p).sum(-1)
    if not label_smoothing:
        return nll
    return (1 - label_smoothing) * nll - label_smoothing * log_p.mean(-1)


def masked_mean(values: Array, valid: Array) -> Array:
    """Mean over the entries whose `valid` is 1, both (B,); 0 where there are none."""
    # where, not a product: a padded entry's value may be infinite, and 0 · inf is NaN.
    return jnp.where(valid > 0, values, 0).sum() / jnp.maximum(valid.sum(), 1)


def uncertainty_weighted(losses: Mapping[str, Array], log_variances: Mapping[str, Array]) -> Array:
    """½ Σ_b (e^{−w_b} L_b + w_b), w learned (Kendall et al., CVPR 2018; as DCAL section 3.4 uses it after FairMOT).

    Args:
        losses: scalar loss by branch; an absent branch has no term.
        log_variances: w by branch; may name branches that are absent from `losses`.
    """
    return 0.5 * sum(jnp.exp(-log_variances[b]) * loss + log_variances[b] for b, loss in losses.items())
