"""Whether two sets of embeddings of the same examples agree on which examples are similar."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fusionjax.errors import UserError
from fusionjax.vectors import unit_numpy

_BLOCK = 1 << 20  # pairs gathered at a time, 8 MB per array


@dataclass(frozen=True)
class Mantel:
    """Result of `mantel`.

    Attributes:
        correlation: Spearman's ρ of the pairs' similarities, −1 … 1; NaN if all pairs are equally similar on one side.
        p_value: one-sided, for a correlation above 0; at least 1 / (1 + permutations).
        permutations: number of permutations drawn.
        examples: n.
    """

    correlation: float
    p_value: float
    permutations: int
    examples: int


def mantel(
    x: Float[np.ndarray, "examples x_width"],
    y: Float[np.ndarray, "examples y_width"],
    permutations: int = 999,
    seed: int = 0,
) -> Mantel:
    """Computes the Spearman correlation of two cosine-similarity matrices (upper triangles), and its permutation test.

    The diagonal is left out: its ones are the maximum of both matrices, so that even independent embeddings would
    correlate (about 0.48 with five examples). Pairs share examples, so they are not independent and the usual p-value of ρ
    does not hold. The test permutes the examples of y, rows and columns of its matrix together, and counts the permutations
    whose correlation is at least the observed one, p = (1 + count) / (1 + permutations).

    Ranks are computed once (ties share their mean rank) and permuted, in O(n²) per permutation and n² memory.

    Args:
        x: (n, D) float embeddings, n ≥ 3; row i belongs to row i of y.
        y: (n, E) float embeddings.
        permutations: number of permutations, at least 1.
        seed: of the permutations.

    Returns:
        Mantel.

    Raises:
        UserError: there are fewer than three examples or fewer than one permutation, or embeddings are not finite.
        ValueError: shapes do not agree.

    Source: Mantel, Cancer Research 27, 1967; p-value as Phipson & Smyth, 2010, arXiv 1603.05766.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(f"embeddings {x.shape} and {y.shape} are not (n, D) and (n, E)")
    n = len(x)
    if n < 3:
        raise UserError(f"alignment of {n} examples: it compares pairs and needs at least 3 examples")
    if permutations < 1:
        raise UserError(f"permutations={permutations} must be at least 1")
    rows, columns = np.triu_indices(n, 1)
    ranks_x, ranks_y = (_ranks(_cosines(name, e)[rows, columns]) for name, e in (("x", x), ("y", y)))
    norm = np.sqrt(ranks_x @ ranks_x) * np.sqrt(ranks_y @ ranks_y)
    observed = float(ranks_x @ ranks_y)

    square = np.zeros((n, n))
    square[rows, columns] = square[columns, rows] = ranks_y
    rng = np.random.default_rng(seed)
    # Sums of integers, exact below 2^53 (n ≤ 775); beyond, the margin exceeds the rounding between equal permutations.
    least, count = observed - 1e-12 * norm, 0
    size = max(1, _BLOCK // len(rows))
    for start in range(0, permutations, size):
        orders = rng.permuted(np.tile(np.arange(n), (min(size, permutations - start), 1)), axis=1)
        permuted = square.ravel().take(orders[:, rows] * n + orders[:, columns])
        count += int((permuted @ ranks_x >= least).sum())
    correlation = observed / norm if norm > 0 else float("nan")
    return Mantel(float(correlation), (1 + count) / (1 + permutations), permutations, n)


def unit_rows(embeddings: np.ndarray, what: str) -> np.ndarray:
    """Rows of length 1; a row of zeros stays.

    Args:
        embeddings: (n, D) float64.
        what: the embeddings' name in the message.

    Raises:
        UserError: a row whose length is not finite.
    """
    finite = np.isfinite(np.linalg.norm(embeddings, axis=1))
    if not finite.all():
        raise UserError(f"row {np.flatnonzero(~finite)[0]} of {what} is not finite")
    return unit_numpy(embeddings)


def _cosines(name: str, embeddings: np.ndarray) -> np.ndarray:
    """Computes (n, n) cosines, rounded to twelve decimals so that ties stay ties; 0 with a row of zeros."""
    unit = unit_rows(embeddings, f"the embeddings {name}")
    return np.round(unit @ unit.T, 12)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Returns twice the centred ranks, which are integers; ties share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (2 * counts.cumsum() - counts - len(values)).astype(np.float64)[inverse]
