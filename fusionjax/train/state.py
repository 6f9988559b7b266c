"""The complete state of a training run, as one pytree."""

from typing import TYPE_CHECKING

import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp

from fusionjax.types import PyTree

if TYPE_CHECKING:
    from fusionjax.train.optim import Optimizer


@flax.struct.dataclass
class TrainState:
    """A training run at one step.

    Attributes:
        step: int32 scalar, number of updates done.
        params: nested dict of float32 arrays.
        collections: the model's other variables, e.g. {"batch_stats": …}.
        opt_state: state of the optimiser, for the trainable parameters only.
        ema: exponential moving average of `params`, or None.
    """

    step: jax.Array
    params: PyTree
    collections: PyTree
    opt_state: PyTree
    ema: PyTree | None

    @property
    def variables(self) -> dict[str, PyTree]:
        """The variables that are trained, for `module.apply`."""
        return {"params": self.params, **self.collections}

    @property
    def averaged(self) -> dict[str, PyTree]:
        """The variables to evaluate and export: with the averaged parameters, if there are any."""
        return {"params": self.params if self.ema is None else self.ema, **self.collections}


def create(variables: dict[str, PyTree], optimizer: "Optimizer", *, ema: bool) -> TrainState:
    """Creates the state before the first step; a pure function that can be jitted or passed to `eval_shape`.

    Args:
        variables: of the model, with "params".
        optimizer: of the run.
        ema: keep an exponential moving average of the parameters.

    Returns:
        TrainState.
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
    """Flattens a nested dict to {"a/b/c": leaf}; the patterns in a config are matched against these names."""
    return flax.traverse_util.flatten_dict(params, sep="/")


def unflatten(flat: dict[str, jax.Array]) -> PyTree:
    """The inverse of `flatten`."""
    return flax.traverse_util.unflatten_dict(flat, sep="/")
