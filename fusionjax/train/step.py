"""The train step: loss, gradient, update. A pure function without files, flags or progress."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
import optax
from clu import metrics as clu_metrics

from fusionjax.train import accumulation
from fusionjax.train.accumulation import Batch, Gradient
from fusionjax.train.optim import Optimizer
from fusionjax.train.state import TrainState
from fusionjax.types import Metrics, PyTree

Loss = Callable[[dict[str, PyTree], Batch, jax.Array], tuple[jax.Array, tuple[Metrics, dict[str, PyTree]]]]
"""(variables, batch, key) → loss, (metrics by name as clu Averages, new collections)."""
TrainStep = Callable[..., tuple[TrainState, dict[str, clu_metrics.Average]]]
"""(state, batch[, seed, skips]) → (state, metrics)."""


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
        accumulate: number of micro-batches; see `accumulation`.
        shards: number of devices that the batch is split over; each contributes its share to every micro-batch.
        ema_decay: decay of the averaged parameters; 0 for no averaging.
        norms: name → prefix of parameter names; the norm of their gradient is logged as grad_norm_<name>.

    Returns:
        `train_step`. Where the loss, the gradient or the new state is NaN or Inf it sets the metric `nonfinite` to 1 and
        keeps the state. Its fourth argument, `skips`, says how many such steps are still allowed: with 1 or more the step
        is counted as done, without an update. With 0 nothing changes, and below 0, after such a step, nothing changes
        whatever the batch: the host learns of it one step late, and state and batches must still belong together.
    """

    def gradients(
        trainable: PyTree, frozen: PyTree, collections: dict[str, PyTree], batch: Batch, key: jax.Array
    ) -> Gradient:
        def gradient(collections: dict[str, PyTree], batch: Batch, key: jax.Array) -> Gradient:
            def of(trainable: PyTree) -> tuple[jax.Array, tuple[Metrics, dict[str, PyTree]]]:
                return loss({"params": optimizer.join(trainable, frozen), **collections}, batch, key)

            return jax.value_and_grad(of, has_aux=True)(trainable)

        return accumulation.gradient(
            gradient, collections, batch, key, micro_batches=accumulate, shards=shards
        )

    def train_step(
        state: TrainState, batch: Batch, seed: jax.Array | int = seed, skips: jax.Array | int = 0
    ) -> tuple[TrainState, dict[str, clu_metrics.Average]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        trainable, frozen = optimizer.split(state.params)
        (value, (metrics, new)), grads = gradients(trainable, frozen, state.collections, batch, key)
        norm = optax.tree.norm(grads)
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
        # With a finite norm of the gradient its moments are finite, and so is an average of finite parameters: checking them
        # too would double the size of the program, and the time that it takes to compile.
        moved = (optimizer.split(params)[0], new)
        ok = jnp.isfinite(value) & jnp.isfinite(norm) & _finite(moved)
        kept = dataclasses.replace(state, step=jnp.where(skips > 0, state.step + 1, state.step))
        go = ok & (skips >= 0)
        after = jax.tree.map(lambda a, b: jnp.where(go, a, b), after, kept)
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


def _finite(tree: PyTree) -> jax.Array:
    """Whether no float of a tree is NaN or Inf."""
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.isfinite(x).all() for x in floats])) if floats else jnp.bool_(True)
