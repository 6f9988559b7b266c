"""Attention rollout (Abnar & Zuidema, ACL 2020) as DCAL uses it, computed as a chain of row vectors.

Let S_l be the mean over heads of layer l's attention and S̄_l = ½ S_l + ½ E. The accumulated map is Ŝ = S̄_L ⋯ S̄_1. Only its
CLS row is used, so a row vector is multiplied from the left: r ← e_CLS, then r ← ½ r + ½ r S_l for l = L … 1. This costs
O(L N²), whereas the product of the matrices costs O(L N³). See docs/methods/dcal.md.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from fusionjax.models.attention import CHUNK, LONG, probabilities
from fusionjax.types import Array


def cls_rollout(
    attentions: Float[Array, "layers batch heads tokens tokens"] | Float[Array, "layers batch tokens tokens"],
) -> Float[Array, "batch tokens"]:
    """Computes the CLS row of the rollout from stored attention maps.

    Args:
        attentions: (L, B, H, N, N) float attention of each head, or (L, B, N, N), the mean over heads; layer 0 comes first.

    Returns:
        (B, N) float32, each row summing to 1. No gradient flows through it: it only selects tokens.
    """
    maps = jax.lax.stop_gradient(jnp.asarray(attentions, jnp.float32))
    if maps.ndim == 5:
        maps = maps.mean(2)

    def step(r: Array, layer: Array) -> tuple[Array, None]:
        return 0.5 * r + 0.5 * jnp.einsum("bn,bnm->bm", r, layer), None

    return jax.lax.scan(step, _cls_row(*maps.shape[1:3]), maps, reverse=True)[0]


def cls_rollout_from_qk(
    queries: Float[Array, "layers batch heads tokens depth"],
    keys: Float[Array, "layers batch heads tokens depth"],
    below: Float[Array, "batch tokens tokens"] | None = None,
) -> Float[Array, "batch tokens"]:
    """Computes the CLS row of the rollout from queries and keys, without storing an N × N map.

    Args:
        queries, keys: (L, B, H, N, d) float, as the layers computed them (unscaled).
        below: (B, N, N) float, the rollout of layers below these, from `matrix_from_qk`; None if there are none.

    Returns:
        (B, N) float32, as `cls_rollout`. Memory is linear in N: long sequences are processed in blocks of query rows.
    """
    queries, keys = jax.lax.stop_gradient((queries, keys))
    _, batch, _, n, _ = queries.shape

    def step(r: Array, layer: tuple[Array, Array]) -> tuple[Array, None]:
        return 0.5 * r + 0.5 * _row_times_map(r, *layer), None

    row = jax.lax.scan(step, _cls_row(batch, n), (queries, keys), reverse=True)[0]
    if below is None:
        return row
    return jnp.einsum("bn,bnm->bm", row, jax.lax.stop_gradient(below).astype(jnp.float32))


def matrix_from_qk(
    queries: Float[Array, "layers batch heads tokens depth"],
    keys: Float[Array, "layers batch heads tokens depth"],
) -> Float[Array, "batch tokens tokens"]:
    """Computes the whole rollout S̄_L ⋯ S̄_1 of some layers, for `cls_rollout_from_qk` of the layers above them.

    Args:
        queries, keys: (L, B, H, N, d) float, as the layers computed them (unscaled).

    Returns:
        (B, N, N) float32, each row summing to 1. No gradient flows through it. The maps of a few images are held at a time.
    """
    queries, keys = jax.lax.stop_gradient((queries, keys))
    n = queries.shape[3]

    def image(layers: tuple[Array, Array]) -> Array:
        def step(total: Array, layer: tuple[Array, Array]) -> tuple[Array, None]:
            q, k = layer
            mean = probabilities(q[None], k[None])[0].mean(0)
            return 0.5 * total + 0.5 * mean @ total, None

        return jax.lax.scan(step, jnp.eye(n, dtype=jnp.float32), layers)[0]

    return jax.lax.map(image, (queries.swapaxes(0, 1), keys.swapaxes(0, 1)), batch_size=8)


def _cls_row(batch: int, n: int) -> Array:
    return jnp.zeros((batch, n), jnp.float32).at[:, 0].set(1)


def _row_times_map(r: Array, q: Array, k: Array) -> Array:
    """r · mean over heads of softmax(q kᵀ / √d): (B, N), (B, H, N, d), (B, H, N, d) → (B, N)."""
    batch, heads, n, d = q.shape
    if n < LONG:
        return jnp.einsum("bn,bhnm->bm", r, probabilities(q, k)) / heads
    pad = -n % CHUNK
    blocks = (
        jnp.pad(q, ((0, 0), (0, 0), (0, pad), (0, 0)))
        .reshape(batch, heads, -1, CHUNK, d)
        .transpose(2, 0, 1, 3, 4)
    )
    weights = jnp.pad(r, ((0, 0), (0, pad))).reshape(batch, -1, CHUNK).transpose(1, 0, 2)

    def block(total: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
        rows, w = part
        return total + jnp.einsum("bn,bhnm->bm", w, probabilities(rows, k)) / heads, None

    return jax.lax.scan(block, jnp.zeros_like(r), (blocks, weights))[0]
