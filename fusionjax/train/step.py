"""The train step: loss, gradient, update. A pure function without files, flags or progress."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
import optax
from clu import metrics as clu_metrics

from fusionjax.train.optim import Optimizer
from fusionjax.train.state import TrainState
from fusionjax.types import Metrics, PyTree

Batch = dict[str, jax.Array]
Loss = Callable[[dict[str, PyTree], Batch, jax.Array], tuple[jax.Array, tuple[Metrics, dict[str, PyTree]]]]
"""(variables, batch, key) → loss, (metrics by name as clu Averages, new collections)."""
Gradient = tuple[tuple[jax.Array, tuple[Metrics, dict[str, PyTree]]], PyTree]
"""What `jax.value_and_grad` of a `Loss` returns: (loss, (metrics, new collections)), gradient."""


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
        optimizer: of the run.
        seed: every random number of a step derives from (seed, step). A third argument of `train_step` overrides it, so that
            one compiled program serves all seeds.
        accumulate: number of micro-batches whose gradients are averaged before the update.
        shards: number of devices that the batch is split over; each contributes its share to every micro-batch.
        ema_decay: decay of the averaged parameters; 0 for no averaging.
        norms: name → prefix of parameter names; the norm of their gradient is logged as grad_norm_<name>.

    Returns:
        `train_step`. If the loss or the gradient is NaN or Inf, it returns the state unchanged and sets the metric
        `nonfinite`, on which the loop stops.
    """

    def gradient(
        trainable: PyTree, frozen: PyTree, collections: dict[str, PyTree], batch: Batch, key: jax.Array
    ) -> Gradient:
        def of(trainable: PyTree) -> tuple[jax.Array, tuple[Metrics, dict[str, PyTree]]]:
            return loss({"params": optimizer.join(trainable, frozen), **collections}, batch, key)

        return jax.value_and_grad(of, has_aux=True)(trainable)

    def accumulated(
        trainable: PyTree, frozen: PyTree, collections: dict[str, PyTree], batch: Batch, key: jax.Array
    ) -> Gradient:
        if accumulate == 1:
            return gradient(trainable, frozen, collections, batch, key)
        parts = {name: _micro_batches(value, accumulate, shards) for name, value in batch.items()}

        def body(
            collections: dict[str, PyTree], part: tuple[jax.Array, Batch]
        ) -> tuple[dict[str, PyTree], tuple[jax.Array, Metrics, PyTree]]:
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

    def train_step(
        state: TrainState, batch: Batch, seed: jax.Array | int = seed
    ) -> tuple[TrainState, dict[str, clu_metrics.Average]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        trainable, frozen = optimizer.split(state.params)
        (value, (metrics, new)), grads = accumulated(trainable, frozen, state.collections, batch, key)
        norm = optax.tree.norm(grads)
        ok = jnp.isfinite(value) & jnp.isfinite(norm)
        updates, opt_state = optimizer.tx.update(grads, state.opt_state, trainable)
        params = optimizer.join(optax.apply_updates(trainable, updates), frozen)
        ema = state.ema
        if ema is not None:
            # Early averages follow closely, as in TensorFlow's ExponentialMovingAverage with num_updates.
            decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step)).astype(jnp.float32)
            # Frozen parameters are their own average; averaging a large encoder would cost more than a small step.
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
    """(B, ...) → (accumulate, B / accumulate, ...), in which every device keeps its own rows."""
    rest = x.shape[1:]
    x = x.reshape(shards, accumulate, -1, *rest)
    return x.swapaxes(0, 1).reshape(accumulate, -1, *rest)
