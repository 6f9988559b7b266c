"""Token sequences in blocks of a fixed size, so that padding moves no bit.

A sum over M keys rounds differently when M grows, even if every new term is 0: the back end splits the sum by its length.
Here a sequence is a stack of blocks of S tokens. Every block goes through the same compiled program (the body of a loop), and
what blocks add up is added in their order; a block of padding adds exact zeros. A result is then, bit for bit, a function of
the tokens that count, whatever the length they were padded to.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fusionjax.types import Array

LEAST = 2
"""Fewest blocks of a looped sequence: a loop of one turn is dissolved by the compiler, and its body compiled otherwise."""


class Blocks(NamedTuple):
    """A sequence of T tokens in n blocks of S, padded at the end.

    Attributes:
        tokens: (n, B, S, D).
        mask: (n, B, S) bool, False where a token is padding.
    """

    tokens: Array
    mask: Array

    @property
    def batch(self) -> int:
        """B."""
        return self.tokens.shape[1]

    def broadcast(self, batch: int) -> "Blocks":
        """The same with a batch of 1 repeated."""
        n, _, size, width = self.tokens.shape
        tokens = jnp.broadcast_to(self.tokens, (n, batch, size, width))
        return Blocks(tokens, jnp.broadcast_to(self.mask, (n, batch, size)))


def split(tokens: Array, mask: Array, size: int) -> Blocks:
    """Cuts a sequence.

    Args:
        tokens: (B, T, D). What stands in the padding is replaced by 0: it may be anything, NaN included.
        mask: (B, T) bool.
        size: S; 0 for one block of all T tokens, which is not looped over (then a longer padding may change the rounding).
    """
    batch, length, width = tokens.shape
    n = max(-(-length // size), LEAST) if size else 1
    pad = n * size - length if size else 0
    tokens = jnp.pad(jnp.where(mask[..., None], tokens, 0), ((0, 0), (0, pad), (0, 0)))
    mask = jnp.pad(mask, ((0, 0), (0, pad)))
    return Blocks(
        tokens.reshape(batch, n, -1, width).swapaxes(0, 1), mask.reshape(batch, n, -1).swapaxes(0, 1)
    )


def join_maps(maps: Array, length: int, axis: int) -> Array:
    """Blocks of an attention map, (n, ..., S at `axis` of what follows, ...), as one map of `length` tokens at `axis`."""
    maps = jnp.moveaxis(maps, 0, axis)
    shape = (*maps.shape[:axis], -1, *maps.shape[axis + 2 :])
    return jax.lax.slice_in_dim(maps.reshape(shape), 0, length, axis=axis)


def map_blocks(function: Callable[..., Any], module: nn.Module, *blocks: Any) -> Any:
    """function(module, *block) of every block, results stacked; the module's parameters are shared, dropout is not."""
    if jax.tree.leaves(blocks)[0].shape[0] == 1:
        out = function(module, *jax.tree.map(lambda x: x[0], blocks))
        return jax.tree.map(lambda x: x[None], out)

    def body(module: nn.Module, carry: tuple[()], *block: Any) -> tuple[tuple[()], Any]:
        return carry, function(module, *block)

    scan = nn.scan(body, variable_broadcast="params", split_rngs={"params": False, "dropout": True})
    return scan(module, (), *blocks)[1]


def masked_mean(blocks: Blocks) -> Array:
    """Mean over the tokens that count, (B, D) float32; 0 where none does."""

    def body(total: Array, block: Blocks) -> tuple[Array, None]:
        part = jnp.where(block.mask[..., None], block.tokens.astype(jnp.float32), 0).sum(1)
        return total + part, None

    zero = jnp.zeros((blocks.batch, blocks.tokens.shape[-1]), jnp.float32)
    return _scan(body, zero, blocks)[0] / jnp.maximum(blocks.mask.sum((0, 2)), 1)[:, None]


def attention(
    q: Array,
    k: Array,
    v: Array,
    mask: Array,
    *,
    first: tuple[Array, Array] | None = None,
    rate: float = 0.0,
    key: Array | None = None,
    with_map: bool = False,
) -> tuple[Array, Array | None]:
    """softmax(q kᵀ / √d) v over blocks of keys: an online softmax (Milakov & Gimelshein, 2018, algorithm 3).

    Args:
        q: (B, H, N, d) queries.
        k, v: (n, B, H, S, d) keys and values; a batch of 1 serves all queries and is not copied.
        mask: (n, B, S) bool, with k's batch; False keys get no weight at all.
        first: k and v, (B, H, F, d), of keys before the blocks that always count; not in the map.
        rate, key: dropout of the map; none where `key` is None.
        with_map: also return the map.

    Returns:
        (B, H, N, d) in q's dtype, 0 for a query without any key, and the map (n, B, H, N, S) float32 before dropout, or None.
    """
    q = q * q.shape[-1] ** -0.5
    least = jnp.finfo(jnp.float32).min

    def body(carry: tuple[Array, ...], block: tuple[Array, ...]) -> tuple[tuple[Array, ...], Array | None]:
        top, total, out, index = carry
        k, v, mask = block
        mask = mask[:, None, None, :]
        scores = jnp.where(mask, _product("bhnd,bhmd->bhnm", q, k), least)
        # The top cancels in the quotient: no gradient need pass through it.
        new = jax.lax.stop_gradient(jnp.maximum(top, scores.max(-1, keepdims=True)))
        weights = jnp.where(mask, jnp.exp(scores - new), 0)
        shrink = jnp.exp(top - new)
        total = total * shrink + weights.sum(-1, keepdims=True)
        if key is not None and rate:
            keep = jax.random.bernoulli(jax.random.fold_in(key, index), 1 - rate, weights.shape)
            weights = jnp.where(keep, weights / (1 - rate), 0)
        out = out * shrink + _product("bhnm,bhmd->bhnd", weights.astype(v.dtype), v)
        return (new, total, out, index + 1), (scores if with_map else None)

    rows = (*q.shape[:3], 1)
    state = (
        jnp.full(rows, least),
        jnp.zeros(rows, jnp.float32),
        jnp.zeros(q.shape, jnp.float32),
        jnp.int32(0),
    )
    if first is not None:
        state, _ = body(state, (*first, jnp.ones((first[0].shape[0], first[0].shape[2]), bool)))
    (top, total, out, _), scores = _scan(body, state, (k, v, mask))
    total = jnp.where(total > 0, total, 1)
    if scores is not None:
        scores = jnp.where(mask[:, :, None, None, :], jnp.exp(scores - top) / total, 0)
    return (out / total).astype(q.dtype), scores


def _scan(body: Callable[..., Any], carry: Any, blocks: Any) -> tuple[Any, Any]:
    """A scan; of one block no loop at all."""
    if jax.tree.leaves(blocks)[0].shape[0] > 1:
        return jax.lax.scan(body, carry, blocks)
    carry, out = body(carry, jax.tree.map(lambda x: x[0], blocks))
    return carry, jax.tree.map(lambda x: x[None], out)


def _product(spec: str, a: Array, b: Array) -> Array:
    """The einsum of two batches in float32; a batch of 1 in `b` serves all of `a`."""
    if b.shape[0] == 1 < a.shape[0]:
        inputs, out = spec.split("->")
        spec, b = f"{inputs.split(',')[0]},{inputs.split(',')[1][1:]}->{out}", b[0]
    return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)
