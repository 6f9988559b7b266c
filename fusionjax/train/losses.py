"""Training losses: pure functions of logits or embeddings, one value an example, in float32."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from fusionjax.types import Array


def cross_entropy(
    logits: Array, labels: Array, *, label_smoothing: float = 0.0, class_weights: Array | None = None
) -> Array:
    """Softmax cross-entropy.

    Args:
        logits: (B, C).
        labels: (B,) int, or (B, C) float targets that sum to 1 (as mixup makes them).
        label_smoothing: ε; the target becomes (1 − ε) · target + ε / C (Szegedy et al., CVPR 2016).
        class_weights: (C,) factors of the classes' terms, or None. The values are not divided by them: torch's weighted mean
            is the sum of these values over the sum of class_weights[labels].

    Returns:
        (B,) float32.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    if class_weights is not None:
        log_p = log_p * jnp.asarray(class_weights, jnp.float32)
    nll = -_of_target(log_p, labels)
    if not label_smoothing:
        return nll
    return (1 - label_smoothing) * nll - label_smoothing * log_p.mean(-1)


def focal(
    logits: Array,
    labels: Array,
    *,
    alpha: float,
    gamma: float,
    class_weights: Array | None = None,
) -> Array:
    """Focal loss, −α (1 − p)^γ log p of the target's probability (Lin et al., ICCV 2017, equation 5, over a softmax).

    Args:
        logits: (B, C).
        labels: (B,) int, or (B, C) float targets t that sum to 1: the loss is then Σ_c t_c of the classes' losses.
        alpha: factor of all classes.
        gamma: focus, at least 0; at 0 the loss is α times the cross-entropy.
        class_weights: (C,) further factors of the classes' terms, or None; used as in `cross_entropy`.

    Returns:
        (B,) float32.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    # 1 − p without cancellation; above 0, where a power below 1 has no derivative.
    rest = jnp.maximum(-jnp.expm1(log_p), jnp.finfo(jnp.float32).tiny)
    terms = alpha * rest**gamma * log_p
    if class_weights is not None:
        terms = terms * jnp.asarray(class_weights, jnp.float32)
    return -_of_target(terms, labels)


def _of_target(values: Array, labels: Array) -> Array:
    """(B, C) values at the labels (B,), or weighted by targets (B, C): (B,)."""
    if labels.ndim == 1:
        return jnp.take_along_axis(values, labels[:, None], axis=1)[:, 0]
    return (labels * values).sum(-1)


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
