"""Evaluation of a classifier: accuracy with its interval, macro averages, per-class scores, calibration."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer, Shaped

from fusionjax.errors import UserError
from fusionjax.evaluation import significance

SCALARS = (
    "accuracy",
    "top5",
    "macro_precision",
    "macro_recall",
    "macro_f1",
    "balanced_accuracy",
    "nll",
    "ece",
)
"""Fields of a `Result` that are single numbers; `top5` of more than five classes only."""
BINS = 15
"""Number of bins of the expected calibration error (Guo et al., ICML 2017, arXiv 1706.04599)."""
SUM_TOLERANCE = 0.02
"""Tolerance of the sum of a row of probabilities: it allows for bfloat16, but not for a sum of two branches."""


@dataclass(frozen=True)
class ClassRow:
    """Scores of one class; all 0 for a class without examples.

    Attributes:
        name: name of the class.
        support: number of valid examples of the class.
        precision, recall, f1: fractions; 0 where the denominator is 0.
        confused_with: the class that its examples are most often confused with (ties go to the lower index); None if no
            example is misclassified.
        confused: number of examples that are predicted as that class.
    """

    name: str
    support: int
    precision: float
    recall: float
    f1: float
    confused_with: str | None
    confused: int


@dataclass(frozen=True, eq=False)
class Result:
    """Result of `evaluate`, over valid examples only.

    Macro averages and balanced accuracy are over the classes that have at least one example in the split. The precision of a
    class that is never predicted is 0. With these definitions balanced accuracy equals macro recall; both are listed because
    readers look for both.

    Attributes:
        n: number of valid examples.
        accuracy: a fraction.
        top5: fraction of the examples whose true class is among the five most probable; ties go to the lower index, as in
            the prediction. None for five classes or fewer, of which it would always be 1.
        accuracy_interval: 95 % percentile bootstrap interval of the accuracy. Its width is 0 if all predictions are correct
            or all are wrong, in which case the bootstrap is not informative.
        macro_precision, macro_recall, macro_f1, balanced_accuracy: fractions.
        nll: mean negative log probability of the true class in nats; probabilities are clipped at 2.2e-16.
        ece: expected calibration error over 15 bins of equal width: mean |accuracy − confidence|, weighted by the number of
            examples.
        confusion: (C, C) int64, rows true, columns predicted; read-only.
        per_class: C rows in class order.
    """

    n: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    top5: float | None
    macro_precision: float
    macro_recall: float
    macro_f1: float
    balanced_accuracy: float
    nll: float
    ece: float
    confusion: np.ndarray
    per_class: tuple[ClassRow, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names, in class order."""
        return tuple(row.name for row in self.per_class)

    def scalars(self) -> dict[str, float]:
        """Returns the scores under flat keys for metrics.jsonl: fractions, except `nll` in nats. The keys are those of
        `scalar_names`."""
        low, high = self.accuracy_interval
        values = {name: getattr(self, name) for name in SCALARS} | {
            "accuracy_low": low,
            "accuracy_high": high,
        }
        return {name: values[name] for name in scalar_names(len(self.per_class))}


def scalar_names(classes: int) -> tuple[str, ...]:
    """Names of the scores of a classifier of so many classes."""
    return (*(name for name in SCALARS if name != "top5" or classes > 5), "accuracy_low", "accuracy_high")


