"""The reference numbers beside a result."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from fusionjax.errors import UserError
from fusionjax.evaluation.probe import logistic_regression, majority_share


def blobs(n: int, d: int, classes: int, seed: int, spread: float = 0.3):
    centres = np.random.default_rng(9).normal(size=(classes, d)) * spread
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    features = centres[labels] + rng.normal(size=(n, d))
    features[:, 0] = 5  # a constant feature
    return features.astype(np.float32), labels


def test_majority_share():
    assert majority_share(np.array([2, 2, 0, 7])) == 0.5
    with pytest.raises(UserError, match="empty"):
        majority_share(np.array([], int))


def test_given_c_agrees_with_scikit_learn():
    (x, y), (x_test, y_test) = blobs(300, 20, 4, 0), blobs(200, 20, 4, 1)
    got = logistic_regression(x, y, x_test, y_test, seed=0, c=0.1)
    scaler = StandardScaler().fit(x.astype(np.float64))
    model = LogisticRegression(C=0.1, max_iter=500).fit(scaler.transform(x.astype(np.float64)), y)
    assert got["accuracy"] == model.score(scaler.transform(x_test.astype(np.float64)), y_test)
    assert got["converged"] == 1 and "held_out_accuracy" not in got


def test_chooses_c_deterministically_and_beats_chance():
    (x, y), (x_test, y_test) = blobs(400, 60, 5, 0), blobs(300, 60, 5, 1)
    got = logistic_regression(x, y, x_test, y_test, seed=0)
    assert got == logistic_regression(x, y, x_test, y_test, seed=0)
    assert got["accuracy"] > 0.7 > majority_share(y_test)
    assert got["accuracy_low"] <= got["accuracy"] <= got["accuracy_high"]
    assert 0 < got["held_out_accuracy"] <= 1


def test_few_examples_and_unseen_classes():
    x = np.arange(6, dtype=float)[:, None]
    got = logistic_regression(x, np.array([0, 0, 0, 3, 3, 3]), x, np.array([0, 0, 0, 3, 3, 7]), seed=0)
    assert got["c"] == 1.0 and got["accuracy"] == pytest.approx(5 / 6)


def test_reports_that_it_did_not_converge():
    x, y = blobs(100, 20, 3, 0)
    assert logistic_regression(x, y, x, y, seed=0, c=100.0, max_iter=2)["converged"] == 0


@pytest.mark.usefixtures("unchecked")
def test_refuses():
    x, y = blobs(20, 3, 2, 0)
    with pytest.raises(UserError, match="two classes"):
        logistic_regression(x, np.zeros(20, int), x, y, seed=0)
    with pytest.raises(UserError, match="empty"):
        logistic_regression(x, y, x[:0], y[:0], seed=0)
    with pytest.raises(ValueError, match="columns"):
        logistic_regression(x, y, x[:, :2], y, seed=0)
    with pytest.raises(ValueError, match="not finite"):
        logistic_regression(x * np.nan, y, x, y, seed=0)
