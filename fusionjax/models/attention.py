"""Scaled dot-product attention over (B, H, N, d) heads, with the maps only when they are asked for."""

import jax
import jax.numpy as jnp

from fusionjax.types import Array

CHUNK = 128
"""Query rows computed at a time by the blockwise forms."""

LONG = 512
"""Number of queries from which the CPU back end is better off with chunks than with the whole map."""


def attention(q: Array, k: Array, v: Array, *, mask: Array | None = None) -> Array:
    """softmax(q kᵀ / √d) v.

    Args:
        q: (B, H, N, d) queries.
        k, v: (B, H, M, d) keys and values.
        mask: bool, broadcastable to (B, H, N, M); False keys get no weight at all.

    Returns:
        (B, H, N, d) in q's dtype; the softmax is float32.
    """
    if (
        mask is None
        and jax.default_backend() == "gpu"
        and q.dtype in (jnp.bfloat16, jnp.float16)
        and q.shape[-1] % 8 == 0
    ):
        out = jax.nn.dot_product_attention(*(x.swapaxes(1, 2) for x in (q, k, v)), implementation="cudnn")
        return out.swapaxes(1, 2)
    if mask is None and q.shape[2] >= LONG:
        return _chunked(q, k, v)
    return _weighted(probabilities(q, k, mask=mask), v)


def probabilities(q: Array, k: Array, *, mask: Array | None = None) -> Array:
    """The attention map softmax(q kᵀ / √d), (B, H, N, M), float32. Arguments as for `attention`."""
    scores = jnp.einsum("bhnd,bhmd->bhnm", q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
    if mask is not None:
        # The lowest finite number, not −inf: a row without any key stays finite.
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    return jax.nn.softmax(scores, axis=-1)


def attention_with_map(q: Array, k: Array, v: Array, *, mask: Array | None = None) -> tuple[Array, Array]:
    """`attention` and its map, (B, H, N, M) float32; costs the memory of the map."""
    weights = probabilities(q, k, mask=mask)
    return _weighted(weights, v), weights


def attention_with_dropout(
    q: Array, k: Array, v: Array, rate: float, key: Array, *, mask: Array | None = None
) -> tuple[Array, Array]:
    """`attention` with dropout of the map, and the map as it is before the dropout."""
    weights = probabilities(q, k, mask=mask)
    keep = jax.random.bernoulli(key, 1 - rate, weights.shape)
    return _weighted(jnp.where(keep, weights / (1 - rate), 0), v), weights


def attention_and_map(
    q: Array,
    k: Array,
    v: Array,
    *,
    mask: Array | None = None,
    rate: float = 0.0,
    key: Array | None = None,
    with_map: bool = False,
) -> tuple[Array, Array | None]:
    """The cheapest form of `attention` that gives what is asked for.

    Args:
        q, k, v, mask: as for `attention`.
        rate, key: dropout of the map; none where `key` is None.
        with_map: also return the map.

    Returns:
        (B, H, N, d), and the map (B, H, N, M) float32 before dropout, or None.
    """
    if key is not None:
        out, weights = attention_with_dropout(q, k, v, rate, key, mask=mask)
        return out, weights if with_map else None
    if with_map:
        return attention_with_map(q, k, v, mask=mask)
    return attention(q, k, v, mask=mask), None


def _weighted(weights: Array, v: Array) -> Array:
    return jnp.einsum("bhnm,bhmd->bhnd", weights.astype(v.dtype), v)


def _chunked(q: Array, k: Array, v: Array) -> Array:
    """Memory linear in N: rows are processed `CHUNK` at a time and recomputed in the backward pass."""
    batch, heads, n, d = q.shape
    pad = -n % CHUNK
    rows = (
        jnp.pad(q, ((0, 0), (0, 0), (0, pad), (0, 0)))
        .reshape(batch, heads, -1, CHUNK, d)
        .transpose(2, 0, 1, 3, 4)
    )

    @jax.checkpoint
    def block(part: Array) -> Array:
        return _weighted(probabilities(part, k), v)

    out = jax.lax.map(block, rows)
    return out.transpose(1, 2, 0, 3, 4).reshape(batch, heads, n + pad, d)[:, :, :n]


def split_heads(x: Array, heads: int) -> Array:
    """(B, N, D) → (B, H, N, D / H)."""
    batch, n, width = x.shape
    return x.reshape(batch, n, heads, width // heads).transpose(0, 2, 1, 3)


def merge_heads(x: Array) -> Array:
    """(B, H, N, d) → (B, N, H·d)."""
    batch, heads, n, d = x.shape
    return x.transpose(0, 2, 1, 3).reshape(batch, n, heads * d)
