"""Classification measures against scikit-learn, and what must not change them."""

import numpy as np
import pytest
from sklearn import metrics

from fusionjax.errors import UserError
from fusionjax.evaluation import significance
from fusionjax.evaluation.classification import evaluate, scalar_names


def predictions(n: int, c: int, seed: int = 0, classes: int | None = None):
    """Probabilities (n, c) that favour the label, and labels among the first `classes`."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes or c, n)
    logits = rng.normal(size=(n, c))
    logits[np.arange(n), labels] += 1.5
    probabilities = np.exp(logits)
    return probabilities / probabilities.sum(axis=1, keepdims=True), labels


@pytest.mark.parametrize(
    ("n", "c", "classes"), [(400, 9, 9), (300, 200, 150), (60, 6, 3), (50, 2, 2), (8, 3, 3)]
)
def test_agrees_with_scikit_learn(n, c, classes):
    p, y = predictions(n, c, classes=classes)
    got, predicted, present = evaluate(p, y), p.argmax(axis=1), np.unique(y)
    assert got.n == n
    assert got.accuracy == pytest.approx(metrics.accuracy_score(y, predicted))
    assert got.nll == pytest.approx(metrics.log_loss(y, p, labels=range(c)))
    np.testing.assert_array_equal(got.confusion, metrics.confusion_matrix(y, predicted, labels=range(c)))
    macro = metrics.precision_recall_fscore_support(
        y, predicted, labels=present, average="macro", zero_division=0
    )
    assert (got.macro_precision, got.macro_recall, got.macro_f1) == pytest.approx(macro[:3])
    table = metrics.precision_recall_fscore_support(y, predicted, labels=range(c), zero_division=0)
    rows = np.array([(r.precision, r.recall, r.f1, r.support) for r in got.per_class])
    np.testing.assert_allclose(rows, np.transpose(table), atol=1e-12)
    if set(predicted) <= set(present):  # scikit-learn warns of other classes
        assert got.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(y, predicted))
    if c > 5:
        assert got.top5 == pytest.approx(metrics.top_k_accuracy_score(y, p, k=5, labels=range(c)))
    else:
        assert got.top5 is None


def test_calibration_error_by_its_definition():
    p, y = predictions(500, 4)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == y
    want = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            want += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert evaluate(p, y).ece == pytest.approx(want)


def test_interval_is_the_bootstrap_of_the_rows():
    p, y = predictions(200, 5)
    got = evaluate(p, y)
    right = p.argmax(axis=1) == y
    draws = np.random.default_rng(0).integers(0, 200, (significance.INTERVAL_RESAMPLES, 200))
    want = np.quantile(right[draws].mean(axis=1), (0.025, 0.975))
    np.testing.assert_allclose(got.accuracy_interval, want, atol=0.011)  # two steps of 1 / 200
    assert got.accuracy_interval == evaluate(p, y).accuracy_interval
    assert got.accuracy_interval[0] < got.accuracy < got.accuracy_interval[1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("fill", [0.0, 0.5, np.nan, np.inf, -7.0])
def test_padding_changes_no_bit(dtype, fill):
    p, y = predictions(37, 9)
    p = p.astype(dtype)
    rng = np.random.default_rng(1)
    where = np.sort(rng.permutation(64)[:37])
    padded, labels, valid = np.full((64, 9), fill, dtype), np.full(64, -1), np.zeros(64, np.float32)
    padded[where], labels[where], valid[where] = p, y, 1
    plain, masked = evaluate(p, y), evaluate(padded, labels, valid)
    assert plain.scalars() == masked.scalars()
    assert plain.per_class == masked.per_class
    assert plain.confusion.tobytes() == masked.confusion.tobytes()


def test_absent_classes_are_in_no_average():
    p, y = predictions(80, 4)
    wide = np.concatenate([p, np.zeros((80, 3))], axis=1)
    narrow, got = evaluate(p, y).scalars(), evaluate(wide, y, None, list("abcdefg"))
    assert {name: value for name, value in got.scalars().items() if name != "top5"} == narrow
    assert got.per_class[6].support == 0 and got.per_class[6].confused_with is None
    assert all(np.isfinite(v) for v in got.scalars().values())


def test_most_confused_and_all_wrong():
    p = np.eye(3)[[1, 1, 2, 0]]
    got = evaluate(p, np.array([0, 0, 0, 2]), None, ["cat", "dog", "owl"])
    assert (got.per_class[0].confused_with, got.per_class[0].confused) == ("dog", 2)
    assert (got.accuracy, got.macro_f1, got.accuracy_interval) == (0.0, 0.0, (0.0, 0.0))
    assert got.nll == pytest.approx(-np.log(np.finfo(np.float64).eps))


def test_equal_probabilities_rank_as_they_are_predicted():
    got = evaluate(np.full((8, 8), 1 / 8), np.arange(8))
    assert (got.accuracy, got.top5) == (1 / 8, 5 / 8)


@pytest.mark.usefixtures("unchecked")
def test_refuses_what_is_not_a_prediction():
    p, y = predictions(10, 3)
    with pytest.raises(UserError, match="no example"):
        evaluate(p, y, np.zeros(10))
    with pytest.raises(ValueError, match="differs from 1"):
        evaluate(2 * p, y)
    with pytest.raises(ValueError, match="not finite"):
        evaluate(p * np.nan, y)
    with pytest.raises(ValueError, match="3 classes"):
        evaluate(p, y + 3)
    with pytest.raises(ValueError, match="class names"):
        evaluate(p, y, None, ["a"])
    with pytest.raises(ValueError, match=r"\(N, C\)"):
        evaluate(p, y[:5])
    with pytest.raises(ValueError, match="not integers"):
        evaluate(p, y.astype(float))


def test_half_precision_is_accepted():
    p, y = predictions(200, 30)
    got = evaluate(p.astype(np.float16), y)
    assert got.nll == pytest.approx(evaluate(p, y).nll, abs=0.01)


def test_one_example():
    got = evaluate(np.array([[0.2, 0.8]]), np.array([1]))
    assert got.accuracy == got.macro_f1 == 1.0 and got.ece == pytest.approx(0.2)


def test_scalars_are_plain_floats():
    for classes in (3, 5, 6):
        scalars = evaluate(*predictions(60, classes)).scalars()
        assert {"accuracy", "macro_f1", "nll", "ece", "accuracy_low"} <= set(scalars)
        assert tuple(scalars) == scalar_names(classes) and ("top5" in scalars) == (classes > 5)
        assert {type(value) for value in scalars.values()} == {float}
