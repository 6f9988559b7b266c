"""Whether two results differ by more than the choice of test examples explains: bootstrap intervals, McNemar's test.

All of it is about the test examples. It says nothing of how far another training run, with another seed, would differ.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 2_000
LEVEL = 0.95
_BLOCK = 1 << 22
"""Example numbers that are drawn at a time: memory grows with neither the examples nor the resamples."""


def bootstrap_means(
    values: np.ndarray, *, resamples: int = RESAMPLES, seed: int | tuple[int, ...] = 0
) -> np.ndarray:
    """Means of resampled examples (Efron, Annals of Statistics 1979).

    All columns of a resample are of the same examples. So where the columns are models, scored on the same examples, the
    difference of two columns of the result is the paired bootstrap of their difference.

    Args:
        values: (N, K) float, finite; one row an example.
        resamples: how many sets of N examples are drawn, with replacement.
        seed: of the drawing.

    Returns:
        (resamples, K) float64.

    Raises:
        ValueError: no example, another shape, a value that is not finite.

    >>> bootstrap_means(np.array([[1.0, 3.0]]), resamples=2)
    array([[1., 3.],
           [1., 3.]])
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or not len(values):
        raise ValueError(f"values {values.shape} are not (N, K) with at least one example")
    if not np.isfinite(values).all():
        raise ValueError("values are not finite")
    n, rng = len(values), np.random.default_rng(seed)
    means = np.empty((resamples, values.shape[1]))
    rows = max(1, _BLOCK // n)
    for start in range(0, resamples, rows):
        some = min(rows, resamples - start)
        drawn = rng.integers(0, n, (some, n)) + n * np.arange(some)[:, None]
        times = np.bincount(drawn.ravel(), minlength=some * n).reshape(some, n)
        means[start : start + some] = times @ values / n
    return means


def interval(draws: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The percentile interval of bootstrap draws, (R,): (low, high).

    It has no width where all examples have the same value: the bootstrap says nothing there.
    """
    low, high = np.quantile(draws, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def bootstrap_p(differences: np.ndarray) -> float:
    """Two-sided p-value of "there is no difference", from bootstrap draws of the difference.

    Twice the share of draws on the less frequent side of 0, draws of exactly 0 on both sides: the level at which the
    percentile interval just touches 0. One is added to both counts (Davison and Hinkley, Bootstrap Methods, 1997, section
    4.2.3), so it is at least 2 / (R + 1), and at most 1.

    Args:
        differences: (R,) float.
    """
    differences = np.asarray(differences)
    least = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (least + 1) / (len(differences) + 1))


@dataclass(frozen=True)
class McNemar:
    """Of two models on the same examples.

    Attributes:
        gained: examples that only the second has right.
        lost: examples that only the first has right.
        p: two-sided and exact; 1 where they never differ.
    """

    gained: int
    lost: int
    p: float


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """McNemar's test (Psychometrika 1947), exact.

    If the models are equally good, an example that only one of them has right is the second's with probability 1/2: then
    `gained` is Binomial(gained + lost, 1/2).

    Args:
        first, second: (N,) of 0 and 1, or bool: whether each example is right.

    Raises:
        ValueError: lengths that differ, values other than 0 and 1.

    >>> mcnemar([1, 1, 0, 0, 0, 0], [1, 0, 1, 1, 1, 1])
    McNemar(gained=4, lost=1, p=0.375)
    """
    first, second = np.asarray(first), np.asarray(second)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"outcomes {first.shape} and {second.shape} are not (N,) both")
    if not (np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all()):
        raise ValueError("outcomes are 0 or 1")
    gained, lost = int((second > first).sum()), int((first > second).sum())
    p = float(stats.binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0
    return McNemar(gained, lost, p)
