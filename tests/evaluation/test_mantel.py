"""The Mantel test against its definition with scipy, and whether its p-values mean what they say."""

import itertools

import numpy as np
import pytest
from scipy import stats

from fusionjax.errors import UserError
from fusionjax.evaluation import mantel


def cosines(x):
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T


def correlation(x, y, order=None):
    """Spearman over the pairs i < j, the rows of y in another order."""
    above = np.triu_indices(len(x), 1)
    y = y if order is None else y[list(order)]
    return stats.spearmanr(cosines(x)[above], cosines(y)[above]).statistic


def test_equals_scipy(rng):
    for n in (3, 5, 12, 40):
        x = rng.normal(size=(n, 6))
        y = np.concatenate([x + rng.normal(size=x.shape), rng.normal(size=(n, 2))], axis=1)
        got = mantel.mantel(x, y, permutations=9)
        np.testing.assert_allclose(got.correlation, correlation(x, y), rtol=1e-12, atol=1e-12)
        assert (got.permutations, got.examples) == (9, n)


def test_p_value_nears_that_of_all_orders(rng):
    x = rng.normal(size=(6, 3))
    y = x + 1.5 * rng.normal(size=(6, 3))
    observed = correlation(x, y)
    exact = np.mean([correlation(x, y, p) >= observed - 1e-12 for p in itertools.permutations(range(6))])
    assert 0.01 < exact < 0.5
    got = mantel.mantel(x, y, permutations=20000).p_value
    assert abs(got - exact) < 4 * np.sqrt(exact * (1 - exact) / 20000)


def test_ties_count_as_at_least():
    """Two groups of two: similarities repeat, and orders that only exchange equals give the observed value again."""
    x = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    np.testing.assert_allclose(mantel.mantel(x, x).correlation, 1)
    # 8 of the 24 orders keep the groups.
    assert abs(mantel.mantel(x, x, permutations=5000).p_value - 1 / 3) < 0.03


def test_diagonal_is_left_out():
    """docs/methods/contrastive.md: with the diagonal, independent embeddings score 0.48 at n = 5."""
    rng = np.random.default_rng(1)
    ours, whole = [], []
    for _ in range(300):
        x, y = rng.normal(size=(2, 5, 32))
        ours.append(mantel.mantel(x, y, permutations=1).correlation)
        whole.append(stats.spearmanr(cosines(x).ravel(), cosines(y).ravel()).statistic)
    assert abs(np.mean(ours)) < 0.06
    assert abs(np.mean(whole) - 0.48) < 0.05


def test_p_values_are_calibrated():
    """Independent embeddings: p below 0.05 in about 5 of 100 trials, and p is spread evenly."""
    rng = np.random.default_rng(0)
    trials = [rng.normal(size=(2, 20, 8)) for _ in range(500)]
    p = np.array([mantel.mantel(*pair, permutations=199, seed=i).p_value for i, pair in enumerate(trials)])
    assert 0.03 <= np.mean(p < 0.05) <= 0.08
    assert abs(p.mean() - 0.5) < 0.06
    assert p.min() >= 1 / 200


def test_finds_agreement(rng):
    x = rng.normal(size=(30, 8))
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    same = mantel.mantel(x, 3 * x @ rotation)  # similarities are the same: lengths and axes do not matter
    assert same.correlation > 0.999 and same.p_value == 1 / 1000
    near = mantel.mantel(x, x + rng.normal(size=x.shape))
    assert 0.2 < near.correlation < 0.8 and near.p_value == 1 / 1000


def test_negative_agreement_is_not_significant():
    x = np.array([[1.0, 0], [0.9, 0.1], [0.6, 0.6], [0.1, 0.9], [0, 1]])
    against = x[[0, 4, 2, 1, 3]]
    got = mantel.mantel(x, against)
    assert got.correlation < 0 and got.p_value > 0.5


def test_is_a_function_of_its_seed_and_not_of_blocks(rng, monkeypatch):
    x, y = rng.normal(size=(2, 15, 4))
    first = mantel.mantel(x, y, seed=3)
    assert mantel.mantel(x, y, seed=3) == first
    assert len({mantel.mantel(x, y, seed=s).p_value for s in range(5)}) > 1
    monkeypatch.setattr(mantel, "_BLOCK", 400)
    assert mantel.mantel(x, y, seed=3) == first


def test_collapsed_embeddings_have_no_correlation(rng):
    """One direction, whatever the lengths: what differs is rounding, and no similarity."""
    collapsed = rng.uniform(1, 2, (12, 1)) * rng.normal(size=7)
    assert len(np.unique(cosines(collapsed))) > 1
    got = mantel.mantel(collapsed, rng.normal(size=(12, 3)))
    assert np.isnan(got.correlation) and got.p_value == 1


@pytest.mark.usefixtures("unchecked")
def test_mistakes_are_one_line(rng):
    x = rng.normal(size=(5, 3))
    bad = x.copy()
    bad[3, 0] = np.inf
    for call, message in (
        (lambda: mantel.mantel(x[:2], x[:2]), "alignment of 2 examples: .* at least 3"),
        (lambda: mantel.mantel(x, x, permutations=0), "permutations=0 must be at least 1"),
        (lambda: mantel.mantel(x, bad), "row 3 of the embeddings y is not finite"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="are not"):
        mantel.mantel(x, x[:4])
