"""Gradients of a batch in micro-batches, for less memory: the same loss and gradient as those of the whole batch.

The mean of the micro-batches' means is another number than the mean of the batch where they hold unequal numbers of rows that
count. `losses.masked_mean` therefore divides by the count of the whole batch (its share per micro-batch), which
is known before the first gradient: counts depend on what is valid, so the pass that adds them up compiles to a few sums.

A loss whose value for one row depends on other rows (hard negatives, InfoNCE, NT-Xent) sees those of its micro-batch alone.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
from clu import metrics as clu_metrics

from fusionjax.types import PyTree

Batch = dict[str, jax.Array]
Metrics = dict[str, clu_metrics.Average]
Collections = dict[str, PyTree]
Gradient = tuple[tuple[jax.Array, tuple[Metrics, Collections]], PyTree]
"""(loss, (metrics, new collections)), gradient: what `jax.value_and_grad` returns."""
GradientOf = Callable[[Collections, Batch, jax.Array], Gradient]
"""(collections, batch, key) → `Gradient`."""


class _Counts:
    """Number of rows of each mean of a loss, in the order in which they are taken.

    Args:
        whole: denominators to divide by; None while they are recorded.
    """

    def __init__(self, whole: Sequence[jax.Array] | None = None):
        self.whole, self.seen = whole, list[jax.Array]()

    def take(self, count: jax.Array) -> jax.Array:
        self.seen.append(count)
        return _at_least_one(count) if self.whole is None else self.whole[len(self.seen) - 1]


_counts: contextvars.ContextVar[_Counts | None] = contextvars.ContextVar("counts", default=None)


def denominator(count: jax.Array) -> jax.Array:
    """What the sum over `count` rows is divided by for their mean: at least 1; in a micro-batch, the batch's mean count."""
    counts = _counts.get()
    return _at_least_one(count) if counts is None else counts.take(count)


def gradient(
    of: GradientOf, collections: Collections, batch: Batch, key: jax.Array, *, micro_batches: int, shards: int
) -> Gradient:
    """The loss, its metrics and its gradient over a batch, one micro-batch after another.

    Args:
        of: gradient of one micro-batch. Its mutable collections pass from each micro-batch to the next.
        collections: before the first.
        batch: leading axis B of every array.
        key: folded with the number of the micro-batch.
        micro_batches: that the batch is cut into.
        shards: number of devices that the batch is split over; each contributes its share to every micro-batch.
    """
    if micro_batches == 1:
        return of(collections, batch, key)
    parts = {name: _split(value, micro_batches, shards) for name, value in batch.items()}
    numbered = (jnp.arange(micro_batches), parts)

    def count(part: tuple[jax.Array, Batch]) -> tuple[jax.Array, ...]:
        index, rows = part
        with _counting(_Counts()) as counts:
            of(collections, rows, jax.random.fold_in(key, index))
        return tuple(counts.seen)

    whole = [_at_least_one(each.sum()) / micro_batches for each in jax.lax.map(count, numbered)]

    def body(
        carry: tuple[Collections, PyTree], part: tuple[jax.Array, Batch]
    ) -> tuple[tuple[Collections, PyTree], tuple[jax.Array, Metrics]]:
        (collections, total), (index, rows) = carry, part
        with _counting(_Counts(whole)):
            (value, (metrics, new)), grads = of(collections, rows, jax.random.fold_in(key, index))
        # Carried, not returned: the scan would stack the gradients of all micro-batches.
        return ({**collections, **new}, jax.tree.map(jnp.add, total, grads)), (value, metrics)

    first = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(of, collections, first, key)[1]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (collections, total), (values, metrics) = jax.lax.scan(body, (collections, zeros), numbered)
    metrics = jax.tree.map(lambda x: x.sum(0), metrics)  # totals and counts: sums are exact
    return (values.mean(), (metrics, collections)), jax.tree.map(lambda g: g / micro_batches, total)


@contextlib.contextmanager
def _counting(counts: _Counts) -> Iterator[_Counts]:
    token = _counts.set(counts)
    try:
        yield counts
    finally:
        _counts.reset(token)


def _at_least_one(count: jax.Array) -> jax.Array:
    return jnp.maximum(count, 1)


def _split(x: jax.Array, micro_batches: int, shards: int) -> jax.Array:
    """(B, ...) → (micro_batches, B / micro_batches, ...), in which every device keeps its own rows."""
    rest = x.shape[1:]
    x = x.reshape(shards, micro_batches, -1, *rest)
    return x.swapaxes(0, 1).reshape(micro_batches, -1, *rest)