def evaluate(
    probabilities: Float[np.ndarray, "examples classes"],
    labels: Integer[np.ndarray, " examples"],
    valid: Shaped[np.ndarray, " examples"] | None = None,
    class_names: Sequence[str] | None = None,
) -> Result:
    """Evaluates the predictions of a whole split. Invalid rows are removed first, so they do not change a single bit.

    Args:
        probabilities: (N, C) float; every valid row is finite, ≥ 0 and sums to 1 (within 0.02; it is divided by its
            sum). For two branches pass the mean, not the sum.
        labels: (N,) int, 0 … C − 1 where valid.
        valid: (N,) 1 or True for a real example, 0 for padding; None if all are real.
        class_names: C names; None for "0", "1", ….

    Returns:
        Result.

    Raises:
        UserError: there is no valid example.
        ValueError: shapes do not agree, a label is out of range, or rows are not probabilities.

    >>> evaluate(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1])).accuracy
    0.5
    """
    probabilities, labels, names = _checked(probabilities, labels, valid, class_names)
    n, c = probabilities.shape
    total = probabilities.sum(axis=1, dtype=np.float64)
    predicted = probabilities.argmax(axis=1)
    of_label = probabilities[np.arange(n), labels]
    correct = predicted == labels
    before = (probabilities == of_label[:, None]) & (np.arange(c) < labels[:, None])
    rank = (probabilities > of_label[:, None]).sum(axis=1) + before.sum(axis=1)
    confusion = confusion_matrix(labels, predicted, c)
    rows = per_class(confusion, names)
    present = [row for row in rows if row.support]
    recall = float(np.mean([row.recall for row in present]))
    floor = np.finfo(np.float64).eps
    return Result(
        n=n,
        accuracy=float(correct.mean()),
        accuracy_interval=significance.mean_interval(correct),
        top5=float((rank < 5).mean()) if c > 5 else None,
        macro_precision=float(np.mean([row.precision for row in present])),
        macro_recall=recall,
        macro_f1=float(np.mean([row.f1 for row in present])),
        balanced_accuracy=recall,
        nll=float(-np.log(np.maximum(of_label / total, floor)).mean()),
        ece=_calibration_error(probabilities[np.arange(n), predicted] / total, correct),
        confusion=confusion,
        per_class=rows,
    )


def _checked(
    probabilities: np.ndarray, labels: np.ndarray, valid: np.ndarray | None, class_names: Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or probabilities.shape[1] == 0:
        raise ValueError(
            f"probabilities {probabilities.shape} and labels {labels.shape} are not (N, C) and (N,)"
        )
    if valid is not None:
        valid = np.asarray(valid)
        if valid.shape != labels.shape:
            raise ValueError(f"valid {valid.shape} is not (N,) = {labels.shape}")
        probabilities, labels = probabilities[valid > 0], labels[valid > 0]
    if not len(labels):
        raise UserError("no example to evaluate: the split is empty or none of its images could be read")
    if probabilities.dtype not in (
        np.float32,
        np.float64,
    ):  # bfloat16 and float16 are too coarse for sums
        probabilities = probabilities.astype(np.float32)
    c = probabilities.shape[1]
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels are {labels.dtype}, not integers")
    if labels.min() < 0 or labels.max() >= c:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, but there are {c} classes")
    if not np.isfinite(probabilities).all() or probabilities.min() < 0:
        raise ValueError("probabilities are negative or not finite")
    off = np.abs(probabilities.sum(axis=1, dtype=np.float64) - 1).max()
    if off > SUM_TOLERANCE:
        raise ValueError(f"the sum of a row of probabilities differs from 1 by {off:.3g}")
    names = tuple(map(str, range(c) if class_names is None else class_names))
    if len(names) != c:
        raise ValueError(f"{len(names)} class names for {c} classes")
    return probabilities, labels.astype(np.int64), names


def confusion_matrix(
    labels: Integer[np.ndarray, " examples"], predicted: Integer[np.ndarray, " examples"], classes: int
) -> np.ndarray:
    """Counts the examples of each true class (row) that are predicted as each class (column).

    Args:
        labels, predicted: (N,) class indices.
        classes: number of classes C.

    Returns:
        (C, C) int64, read-only.
    """
    flat = np.asarray(labels, np.int64) * classes + np.asarray(predicted, np.int64)
    confusion = np.bincount(flat, minlength=classes * classes).reshape(classes, classes)
    confusion.setflags(write=False)
    return confusion


def per_class(confusion: np.ndarray, names: tuple[str, ...]) -> tuple[ClassRow, ...]:
    """Scores of each class, in class order.

    Args:
        confusion: (C, C) of `confusion_matrix`.
        names: C names.
    """
    hits = confusion.diagonal()
    support, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    other = wrong.argmax(axis=1)
    count = wrong.max(axis=1)
    precision = hits / np.maximum(predicted, 1)
    recall = hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(support + predicted, 1)
    return tuple(
        ClassRow(
            name=name,
            support=int(support[i]),
            precision=float(precision[i]),
            recall=float(recall[i]),
            f1=float(f1[i]),
            confused_with=names[other[i]] if count[i] else None,
            confused=int(count[i]),
        )
        for i, name in enumerate(names)
    )


def _calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)  # (low, high]
    gap = np.bincount(bins, weights=confidence - correct, minlength=BINS)
    return float(np.abs(gap).sum() / len(confidence))
