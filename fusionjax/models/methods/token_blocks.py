"""Token sequences in blocks of a fixed size, so that padding does not change a single bit of the result.

A sum over M keys rounds differently when M grows, even if every new term is 0, as the back end splits a sum by its length.
Here a sequence is a stack of blocks of S tokens. Every block goes through the same compiled program (the body of a loop), and
partial sums are added in the order of the blocks; a block of padding adds exact zeros. A result is therefore, bit for bit, a
function of the unpadded tokens, whatever length they were padded to.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from fusionjax.types import Array, PyTree

LEAST = 2
"""Minimum number of blocks in a loop: the compiler unrolls a loop of one iteration and compiles its body differently."""


class Blocks(NamedTuple):
    """A sequence of T tokens in n blocks of S, padded at the end.

    Attributes:
        tokens: (n, B, S, D) float.
        mask: (n, B, S) bool, False where a token is padding.
    """

    tokens: Array
    mask: Array

    @property
    def batch(self) -> int:
        """The batch size B."""
        return self.tokens.shape[1]

    def broadcast(self, batch: int) -> "Blocks":
        """Repeats a batch of 1 `batch` times."""
        n, _, size, width = self.tokens.shape
        tokens = jnp.broadcast_to(self.tokens, (n, batch, size, width))
        return Blocks(tokens, jnp.broadcast_to(self.mask, (n, batch, size)))


def split(tokens: Float[Array, "batch tokens width"], mask: Bool[Array, "batch tokens"], size: int) -> Blocks:
    """Splits a sequence into blocks.

    Args:
        tokens: (B, T, D) float. Padding is replaced by 0, whatever it contains, NaN included.
        mask: (B, T) bool, False where a token is padding.
        size: S; 0 for a single block of all T tokens without a loop (longer padding may then change the rounding).

    Returns:
        Blocks.
    """
    batch, length, width = tokens.shape
    n = max(-(-length // size), LEAST) if size else 1
    pad = n * size - length if size else 0
    tokens = jnp.pad(jnp.where(mask[..., None], tokens, 0), ((0, 0), (0, pad), (0, 0)))
    mask = jnp.pad(mask, ((0, 0), (0, pad)))
    return Blocks(
        tokens.reshape(batch, n, -1, width).swapaxes(0, 1), mask.reshape(batch, n, -1).swapaxes(0, 1)
    )


def join_maps(maps: Float[Array, "blocks ..."], length: int, axis: int) -> Float[Array, "..."]:
    """Joins the blocks of an attention map.

    Args:
        maps: (n, ...) float, one map per block.
        length: T, number of tokens without the padding of the last block.
        axis: of the tokens in one block's map.

    Returns:
        One map, with T tokens along `axis`.
    """
    maps = jnp.moveaxis(maps, 0, axis)
    shape = (*maps.shape[:axis], -1, *maps.shape[axis + 2 :])
    return jax.lax.slice_in_dim(maps.reshape(shape), 0, length, axis=axis)


def map_blocks(function: Callable[..., PyTree], module: nn.Module, *blocks: PyTree) -> PyTree:
    """Applies a function to every block; the blocks share the module's parameters and have their own dropout.

    Args:
        function: (module, *block) → pytree of arrays.
        module: linen module, bound.
        *blocks: pytrees of arrays with a leading axis of n blocks.

    Returns:
        The results, stacked along a leading axis.
    """
    if jax.tree.leaves(blocks)[0].shape[0] == 1:
        out = function(module, *jax.tree.map(lambda x: x[0], blocks))
        return jax.tree.map(lambda x: x[None], out)

    def body(module: nn.Module, carry: tuple[()], *block: PyTree) -> tuple[tuple[()], PyTree]:
        return carry, function(module, *block)

    scan = nn.scan(body, variable_broadcast="params", split_rngs={"params": False, "dropout": True})
    return scan(module, (), *blocks)[1]


def masked_mean(blocks: Blocks) -> Float[Array, "batch width"]:
    """Computes the mean over the unpadded tokens, (B, D) float32; 0 for a sequence that is all padding."""

    def body(total: Array, block: Blocks) -> tuple[Array, None]:
        part = jnp.where(block.mask[..., None], block.tokens.astype(jnp.float32), 0).sum(1)
        return total + part, None

    zero = jnp.zeros((blocks.batch, blocks.tokens.shape[-1]), jnp.float32)
    return _scan(body, zero, blocks)[0] / jnp.maximum(blocks.mask.sum((0, 2)), 1)[:, None]


def attention(
    q: Float[Array, "batch heads queries depth"],
    k: Float[Array, "blocks key_batch heads keys depth"],
    v: Float[Array, "blocks key_batch heads keys depth"],
    mask: Bool[Array, "blocks key_batch keys"],
    *,
    first: tuple[Float[Array, "first_batch heads first depth"], Float[Array, "first_batch heads first depth"]]
    | None = None,
    rate: float = 0.0,
    key: Array | None = None,
    with_map: bool = False,
) -> tuple[Float[Array, "batch heads queries depth"], Float[Array, "blocks batch heads queries keys"] | None]:
    """Computes softmax(q kᵀ / √d) v over blocks of keys with an online softmax.

    Args:
        q: (B, H, N, d) float queries.
        k, v: (n, B, H, S, d) float keys and values; a batch of 1 is shared by all queries and is not copied.
        mask: (n, B, S) bool, with the batch of `k`; keys where it is False get zero weight.
        first: keys and values, (B, H, F, d), that come before the blocks and are never masked; they are not in the map.
        rate, key: rate of dropout on the map and its PRNG key; no dropout where `key` is None.
        with_map: also return the map.

    Returns:
        (B, H, N, d) in the dtype of `q`, 0 for a query without any key; and the map before dropout, (n, B, H, N, S)
        float32, or None.

    Source: Milakov & Gimelshein, 2018, arXiv 1805.02867, algorithm 3.
    """
    q = q * q.shape[-1] ** -0.5
    least = jnp.finfo(jnp.float32).min

    def body(carry: tuple[Array, ...], block: tuple[Array, ...]) -> tuple[tuple[Array, ...], Array | None]:
        top, total, out, index = carry
        k, v, mask = block
        mask = mask[:, None, None, :]
        scores = jnp.where(mask, _product("bhnd,bhmd->bhnm", q, k), least)
        # The maximum cancels in the quotient, so it needs no gradient.
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
    state: tuple[Array, ...] = (
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


def _scan(body: Callable[..., PyTree], carry: PyTree, blocks: PyTree) -> tuple[PyTree, PyTree]:
    """Scans over the blocks; a single block is computed without a loop."""
    if jax.tree.leaves(blocks)[0].shape[0] > 1:
        return jax.lax.scan(body, carry, blocks)
    carry, out = body(carry, jax.tree.map(lambda x: x[0], blocks))
    return carry, jax.tree.map(lambda x: x[None], out)


def _product(spec: str, a: Array, b: Array) -> Array:
    """Computes the einsum of two batches in float32; a batch of 1 in `b` is shared by all of `a`."""
    if b.shape[0] == 1 < a.shape[0]:
        inputs, out = spec.split("->")
        spec, b = f"{inputs.split(',')[0]},{inputs.split(',')[1][1:]}->{out}", b[0]
    return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)
