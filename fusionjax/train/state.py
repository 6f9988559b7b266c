"""Everything a run needs to go on, as one pytree."""

import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp

from fusionjax.types import PyTree


@flax.struct.dataclass
class TrainState:
    """A training run at one step.

    Attributes:
        step: int32 scalar, updates done.
        params: nested dict, float32.
        collections: the model's other variables, e.g. {"batch_stats": …}.
        opt_state: of the optimiser, over the trainable parameters only.
        ema: exponential moving average of `params`, or None.
    """

    step: jax.Array
    params: PyTree
    collections: PyTree
    opt_state: PyTree
    ema: PyTree | None

    @property
    def variables(self) -> dict[str, PyTree]:
        """What trains: for `module.apply`."""
        return {"params": self.params, **self.collections}

    @property
    def averaged(self) -> dict[str, PyTree]:
        """What is evaluated and served: the averaged parameters where there are any."""
        return {"params": self.params if self.ema is None else self.ema, **self.collections}


def create(variables: dict[str, PyTree], optimizer, *, ema: bool) -> TrainState:
    """The state before the first step; pure, so it can be jitted or given to `eval_shape`.

    Args:
        variables: of the model, with "params".
        optimizer: `optim.Optimizer`.
        ema: keep a moving average.
    """
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        collections={name: value for name, value in variables.items() if name != "params"},
        opt_state=optimizer.tx.init(optimizer.split(params)[0]),
        ema=jax.tree.map(jnp.copy, params) if ema else None,  # a copy: both are donated to the step
    )


def flatten(params: PyTree) -> dict[str, jax.Array]:
    """Nested dict → {"a/b/c": leaf}: the names that patterns in a config are matched against."""
    return flax.traverse_util.flatten_dict(params, sep="/")


def unflatten(flat: dict[str, jax.Array]) -> PyTree:
    """The inverse of `flatten`."""
    return flax.traverse_util.unflatten_dict(flat, sep="/")
