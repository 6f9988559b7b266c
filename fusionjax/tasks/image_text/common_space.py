"""A common space for two frozen encoders: one linear layer per encoder, trained with InfoNCE on their features."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fusionjax.errors import UserError
from fusionjax.models.methods.mvpdr import Align
from fusionjax.train import contrastive
from fusionjax.types import PyTree

_STREAM = 0xA119  # keeps these draws apart from others that start from the same seed
ROUNDS = 10
"""Number of evaluations: after the last step, after half of them, and so on, since few steps suit small data sets."""


class Pairs(NamedTuple):
    """Which text belongs to each of N images: one of `choices` rows from `first` on, sampled again at every step.

    Attributes:
        first, choices: (N,) whole numbers. Images with the same `first` share their texts: of them a batch keeps one, for
            they are no negatives of each other.
    """

    first: np.ndarray
    choices: np.ndarray


def align(
    images: np.ndarray,
    texts: np.ndarray,
    pairs: Pairs,
    *,
    width: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    score: Callable[[PyTree], float] | None = None,
) -> tuple[PyTree, int]:
    """Trains `models.mvpdr.Align` with AdamW at a constant rate.

    Args:
        images: (P, N, Di) pooled features, P augmentations of which every draw takes one.
        texts: (M, Dt) pooled features.
        pairs: of the N images.
        width: of the common space.
        steps: at most, where there is a `score`.
        batch_size: images drawn for a step, at most N.
        learning_rate: constant.
        seed: of the start and of the draws.
        score: of parameters; asked after `steps`, half of them, and so on, ten times; the highest is kept, of equal ones the
            earliest. None keeps the last.

    Returns:
        parameters on the host, and the number of steps that made them.

    Raises:
        UserError: fewer than two different texts; a loss that is not finite.

    Source: Radford et al., ICML 2021, arXiv 2103.00020, section 2.3.
    """
    passes, count = images.shape[:2]
    if len(np.unique(pairs.first)) < 2:
        raise UserError("a common space needs images with two different texts or more")
    module, tx = Align(width), optax.adamw(learning_rate)
    params = module.init(jax.random.key(seed), jnp.asarray(images[0, :1]), jnp.asarray(texts[:1]))["params"]

    @jax.jit
    def update(
        params: PyTree, state: PyTree, image: jax.Array, text: jax.Array, valid: jax.Array
    ) -> tuple[PyTree, PyTree, jax.Array]:
        def loss(params: PyTree) -> jax.Array:
            (a, b), aux = module.apply({"params": params}, image, text)
            return contrastive.info_nce(a, b, logit_scale=aux["scale"], valid=valid)

        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    rng, state, kept = np.random.default_rng([_STREAM, seed]), tx.init(params), []
    judged = {steps >> i for i in range(ROUNDS)} if score else set()
    for step in range(1, steps + 1):
        rows = rng.choice(count, min(batch_size, count), replace=False)
        chosen = pairs.first[rows] + rng.integers(pairs.choices[rows])
        valid = distinct(pairs.first[rows])
        image = images[rng.integers(passes, size=len(rows)), rows].astype(np.float32)
        params, state, value = update(params, state, image, texts[chosen].astype(np.float32), valid)
        if step in judged or step == steps:
            if not np.isfinite(value):
                raise UserError(
                    f"the loss of the common space is not finite at step {step}: lower config.mvpdr.align_rate"
                )
            kept.append((score(params) if score else 0.0, -step, jax.device_get(params)))
    _, negative, best = max(kept, key=lambda one: one[:2])
    return best, -negative


def distinct(first: np.ndarray) -> np.ndarray:
    """(B,) float32: 1 at the first occurrence of each number of `first` (B,), else 0."""
    valid = np.zeros(len(first), np.float32)
    valid[np.unique(first, return_index=True)[1]] = 1
    return valid
