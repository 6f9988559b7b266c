"""Bootstrap intervals and McNemar's test, against oracles written from their definitions."""

from math import comb

import numpy as np
import pytest

from fusionjax.evaluation import significance
from fusionjax.evaluation.significance import bootstrap_means, bootstrap_p, interval, mcnemar


def exact_p(gained, lost):
    """Sum of the probabilities of all outcomes that are no likelier than the one seen, in whole numbers."""
    n = gained + lost
    ways = [comb(n, k) for k in range(n + 1)]
    return sum(w for w in ways if w <= ways[gained]) / 2**n


def pair(both, gained, lost, neither):
    """Outcomes with the cells of a 2×2 table, shuffled together."""
    table = [(1, 1)] * both + [(0, 1)] * gained + [(1, 0)] * lost + [(0, 0)] * neither
    rows = np.random.default_rng(0).permutation(np.array(table))
    return rows[:, 0], rows[:, 1]


@pytest.mark.parametrize(
    ("gained", "lost"), [(0, 0), (1, 0), (0, 1), (5, 5), (7, 3), (3, 7), (12, 20), (40, 2), (300, 251)]
)
def test_mcnemar_is_the_exact_binomial(gained, lost):
    found = mcnemar(*pair(11, gained, lost, 6))
    assert (found.gained, found.lost) == (gained, lost)
    assert found.p == pytest.approx(exact_p(gained, lost), rel=1e-9)


def test_mcnemar_of_a_table_by_hand():
    """30 right by both, 2 gained, 10 lost, 8 by neither: p = 2 (1 + 12 + 66) / 4096."""
    found = mcnemar(*pair(30, 2, 10, 8))
    assert found.p == pytest.approx(158 / 4096)
    assert mcnemar(*pair(0, 2, 10, 0)).p == found.p, "what both get right or wrong says nothing"
    assert mcnemar(*reversed(pair(30, 2, 10, 8))).p == found.p


@pytest.mark.usefixtures("unchecked")
def test_mcnemar_refuses_what_is_no_outcome():
    with pytest.raises(ValueError, match="both"):
        mcnemar([0, 1], [0, 1, 1])
    with pytest.raises(ValueError, match="not all 0 or 1"):
        mcnemar([0, 0.5], [0, 1])


@pytest.mark.parametrize("block", [1, 60, significance._BLOCK])
def test_bootstrap_is_the_mean_of_drawn_rows(monkeypatch, block):
    """Whatever the block, each resample is N rows drawn with replacement, the same for every column."""
    monkeypatch.setattr(significance, "_BLOCK", block)
    values = np.random.default_rng(1).random((20, 3))
    got = bootstrap_means(values, resamples=7, seed=4)
    rng = np.random.default_rng(4)
    want = [values[rng.integers(0, 20, 20)].mean(0) for _ in range(7)]
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_an_interval_covers_as_often_as_it_says():
    """800 data sets of 150 examples from a known distribution: right with probability 0.7, and a skewed value."""
    rng = np.random.default_rng(0)
    truth, covered = np.array([0.7, 0.6]), np.zeros(2)
    for i in range(800):
        values = np.stack([rng.random(150) < 0.7, rng.beta(0.6, 0.4, 150)], 1)
        draws = bootstrap_means(values, resamples=400, seed=i)
        for k in range(2):
            low, high = interval(draws[:, k])
            covered[k] += low <= truth[k] <= high
    # 0.95 ± 3 standard errors of 800 trials, and a percentile interval is a little too narrow
    assert (covered / 800 > 0.92).all() and (covered / 800 < 0.975).all(), covered / 800


def test_pairing_narrows_the_interval_of_a_difference():
    rng = np.random.default_rng(0)
    first = rng.random(300)
    values = np.stack([first, first + 0.02 * rng.standard_normal(300) + 0.01], 1)
    draws = bootstrap_means(values)
    paired = interval(draws[:, 1] - draws[:, 0])
    other = bootstrap_means(values[:, :1], seed=(0, 1))
    apart = interval(draws[:, 1] - other[:, 0])
    assert apart[1] - apart[0] > 5 * (paired[1] - paired[0])
    error = 1.96 * (values[:, 1] - values[:, 0]).std() / np.sqrt(300)  # the normal approximation
    mean = (values[:, 1] - values[:, 0]).mean()
    assert paired == pytest.approx((mean - error, mean + error), abs=0.1 * error)


def test_p_of_the_bootstrap():
    assert bootstrap_p(np.zeros(99)) == 1.0
    assert bootstrap_p(np.ones(99)) == pytest.approx(2 / 100)
    assert bootstrap_p(np.r_[-np.ones(4), np.ones(95)]) == pytest.approx(10 / 100)
    assert bootstrap_p(np.r_[-np.ones(95), np.ones(4)]) == pytest.approx(10 / 100)


def test_p_is_uniform_where_there_is_no_difference():
    rng = np.random.default_rng(0)
    p = []
    for i in range(400):
        draws = bootstrap_means(rng.standard_normal((100, 1)), resamples=400, seed=i)
        p.append(bootstrap_p(draws[:, 0]))
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(p) <= level) == pytest.approx(
            level, abs=4 * np.sqrt(level * (1 - level) / 400)
        )


@pytest.mark.usefixtures("unchecked")
def test_refuses_what_cannot_be_resampled():
    with pytest.raises(ValueError, match="at least one example"):
        bootstrap_means(np.zeros((0, 2)))
    with pytest.raises(ValueError, match="at least one example"):
        bootstrap_means(np.zeros(5))
    with pytest.raises(ValueError, match="not finite"):
        bootstrap_means(np.array([[np.nan]]))


def test_the_interval_of_a_mean_is_the_bootstrap():
    """Of zeros and ones by the binomial distribution, else by resampling; whatever the order and the type of the values."""
    rng = np.random.default_rng(0)
    for values in ((rng.random(400) < 0.7).astype(float), rng.beta(2, 1, 400)):
        low, high = significance.mean_interval(values)
        half = 1.96 * values.std() / 20
        assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    hits = rng.random(60) < 0.7
    assert significance.mean_interval(hits) == significance.mean_interval(np.sort(hits).astype(np.uint8))
    for wrong in ([], [np.nan, 1.0]):
        with pytest.raises(ValueError, match="at least one example|not finite"):
            significance.mean_interval(np.asarray(wrong))
