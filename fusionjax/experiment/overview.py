"""What `--check` prints: classes and counts, steps, and the memory and time that the run needs at least, from shapes."""

import functools
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview
from jax.interpreters import partial_eval

from fusionjax.data.source import Source
from fusionjax.experiment import resources
from fusionjax.interpret.report import duration
from fusionjax.models import cards
from fusionjax.train.optim import Optimizer
from fusionjax.train.state import TrainState
from fusionjax.types import PyTree

if TYPE_CHECKING:
    from fusionjax.experiment.trainer import Experiment

CLASSES = 12
"""Maximum number of classes whose counts are listed."""
_SIDE = {"cpu": 1024}
"""Side of the matrices of the speed measurement by platform; `_LARGE` elsewhere."""
_LARGE = 8192


def describe(run: "Experiment", *, parameters: bool = False) -> str:
    """The overview of a run that was built and not started. One whole step is traced with shapes; nothing is trained.

    Args:
        run: to describe.
        parameters: include the table of parameters.
    """
    optimizer = run.optimizer()
    current = jax.eval_shape(functools.partial(run.create_state, optimizer), run.abstract_variables())
    batch, once = _batch(run)
    traced = jax.make_jaxpr(run.train_step(optimizer, 1))(current, batch)
    lines = list(run.notes)
    if parameters:
        params = run.abstract_variables()["params"]
        lines += [parameter_overview.get_parameter_overview(params, include_stats=False)]
    trainable = resources.size_of(optimizer.split(current.params)[0])
    lines += [
        *_classes(run),
        ", ".join(f"{len(s):,} {name}" for name, s in _splits(run)) + f" images; {_steps(run)}",
        _memory(run, current, trainable, _kept(run, optimizer, current, batch)),
        _time(run, _operations(traced), once),
    ]
    return "\n".join(lines)


def _operations(traced: jax.extend.core.ClosedJaxpr) -> int:
    """Floating-point operations in products of matrices and convolutions, without those whose result nothing reads: XLA leaves
    them out too, such as the forward pass that only counts the rows of micro-batches."""
    needed, _ = partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))
    return 2 * cards.macs(needed)


def _splits(run: "Experiment") -> Iterator[tuple[str, Source]]:
    yield "training", run.source
    yield from run.eval_sources.items()


def _steps(run: "Experiment") -> str:
    epochs = run.steps / run.steps_per_epoch if run.steps_per_epoch else 0.0
    return f"{run.steps:,} steps of {run.config.train.batch_size:,} ({epochs:,.3g} epochs)"


def _classes(run: "Experiment") -> list[str]:
    """Classes with their counts per split: all of a few, else the range and the extremes of training."""
    names, splits = tuple(run.source.class_names), dict(_splits(run))
    if len(names) < 2:
        return []
    own = {name: source for name, source in splits.items() if tuple(source.class_names) == names}
    counts = {name: np.bincount(np.asarray(s.labels), minlength=len(names)) for name, s in own.items()}
    train = counts["training"]
    order = np.argsort(-train, kind="stable")
    others = [f"{len(s.class_names):,} of {k}" for k, s in splits.items() if k not in own]
    apart = f"; {' and '.join(others)} are classes of their own" if others else ""
    if len(names) > CLASSES:
        ends = [
            f"{what} {names[i]!a} ({train[i]:,})" for what, i in (("fewest", order[-1]), ("most", order[0]))
        ]
        used = (
            f"{int((train > 0).sum()):,} with training images"
            if (train == 0).any()
            else "all with training images"
        )
        return [f"{len(names):,} classes, {used}; {', '.join(ends)}{apart}"]
    rows = [("class", *own), *((f"{names[i]!a}"[1:-1], *(f"{counts[k][i]:,}" for k in own)) for i in order)]
    w = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([first.ljust(w[0]), *(c.rjust(n) for c, n in zip(rest, w[1:], strict=True))])
        for first, *rest in rows
    ]
    return [f"{len(names)} classes{apart}", *(f"  {line}" for line in lines)]


