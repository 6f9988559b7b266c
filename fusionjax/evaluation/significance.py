"""Whether two results differ by more than the choice of test examples explains: bootstrap intervals, McNemar's test.

Both concern the choice of test examples only, not how much another training run, with another seed, would differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num, Shaped
from scipy import special

RESAMPLES = 2_000
INTERVAL_RESAMPLES = 10_000
"""Of the interval of one score, which reports show too."""
LEVEL = 0.95
_BLOCK = 1 << 22
"""Number of examples drawn at a time, so that memory depends on neither the examples nor the resamples."""


def bootstrap_means(
    values: Num[np.ndarray, "examples models"], *, resamples: int = RESAMPLES, seed: int | tuple[int, ...] = 0
) -> Float[np.ndarray, "resamples models"]:
    """Computes the means of resampled examples (Efron, Annals of Statistics 1979).

    All columns of a resample use the same examples. If the columns are models, evaluated on the same examples, the difference
    of two columns of the result is therefore the paired bootstrap of their difference.

    Args:
        values: (N, K) float, finite; one row per example.
        resamples: number of sets of N examples that are drawn with replacement.
        seed: of the random draws.

    Returns:
        (resamples, K) float64.

    Raises:
        ValueError: there is no example, the shape is another, or a value is not finite.

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


def interval(draws: Float[np.ndarray, " resamples"], level: float = LEVEL) -> tuple[float, float]:
    """Computes the percentile interval of bootstrap draws.

    Its width is 0 if all examples have the same value, in which case the bootstrap is not informative.

    Args:
        draws: (R,) float.
        level: confidence level.

    Returns:
        (low, high).
    """
    low, high = np.quantile(draws, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def mean_interval(values: Shaped[np.ndarray, " examples"]) -> tuple[float, float]:
    """Computes the 95 % percentile bootstrap interval of the mean over test examples.

    Reports, results.json and comparisons all use it, with one seed: equal values have equal intervals. Its width is 0 if all
    examples have the same value, in which case the bootstrap is not informative.

    Args:
        values: (N,) numbers or bool, one per example.

    Returns:
        (low, high).

    Raises:
        ValueError: there is no example, or a value is not finite.

    >>> mean_interval(np.array([1, 1, 1]))
    (1.0, 1.0)
    """
    values = np.asarray(values, np.float64)
    n = len(values)
    if n and np.isin(values, (0, 1)).all():
        # Resampling n zeros and ones with replacement is a draw from Binomial(n, mean).
        draws = np.random.default_rng(0).binomial(n, int(values.sum()) / n, size=INTERVAL_RESAMPLES)
        low, high = np.quantile(draws, (0.025, 0.975)) / n
        return float(low), float(high)
    return interval(bootstrap_means(values[:, None], resamples=INTERVAL_RESAMPLES)[:, 0])


def difference_interval(
    values: Shaped[np.ndarray, " examples"], others: Shaped[np.ndarray, " examples"]
) -> tuple[float, float]:
    """Computes the 95 % percentile interval of the difference of two means over the same examples, by a paired bootstrap.

    Args:
        values, others: (N,) numbers or bool, one per example, in the same order.

    Returns:
        (low, high) of mean(values) − mean(others); without width if all differences are equal.

    Raises:
        ValueError: there is no example, or a value is not finite.
    """
    differences = np.asarray(values, np.float64) - np.asarray(others, np.float64)
    return interval(bootstrap_means(differences[:, None])[:, 0])


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """Computes Wilson's 95 % score interval of a proportion (JASA 1927). It has a width where all examples agree.

    Args:
        share: proportion of successes; a mean of values within [0, 1] gives a conservative interval.
        n: number of examples, ≥ 1.

    Returns:
        (low, high).

    >>> [round(bound, 3) for bound in wilson_interval(1.0, 5)]
    [0.566, 1.0]
    """
    z = float(special.ndtri((1 + LEVEL) / 2))
    centre, scale = (share + z * z / (2 * n)), 1 + z * z / n
    half = z * float(np.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2))
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def bootstrap_p(differences: Num[np.ndarray, " resamples"]) -> float:
    """Computes the two-sided p-value of "there is no difference" from bootstrap draws of the difference.

    It is twice the share of draws on the less frequent side of 0, with draws of exactly 0 counted on both sides: the level at
    which the percentile interval just touches 0. One is added to both counts (Davison and Hinkley, Bootstrap Methods, 1997,
    section 4.2.3), so it is at least 2 / (R + 1), and at most 1.

    Args:
        differences: (R,) float.

    Returns:
        The p-value.
    """
    differences = np.asarray(differences)
    least = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (least + 1) / (len(differences) + 1))


@dataclass(frozen=True)
class McNemar:
    """Result of McNemar's test of two models on the same examples.

    Attributes:
        gained: number of examples that only the second model gets right.
        lost: number of examples that only the first model gets right.
        p: two-sided, exact p-value; 1 if the models never differ.
    """

    gained: int
    lost: int
    p: float


def mcnemar(
    first: Shaped[np.ndarray, " examples"] | Sequence[int],
    second: Shaped[np.ndarray, " examples"] | Sequence[int],
) -> McNemar:
    """Performs McNemar's exact test (Psychometrika 1947).

    If the models are equally good, an example that only one of them gets right belongs to the second with probability 1/2, so
    that `gained` follows Binomial(gained + lost, 1/2).

    Args:
        first, second: (N,) of 0 and 1, or bool: whether each example is correct.

    Returns:
        McNemar.

    Raises:
        ValueError: the lengths differ, or there are values other than 0 and 1.

    >>> mcnemar([1, 1, 0, 0, 0, 0], [1, 0, 1, 1, 1, 1])
    McNemar(gained=4, lost=1, p=0.375)
    """
    a, b = np.asarray(first), np.asarray(second)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"results {a.shape} and {b.shape} are not (N,) both")
    if not (np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()):
        raise ValueError("results are not all 0 or 1")
    from scipy import stats  # seconds to import, which most commands need not wait for

    gained, lost = int((b > a).sum()), int((a > b).sum())
    p = float(stats.binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0
    return McNemar(gained, lost, p)
