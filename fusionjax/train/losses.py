"""Classification losses: pure functions of logits, one value per example, in float32."""

import functools
import operator
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped

from fusionjax.train import accumulation
from fusionjax.types import Array

Labels: TypeAlias = Int[Array, " batch"] | Float[Array, "batch classes"]
ClassWeights: TypeAlias = Float[Array, " classes"] | Float[np.ndarray, " classes"] | Sequence[float]


def cross_entropy(
    logits: Float[Array, "batch classes"],
    labels: Labels,
    *,
    label_smoothing: float = 0.0,
    class_weights: ClassWeights | None = None,
) -> Float[Array, " batch"]:
    """Computes the softmax cross-entropy of each example.

    Args:
        logits: (B, C) float.
        labels: (B,) int class indices, or (B, C) float targets that sum to 1 (as mixup produces them).
        label_smoothing: ε; the target becomes (1 − ε) · target + ε / C (Szegedy et al., CVPR 2016, section 7).
        class_weights: (C,) float factors of the classes' terms, or None. The values are not divided by them: torch's
            weighted mean is the sum of these values divided by the sum of class_weights[labels].

    Returns:
        (B,) float32, in nats.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    if class_weights is not None:
        log_p = log_p * jnp.asarray(class_weights, jnp.float32)
    nll = -_of_target(log_p, labels)
    if not label_smoothing:
        return nll
    return (1 - label_smoothing) * nll - label_smoothing * log_p.mean(-1)


def focal(
    logits: Float[Array, "batch classes"],
    labels: Labels,
    *,
    alpha: float,
    gamma: float,
    class_weights: ClassWeights | None = None,
) -> Float[Array, " batch"]:
    """Computes the focal loss of each example, −α (1 − p)^γ log p with p the softmax probability of the label.

    Args:
        logits: (B, C) float.
        labels: (B,) int class indices, or (B, C) float targets t that sum to 1; the loss is then Σ_c t_c · loss_c.
        alpha: factor of all classes.
        gamma: focusing parameter, at least 0; with 0 the loss is α times the cross-entropy.
        class_weights: (C,) float, as for `cross_entropy`.

    Returns:
        (B,) float32, in nats.

    Source: Lin et al., ICCV 2017, equation 5, with a softmax in place of the sigmoid.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    # 1 − p without cancellation; kept above 0, where a power below 1 has no derivative.
    rest = jnp.maximum(-jnp.expm1(log_p), jnp.finfo(jnp.float32).tiny)
    terms = alpha * rest**gamma * log_p
    if class_weights is not None:
        terms = terms * jnp.asarray(class_weights, jnp.float32)
    return -_of_target(terms, labels)


def _of_target(values: Array, labels: Array) -> Array:
    """Selects values (B, C) at labels (B,), or weights them by targets (B, C): (B,)."""
    if labels.ndim == 1:
        return jnp.take_along_axis(values, labels[:, None], axis=1)[:, 0]
    return (labels * values).sum(-1)


def masked_mean(values: Float[Array, " batch"], valid: Shaped[Array, " batch"]) -> Float[Array, ""]:
    """Averages the values of valid examples; in a micro-batch, their share of the whole batch's mean (`accumulation`).

    Args:
        values: (B,) float.
        valid: (B,), 1 or True for a real example, 0 for padding.

    Returns:
        Scalar; 0 if no example is valid.
    """
    # where, not a product: a padded entry's value may be infinite, and 0 · inf is NaN.
    return jnp.where(valid > 0, values, 0).sum() / accumulation.denominator(valid.sum())


def uncertainty_weighted(
    losses: Mapping[str, Float[Array, ""] | float], log_variances: Mapping[str, Float[Array, ""] | float]
) -> Float[Array, ""]:
    """Combines the losses of several branches with learned weights: ½ Σ_b (e^{−w_b} L_b + w_b).

    Args:
        losses: branch → scalar loss L_b, one or more; branches that are absent have no term.
        log_variances: branch → scalar w_b; may contain branches that are absent from `losses`.

    Returns:
        Scalar.

    Source: Kendall et al., CVPR 2018, as DCAL (arXiv 2205.02151, section 3.4) uses it, following FairMOT.
    """
    terms = [jnp.exp(-log_variances[b]) * loss + log_variances[b] for b, loss in losses.items()]
    return 0.5 * functools.reduce(operator.add, terms)