def _batch(run: "Experiment") -> tuple[dict[str, jax.ShapeDtypeStruct], int]:
    """Shapes of a batch as the step takes it, and the operations that are done once before: features of a frozen trunk."""
    batch, config = run.abstract_batch(), run.config
    if not config.data.cache.enabled:
        return batch, 0
    traced, features = jax.make_jaxpr(run.task.model.encode, return_shape=True)(
        run.abstract_variables(), batch
    )
    views = len(run.source) * config.data.cache.passes + sum(map(len, run.eval_sources.values()))
    each = _operations(traced) / config.train.batch_size
    rest = {name: shape for name, shape in batch.items() if name not in ("image", *config.data.carry)}
    return rest | {"features": jax.ShapeDtypeStruct(features.shape, np.float16)}, round(each * views)


def _kept(
    run: "Experiment", optimizer: Optimizer, current: TrainState, batch: dict[str, jax.ShapeDtypeStruct]
) -> int:
    """Bytes that the backward pass of a micro-batch reads from the forward pass, parameters and inputs aside.

    XLA needs some more for what it computes in between; on a CPU its buffers were 11 to 16 % larger without `model.remat`.
    """
    loss, accumulate = run.loss(1), run.config.optim.accumulate
    micro = {
        name: jax.ShapeDtypeStruct((x.shape[0] // accumulate, *x.shape[1:]), x.dtype)
        for name, x in batch.items()
    }
    trainable, frozen = optimizer.split(current.params)

    def residuals(
        trainable: PyTree, frozen: PyTree, collections: PyTree, batch: PyTree, key: jax.Array
    ) -> PyTree:
        def of(trainable: PyTree) -> jax.Array:
            return loss({"params": optimizer.join(trainable, frozen), **collections}, batch, key)[0]

        return jax.tree.leaves(jax.vjp(of, trainable)[1])

    key = jax.eval_shape(lambda: jax.random.key(0))
    traced = jax.make_jaxpr(residuals)(trainable, frozen, current.collections, micro, key).jaxpr
    made = {v for v in traced.outvars if isinstance(v, jax.extend.core.Var)} - {
        *traced.invars,
        *traced.constvars,
    }
    return resources.size_of([v.aval for v in made])


def _memory(run: "Experiment", current: TrainState, trainable: int, kept: int) -> str:
    """One line: what is held during the whole run, and the activations of a step."""
    whole, parameters = resources.size_of(current), resources.size_of(current.params)
    images = sum(part.size for part in resources.batch_parts(run.config, run.abstract_image()))
    parts = {
        "parameters": parameters,
        "optimiser and other state": whole - parameters,
        "gradients": trainable,
        "images": images,
    }
    shown = ", ".join(f"{what} {resources.shown(size)}" for what, size in parts.items())
    whole_run = resources.shown(sum(parts.values()))
    return (
        f"memory: at least {whole_run} ({shown}); activations come on top, and grow with the batch: about "
        f"{resources.shown(kept)} are kept for the gradient"
    )


def _time(run: "Experiment", step: int, once: int) -> str:
    """One line: the time of the multiplications alone, at the speed that the device reaches in a product of matrices."""
    rate = multiplication_rate(jnp.dtype(run.config.precision)) * jax.device_count()
    seconds = (once + step * run.steps) / rate
    least = f"at least {duration(seconds)}" if seconds >= 1 else "less than a second"
    before = f", and {once:.1e} once for the features of the frozen network" if once else ""
    return (
        f"time: {least} for products of matrices and convolutions ({step:.1e} operations per step{before}; "
        f"{jax.device_count()} × {jax.devices()[0].device_kind}, measured at {rate:.1e} per second); all else comes on top: "
        "reading images, evaluation, compilation"
    )


def multiplication_rate(dtype: np.dtype) -> float:
    """Floating-point operations per second that a device reaches in a product of two large square matrices, measured.

    Args:
        dtype: of the matrices.
    """
    side = _SIDE.get(jax.default_backend(), _LARGE)
    product = jax.jit(jnp.matmul)
    a = jnp.ones((side, side), dtype)
    jax.block_until_ready(product(a, a))  # compiles
    times = []
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready(product(a, a))
        times.append(time.perf_counter() - began)
    return 2 * side**3 / min(times)
