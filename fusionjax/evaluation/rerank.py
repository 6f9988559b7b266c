"""k-reciprocal re-ranking (Zhong et al., CVPR 2017) with sparse encodings: no array has (queries + gallery)² entries."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import sparse

from fusionjax.errors import UserError
from fusionjax.evaluation import similarity
from fusionjax.types import Array

_PAIRS = 256  # pairs of features multiplied at a time, few enough for the cache


@dataclass(frozen=True)
class Rerank:
    """Parameters of the re-ranking, with the paper's values as defaults.

    Attributes:
        k1: number of neighbours among which k-reciprocal neighbours are searched, ≥ 1.
        k2: number of neighbours whose encodings are averaged (local query expansion), ≥ 1; 1 turns it off.
        lambda_value: λ, weight of the original distance, 0 … 1; the Jaccard distance has weight 1 − λ.

    Raises:
        UserError: a value is out of range.
    """

    k1: int = 20
    k2: int = 6
    lambda_value: float = 0.3

    def __post_init__(self) -> None:
        for name in ("k1", "k2"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"re-ranking: {name}={value!r} must be an integer of at least 1")
        if not isinstance(self.lambda_value, int | float) or not 0 <= self.lambda_value <= 1:
            raise UserError(f"re-ranking: lambda_value={self.lambda_value!r} must lie between 0 and 1")

    def __str__(self) -> str:
        return f"k-reciprocal re-ranking (k1 {self.k1}, k2 {self.k2}, λ {self.lambda_value:g})"


def create(options: Rerank | Mapping[str, float] | None) -> Rerank | None:
    """Converts the options of a caller or a config; None for no re-ranking.

    Raises:
        UserError: a key is not a parameter, or a value is out of range.
    """
    if options is None or isinstance(options, Rerank):
        return options
    unknown = set(options) - set(Rerank.__dataclass_fields__)
    if unknown:
        known = ", ".join(Rerank.__dataclass_fields__)
        raise UserError(f"re-ranking has no parameter {sorted(unknown)[0]!r}; it has {known}")
    return Rerank(**options)  # type: ignore[arg-type]  # __post_init__ checks the types


def rows(
    everything: Float[np.ndarray, "rows width"],
    n_queries: int | None,
    options: Rerank,
    *,
    block: int = similarity.BLOCK,
) -> Iterator[tuple[int, np.ndarray]]:
    """Computes negated re-ranked distances of queries to gallery entries (larger is nearer), a block of queries at a time.

    It follows the authors' public implementation: the original distance is the **squared** Euclidean distance divided by the
    maximum of its row; k1 / 2 is rounded half to even; the set of a candidate is added if **more than** two thirds of it are
    in
    R(p, k1) (the paper: at least). An image is always its own first neighbour, before any duplicates; ties are ordered by row.

    Args:
        everything: (N, D) float32 from `similarity.prepare`, queries first, then the gallery.
        n_queries: number of rows that are queries; None if every row is both a query and a gallery entry.
        options: parameters.
        block: maximum number of distances in memory.

    Yields:
        Index of the first query of the block; (b, G) float32, −(λ d + (1 − λ) d_Jaccard), equation 12.
    """
    features = jax.device_put(everything)  # on the CPU the same memory
    norms = similarity.squared_norms(features)
    first_neighbours, farthest = _neighbours(
        everything, features, norms, max(options.k1 + 1, options.k2), block
    )
    encoded = _encode(everything, np.asarray(norms), first_neighbours, farthest, options)
    queries = len(everything) if n_queries is None else n_queries
    first = 0 if n_queries is None else n_queries  # of the gallery
    jaccard = _Jaccard(encoded[first:])
    weight = np.float32(options.lambda_value)
    for start, minus_distance in similarity.rows(everything[:queries], features, "euclidean", block=block):
        out = np.empty((len(minus_distance), len(everything) - first), np.float32)
        for i, row in enumerate(minus_distance[:, first:]):
            q = start + i
            low, high = encoded.indptr[q : q + 2]
            distance = jaccard(encoded.indices[low:high], encoded.data[low:high])
            out[i] = np.minimum(row, 0) * (weight / farthest[q]) - (1 - weight) * distance
        yield start, out


@partial(jax.jit, static_argnames="k")
def _nearest(part: Array, start: Array, features: Array, norms: Array, k: int) -> tuple[Array, Array]:
    distances = similarity.squared_distances(part, features, norms)
    farthest = distances.max(axis=1)
    row = jnp.arange(part.shape[0])
    itself = distances.at[row, start + row].set(-jnp.inf, mode="drop")
    return jax.lax.top_k(-itself, k)[1], farthest  # of equals, the lower index first


def _neighbours(
    everything: np.ndarray, features: Array, norms: Array, k: int, block: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the nearest rows, (N, k) int32, each row itself first; and its maximum squared distance, (N,) float32."""
    n = len(everything)
    size = max(1, min(n, block // n, 512))
    parts: list[list[np.ndarray]] = []
    waiting: list[Array] | None = None
    for start in range(0, n, size):
        part = everything[start : start + size]
        padded = np.pad(part, ((0, size - len(part)), (0, 0)))
        found = _nearest(padded, start, features, norms, min(k, n))
        if waiting is not None:
            parts.append(jax.device_get(waiting))
        waiting = [x[: len(part)] for x in found]
    parts.append(jax.device_get(waiting))
    index, farthest = (np.concatenate(x) for x in zip(*parts, strict=True))
    return index, np.maximum(farthest, np.finfo(np.float32).tiny)  # all images alike: all distances 0


def _encode(
    everything: np.ndarray, norms: np.ndarray, index: np.ndarray, farthest: np.ndarray, options: Rerank
) -> sparse.csr_array:
    """Computes (N, N) float32, equations 3 to 7 and 11: each row is an expanded k-reciprocal set, with weights of sum 1."""
    reciprocal = _reciprocal(index[:, : options.k1 + 1])
    half = _reciprocal(index[:, : round(options.k1 / 2) + 1])
    common = (
        (reciprocal @ half.T.tocsr()).multiply(reciprocal).tocsr()
    )  # |R(q, k1/2) ∩ R(p, k1)|, q in R(p, k1)
    sizes = np.diff(half.indptr)
    common.data = (3 * common.data > 2 * sizes[common.indices]).astype(np.float32)
    common.eliminate_zeros()
    expanded = (reciprocal + common @ half).tocsr()
    expanded.sort_indices()
    row = np.repeat(np.arange(len(index)), np.diff(expanded.indptr))
    distances = _pair_distances(everything, norms, row, expanded.indices) / farthest[row]
    weights = np.exp(-distances)
    sums = np.bincount(row, weights, minlength=len(index))
    expanded.data = (weights / sums[row]).astype(np.float32)
    if options.k2 == 1:
        return expanded
    near = index[:, : options.k2]
    return (_rows_of(near, np.float32(1 / near.shape[1])) @ expanded).tocsr()


def _rows_of(index: np.ndarray, value: np.float32) -> sparse.csr_array:
    n, k = index.shape
    data = np.full(n * k, value, np.float32)
    return sparse.csr_array((data, index.reshape(-1), np.arange(0, n * k + 1, k)), shape=(n, n))


def _reciprocal(index: np.ndarray) -> sparse.csr_array:
    """Returns 1 where i is among the nearest of j and j among those of i, itself included."""
    forward = _rows_of(index, np.float32(1))
    forward.sort_indices()
    return forward.multiply(forward.T.tocsr()).tocsr()


def _pair_distances(everything: np.ndarray, norms: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Computes squared distances of pairs of rows, (P,) float32; exactly 0 for a row and itself."""
    out = np.empty(len(i), np.float32)
    for start in range(0, len(i), _PAIRS):
        part = slice(start, start + _PAIRS)
        out[part] = np.einsum("pd,pd->p", everything[i[part]], everything[j[part]])
    return np.where(i == j, np.float32(0), np.maximum(norms[i] + norms[j] - 2 * out, 0))


class _Jaccard:
    """Computes the Jaccard distances of one encoding to all encodings of the gallery, equation 10, with an inverted index.

    Args:
        gallery: (G, N) encodings.
    """

    def __init__(self, gallery: sparse.csr_array) -> None:
        self.size = gallery.shape[0]
        columns = gallery.tocsc()
        self.first, self.entry, self.value = columns.indptr, columns.indices, columns.data

    def __call__(self, indices: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Takes the non-zero columns and values of an encoding, (m,) each; returns (G,) distances."""
        low, count = self.first[indices], self.first[indices + 1] - self.first[indices]
        begin = np.cumsum(count) - count
        where = np.repeat(low - begin, count) + np.arange(count.sum())
        smaller = np.minimum(np.repeat(values, count), self.value[where])
        shared = np.minimum(
            np.bincount(self.entry[where], smaller, minlength=self.size), 1
        )  # at most 1, up to rounding
        return 1 - shared / (2 - shared)
