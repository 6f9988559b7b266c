"""Scaled dot-product attention over (B, H, N, d) heads; maps are built only on request."""

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from fusionjax.models.observation import See
from fusionjax.types import Array

Queries: TypeAlias = Float[Array, "batch heads queries depth"]
Keys: TypeAlias = Float[Array, "batch heads keys depth"]
Values: TypeAlias = Float[Array, "batch heads keys value_depth"]
Mask: TypeAlias = Bool[Array, "#batch #heads #queries #keys"]
Output: TypeAlias = Float[Array, "batch heads queries value_depth"]
Weights: TypeAlias = Float[Array, "batch heads queries keys"]

CHUNK = 128
"""Query rows that the blockwise forms compute at a time."""

LONG = 512
"""Number of queries from which the CPU back end is faster with chunks than with the whole map."""


def attention(q: Queries, k: Keys, v: Values, *, mask: Mask | None = None, see: See | None = None) -> Output:
    """Computes softmax(q kᵀ / √d) v (Vaswani et al., NeurIPS 2017, section 3.2.1).

    Args:
        q: (B, H, N, d) float queries.
        k, v: (B, H, M, d) float keys and values.
        mask: bool, broadcastable to (B, H, N, M); keys where it is False get zero weight.
        see: of `observer`; the map is then computed as a whole.

    Returns:
        (B, H, N, d) in the dtype of `q`; the softmax is computed in float32.
    """
    if see is not None:
        return _weighted(see(probabilities(q, k, mask=mask)), v)
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


def probabilities(q: Queries, k: Keys, *, mask: Mask | None = None) -> Weights:
    """Computes the attention map softmax(q kᵀ / √d), (B, H, N, M) float32. Arguments as for `attention`."""
    scores = jnp.einsum("bhnd,bhmd->bhnm", q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
    if mask is not None:
        # The lowest finite number, not −inf, so that a row without any key stays finite.
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    return jax.nn.softmax(scores, axis=-1)


def attention_with_map(q: Queries, k: Keys, v: Values, *, mask: Mask | None = None) -> tuple[Output, Weights]:
    """Returns the output of `attention` and its map, (B, H, N, M) float32, which is held in memory as a whole."""
    weights = probabilities(q, k, mask=mask)
    return _weighted(weights, v), weights


def attention_with_dropout(
    q: Queries, k: Keys, v: Values, rate: float, key: Array, *, mask: Mask | None = None
) -> tuple[Output, Weights]:
    """Computes `attention` with dropout on the map.

    Args:
        q, k, v, mask: as for `attention`.
        rate: probability that a weight is set to 0; the others are divided by 1 − rate.
        key: PRNG key.

    Returns:
        The output, (B, H, N, d), and the map before dropout, (B, H, N, M) float32.
    """
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
    see: See | None = None,
) -> tuple[Array, Array | None]:
    """The cheapest form of `attention` that gives what is asked for.

    Args:
        q, k, v, mask: as for `attention`.
        rate, key: dropout of the map; none where `key` is None.
        with_map: also return the map.
        see: of `observer`; there is no dropout then.

    Returns:
        (B, H, N, d), and the map (B, H, N, M) float32 before dropout, or None.
    """
    if see is not None:
        weights = see(probabilities(q, k, mask=mask))
        return _weighted(weights, v), weights if with_map else None
    if key is not None:
        out, weights = attention_with_dropout(q, k, v, rate, key, mask=mask)
        return out, weights if with_map else None
    if with_map:
        return attention_with_map(q, k, v, mask=mask)
    return attention(q, k, v, mask=mask), None


def _weighted(weights: Array, v: Array) -> Array:
    return jnp.einsum("bhnm,bhmd->bhnd", weights.astype(v.dtype), v)


def _chunked(q: Array, k: Array, v: Array) -> Array:
    """Needs memory linear in N: rows are processed `CHUNK` at a time and recomputed in the backward pass."""
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


def split_heads(
    x: Float[Array, "batch tokens width"], heads: int
) -> Float[Array, "batch heads tokens depth"]:
    """Splits the channels into heads: (B, N, D) → (B, H, N, D / H)."""
    batch, n, width = x.shape
    return x.reshape(batch, n, heads, width // heads).transpose(0, 2, 1, 3)


def merge_heads(x: Float[Array, "batch heads tokens depth"]) -> Float[Array, "batch tokens width"]:
    """Joins the heads' channels: (B, H, N, d) → (B, N, H·d)."""
    batch, heads, n, d = x.shape
    return x.transpose(0, 2, 1, 3).reshape(batch, n, heads * d)
