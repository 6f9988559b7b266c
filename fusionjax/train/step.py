"""The train step: loss, gradient, update. Pure; knows nothing of files, flags or progress."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax
from clu import metrics as clu_metrics

from fusionjax.train.optim import Optimizer
from fusionjax.train.state import TrainState
from fusionjax.types import PyTree

Batch = dict[str, jax.Array]
Loss = Callable[
    [dict[str, PyTree], Batch, jax.Array], tuple[jax.Array, tuple[dict[str, Any], dict[str, PyTree]]]
]
"""(variables, batch, key) → loss, (metrics by name as clu Averages, new collections)."""


TrainStep = Callable[..., tuple[TrainState, dict[str, clu_metrics.Average]]]
"""(state, batch[, seed]) → (state, metrics)."""


def make(
    loss: Loss,
    optimizer: Optimizer,
    *,
    seed: int,
    accumulate: int = 1,
    shards: int = 1,
    ema_decay: float = 0.0,
    norms: Mapping[str, str] = MappingProxyType({}),
) -> TrainStep:
    """Builds `train_step(state, batch) → (state, metrics)`.

    Args:
        loss: of the task.
        optimizer: `optim.create`'s.
        seed: every random number of a step derives from (seed, step). A third argument of `train_step` stands for it, so that
            one compiled program serves all seeds.
        accumulate: micro-batches whose gradients are averaged before the update.
        shards: devices that the batch is split over; each contributes its share to every micro-batch.
        ema_decay: of the averaged parameters; 0 for none.
        norms: name → how the names of some parameters begin: their gradient's norm is logged as grad_norm_<name>.

    The step leaves the state as it was where the loss or the gradient is not finite, and says so in the metric
    `nonfinite`: the loop stops on it with the last good state at hand.
    """

    def gradient(trainable, frozen, collections, batch, key):
        def of(trainable):
            return loss({"params": optimizer.join(trainable, frozen), **collections}, batch, key)

        return jax.value_and_grad(of, has_aux=True)(trainable)

    def accumulated(trainable, frozen, collections, batch, key):
        if accumulate == 1:
            return gradient(trainable, frozen, collections, batch, key)
        parts = {name: _micro_batches(value, accumulate, shards) for name, value in batch.items()}

        def body(collections, part):
            index, batch = part
            (value, (metrics, new)), grads = gradient(
                trainable, frozen, collections, batch, jax.random.fold_in(key, index)
            )
            return {**collections, **new}, (value, metrics, grads)

        collections, (values, metrics, grads) = jax.lax.scan(
            body, collections, (jnp.arange(accumulate), parts)
        )
        metrics = jax.tree.map(lambda x: x.sum(0), metrics)  # totals and counts: sums are exact
        return (values.mean(), (metrics, collections)), jax.tree.map(lambda g: g.mean(0), grads)

    def train_step(state: TrainState, batch: Batch, seed: jax.Array | int = seed):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        trainable, frozen = optimizer.split(state.params)
        (value, (metrics, new)), grads = accumulated(trainable, frozen, state.collections, batch, key)
        norm = optax.tree.norm(grads)
        ok = jnp.isfinite(value) & jnp.isfinite(norm)
        updates, opt_state = optimizer.tx.update(grads, state.opt_state, trainable)
        params = optimizer.join(optax.apply_updates(trainable, updates), frozen)
        ema = state.ema
        if ema is not None:
            # Young averages follow closely, as in TensorFlow's ExponentialMovingAverage with num_updates.
            decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step)).astype(jnp.float32)
            # What is frozen is its own average; a pass over a large encoder would cost more than a small step.
            moving, _ = optimizer.split(ema)
            current, held = optimizer.split(params)
            ema = optimizer.join(
                jax.tree.map(lambda a, p: a * decay + p * (1 - decay), moving, current), held
            )
        after = TrainState(state.step + 1, params, {**state.collections, **new}, opt_state, ema)
        after = jax.tree.map(lambda a, b: jnp.where(ok, a, b), after, state)
        one = jnp.ones((), jnp.float32)
        metrics = {
            **metrics,
            "loss": clu_metrics.Average(total=value, count=one),
            "grad_norm": clu_metrics.Average(total=norm, count=one),
            "learning_rate": clu_metrics.Average(
                total=jnp.asarray(optimizer.schedule(state.step), jnp.float32), count=one
            ),
            **{
                f"grad_norm_{name}": clu_metrics.Average(
                    total=optax.tree.norm([g for path, g in grads.items() if path.startswith(start)]),
                    count=one,
                )
                for name, start in norms.items()
            },
            "nonfinite": clu_metrics.Average(total=1 - ok.astype(jnp.float32), count=one),
        }
        return after, metrics

    return train_step


def _micro_batches(x: jax.Array, accumulate: int, shards: int) -> jax.Array:
    """(B, ...) → (accumulate, B / accumulate, ...) of rows that are neighbours on their device."""
    rest = x.shape[1:]
    x = x.reshape(shards, accumulate, -1, *rest)
    return x.swapaxes(0, 1).reshape(accumulate, -1, *rest)
