"""Similarity of every query to every gallery entry, a block of queries at a time.

Memory is proportional to block × gallery, not to queries × gallery.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fusionjax.errors import UserError
from fusionjax.types import Array

METRICS = ("cosine", "euclidean")
BLOCK = 1 << 24
"""Similarities per block, 64 MB of float32; two blocks are in memory at a time."""
_ROWS = 4096  # rows that `prepare` converts at a time
_ALIGNMENT = 64  # bytes; the CPU device does not copy a host array that starts at a multiple of it


def prepare(
    parts: list[tuple[str, np.ndarray, np.ndarray | None]], metric: str
) -> Float[np.ndarray, "rows width"]:
    """Concatenates several sets of features into one float32 copy and prepares it for the metric.

    "cosine": rows are normalised to unit length; a row of zeros stays zero. "euclidean": the mean of the last set, rounded to
    about one standard deviation, is subtracted from all; this changes no distance and avoids cancellation in
    |a|² + |b|² − 2 a·b for features far from the origin.

    Args:
        parts: (name for messages, features (n, D) of any float dtype, rows to use (m,) int or None for all), one or more.
        metric: "cosine" or "euclidean".

    Returns:
        (Σ m, D) float32.

    Raises:
        UserError: the metric is unknown, or features are not finite.
        ValueError: features are not (n, D) with the same D.
    """
    if metric not in METRICS:
        raise UserError(f"metric={metric!r} is unknown; use {' or '.join(METRICS)}")
    width = parts[0][1].shape[-1]
    for name, features, _ in parts:
        if features.ndim != 2 or features.shape[1] != width:
            raise ValueError(f"{name} features {features.shape} are not (n, {width})")
    counts = [len(features) if rows is None else len(rows) for _, features, rows in parts]
    out = _aligned(sum(counts), width)
    start = 0
    for (name, features, rows), count in zip(parts, counts, strict=True):
        for low in range(0, count, _ROWS):
            high = min(count, low + _ROWS)
            block = out[start + low : start + high]
            block[:] = features[low:high] if rows is None else features[rows[low:high]]
            squares = np.einsum("nd,nd->n", block, block)
            if not np.isfinite(squares).all():
                bad = low + int(np.flatnonzero(~np.isfinite(squares))[0])
                bad = bad if rows is None else int(rows[bad])
                raise UserError(f"row {bad} of the {name} features is not finite or too large for float32")
            if metric == "cosine":
                block /= np.sqrt(np.where(squares > 0, squares, 1))[:, None]
        start += count
    if metric == "euclidean":
        last = out[start - counts[-1] :]
        deviation = float(last[:_ROWS].std(dtype=np.float64))
        if (
            deviation > 0
        ):  # on a grid of powers of two, so that features of few bits, and their ties, stay exact
            grid = 2.0 ** np.ceil(np.log2(deviation))
            out -= (np.rint(last.mean(axis=0, dtype=np.float64) / grid) * grid).astype(np.float32)
    return out


def rows(
    queries: Float[np.ndarray, "queries width"],
    gallery: Float[Array, "gallery width"],
    metric: str,
    *,
    block: int = BLOCK,
) -> Iterator[tuple[int, np.ndarray]]:
    """Computes similarities, a block of queries at a time; the device computes a block while the caller uses the previous one.

    Products are accumulated in float32 on every device (no TensorFloat-32, no bfloat16).

    Args:
        queries: (Q, D) float32, from `prepare`.
        gallery: (G, D) float32 on a device, from `prepare`.
        metric: "cosine", or "euclidean" for the negated squared distance.
        block: maximum number of similarities per block; a block has at least one row.

    Yields:
        Index of the first query of the block; and its similarities (b, G) float32, read-only, where larger is nearer.
    """
    size = max(1, min(len(queries), block // max(1, len(gallery)), 512))
    norms = squared_norms(gallery) if metric == "euclidean" else None
    waiting = None
    for start in range(0, len(queries), size):
        part = queries[start : start + size]
        padded = np.pad(part, ((0, size - len(part)), (0, 0)))  # one shape, one compilation
        computed = (
            _products(padded, gallery) if norms is None else _minus_squared_distances(padded, gallery, norms)
        )
        if waiting is not None:
            yield _fetched(*waiting)
        waiting = start, len(part), computed
    if waiting is not None:
        yield _fetched(*waiting)


@jax.jit
def squared_norms(features: Float[Array, "rows width"]) -> Float[Array, " rows"]:
    """Computes the squared length of each row: (N, D) → (N,) float32."""
    return jnp.square(features).sum(-1)


def squared_distances(
    a: Float[Array, "a width"], b: Float[Array, "b width"], b_norms: Float[Array, " b"]
) -> Float[Array, "a b"]:
    """Computes |a|² + |b|² − 2 a·b: (n, D), (m, D), (m,) → (n, m) float32; rounding may leave small values below 0."""
    products = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
    return (squared_norms(a)[:, None] - 2 * products) + b_norms


@jax.jit
def _products(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)


@jax.jit
def _minus_squared_distances(a: Array, b: Array, b_norms: Array) -> Array:
    return -squared_distances(a, b, b_norms)


def _fetched(start: int, count: int, computed: Array) -> tuple[int, np.ndarray]:
    return start, np.asarray(computed)[:count]


def _aligned(n: int, width: int) -> np.ndarray:
    size = n * width * 4
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + size].view(np.float32).reshape(n, width)
