"""Baselines: the majority class, and a linear probe of frozen features."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Integer

from fusionjax.errors import UserError
from fusionjax.evaluation import classification

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Candidates for C, the inverse of the L2 penalty in scikit-learn's convention, smallest first."""
HELD_OUT = 0.2
"""Share of the training rows of each class on which C is selected."""


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A baseline that is reported beside the result.

    Attributes:
        name: of the score, e.g. logistic_regression.
        title, note: shown in the report.
        value: a fraction.
        measure: array of the per-example results (see `per_example`) whose mean the value is to be compared with; "" where
            there is none by the same protocol.
        values: (N,) that array of the baseline, of the same examples in the same order; None where only the mean is known.
    """

    name: str
    title: str
    value: float
    note: str
    measure: str = ""
    values: np.ndarray | None = dataclasses.field(default=None, compare=False, repr=False)


def majority_share(labels: Integer[np.ndarray, " examples"]) -> float:
    """Computes the accuracy of always predicting the majority class.

    Args:
        labels: (N,) int ≥ 0, N ≥ 1.

    Returns:
        A fraction.

    Raises:
        UserError: there are no labels.
    """
    labels = np.asarray(labels)
    if not labels.size:
        raise UserError("no labels to take the majority class of: the split is empty")
    return float(np.bincount(labels).max() / labels.size)


def logistic_regression(
    train_features: Float[np.ndarray, "train width"],
    train_labels: Integer[np.ndarray, " train"],
    test_features: Float[np.ndarray, "test width"],
    test_labels: Integer[np.ndarray, " test"],
    *,
    seed: int,
    c: float | None = None,
    grid: Sequence[float] = GRID,
    max_iter: int = 500,
) -> dict[str, float]:
    """Fits multinomial logistic regression on standardised features with L-BFGS, and evaluates it.

    If `c` is None, the value of `grid` with the highest accuracy on a fifth of the training rows of each class (drawn with
    `seed`; ties go to the smaller value) is selected; then all training rows are fitted with it. Test rows are not used for
    the selection. Features are standardised with the mean and deviation of the rows that are fitted.

    Args:
        train_features: (N, D) float.
        train_labels: (N,) int ≥ 0.
        test_features: (M, D) float.
        test_labels: (M,) int ≥ 0; a class without training rows is never predicted.
        seed: of the held-out rows.
        c: inverse strength of the L2 penalty, > 0; None to select it.
        grid: candidates for `c`.
        max_iter: L-BFGS iterations per fit.

    Returns:
        accuracy, accuracy_low, accuracy_high (95 % bootstrap interval), macro_f1 and balanced_accuracy on the test rows; c;
        converged, 1.0 or 0.0; and held_out_accuracy if c was selected. If no class has five rows, c is 1.

    Raises:
        UserError: there are fewer than two training classes, or the test split is empty.
        ValueError: shapes do not agree, or features are not finite.
    """
    probabilities, how = predict(
        train_features, train_labels, test_features, test_labels, seed=seed, c=c, grid=grid, max_iter=max_iter
    )
    measured = classification.evaluate(probabilities, np.asarray(test_labels)).scalars()
    keys = ("accuracy", "accuracy_low", "accuracy_high", "macro_f1", "balanced_accuracy")
    return {key: measured[key] for key in keys} | how


def predict(
    train_features: Float[np.ndarray, "train width"],
    train_labels: Integer[np.ndarray, " train"],
    test_features: Float[np.ndarray, "test width"],
    test_labels: Integer[np.ndarray, " test"],
    *,
    seed: int,
    c: float | None = None,
    grid: Sequence[float] = GRID,
    max_iter: int = 500,
) -> tuple[np.ndarray, dict[str, float]]:
    """The probabilities of `logistic_regression` for the test rows, (M, classes), and its c, converged and held_out_accuracy.

    Args:
        train_features, train_labels, test_features, test_labels, seed, c, grid, max_iter: see `logistic_regression`; the test
            labels say how many classes there are.
    """
    x, y = _rows(train_features, train_labels, "train")
    x_test, y_test = _rows(test_features, test_labels, "test")
    if x.shape[1] != x_test.shape[1]:
        raise ValueError(f"features of training have {x.shape[1]} columns, those of test {x_test.shape[1]}")
    if len(np.unique(y)) < 2:
        raise UserError("a linear probe needs training examples of at least two classes")
    if not len(y_test):
        raise UserError("no example to test the linear probe on: the split is empty")
    selected: dict[str, float] = {}
    if c is None:
        c, selected = _select(x, y, np.random.default_rng(seed), sorted(grid), max_iter)
    from sklearn.linear_model import (
        LogisticRegression,
    )  # seconds to import, which most commands need not wait for
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(x)
    model = LogisticRegression(C=c, max_iter=max_iter)
    converged = _fit(model, scaler.transform(x), y)
    probabilities = np.zeros((len(y_test), max(y.max(), y_test.max()) + 1))
    probabilities[:, model.classes_] = model.predict_proba(scaler.transform(x_test))
    return probabilities, {"c": float(c), "converged": float(converged)} | selected


def _rows(features: np.ndarray, labels: np.ndarray, split: str) -> tuple[np.ndarray, np.ndarray]:
    features, labels = np.asarray(features, np.float64), np.asarray(labels)
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"{split}: features {features.shape} and labels {labels.shape} are not (N, D) and (N,)"
        )
    if not np.isfinite(features).all():
        raise ValueError(f"{split}: features are not finite")
    return features, labels.astype(np.int64)


def _select(
    x: np.ndarray, y: np.ndarray, rng: np.random.Generator, grid: Sequence[float], max_iter: int
) -> tuple[float, dict[str, float]]:
    """Returns the c with the highest accuracy on held-out training rows, and that accuracy."""
    held = np.zeros(len(y), bool)
    for label in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == label))
        held[rows[: int(HELD_OUT * len(rows))]] = True
    if not held.any():
        return 1.0, {}
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(x[~held])
    fit, test = scaler.transform(x[~held]), scaler.transform(x[held])
    model = LogisticRegression(max_iter=max_iter, warm_start=True)
    best = (-1.0, 0.0)
    for c in grid:  # from strong to weak penalty, each initialised with the previous solution
        model.set_params(C=c)
        _fit(model, fit, y[~held])
        accuracy = float(np.mean(model.predict(test) == y[held]))
        if accuracy > best[0]:
            best = (accuracy, float(c))
    return best[1], {"held_out_accuracy": best[0]}


def _fit(model: "LogisticRegression", x: np.ndarray, y: np.ndarray) -> bool:
    """Fits the model; returns whether the solver converged, which replaces scikit-learn's warning."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, y)
    return bool(model.n_iter_.max() < model.max_iter)
