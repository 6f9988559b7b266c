"""k-nearest-neighbour classification of frozen features, without training."""

import jax
import numpy as np
from jaxtyping import Float, Integer

from fusionjax.errors import UserError
from fusionjax.evaluation import similarity


def accuracy(
    train_features: Float[np.ndarray, "train width"],
    train_labels: Integer[np.ndarray, " train"],
    test_features: Float[np.ndarray, "test width"],
    test_labels: Integer[np.ndarray, " test"],
    k: int = 200,
    temperature: float | None = 0.07,
) -> float:
    """Computes the share of test rows whose class is predicted correctly by `predict`.

    Args:
        train_features, train_labels, test_features, k, temperature: as for `predict`.
        test_labels: (M,) int; a class without training rows is never predicted.

    Returns:
        A fraction.

    Raises:
        UserError, ValueError: as for `predict`.
    """
    test_labels = np.asarray(test_labels)
    if test_labels.shape != np.shape(test_features)[:1]:
        raise ValueError(
            f"test: features {np.shape(test_features)} and labels {test_labels.shape} do not agree"
        )
    found = predict(train_features, train_labels, test_features, k, temperature)
    return float(np.mean(found == test_labels))


def predict(
    train_features: Float[np.ndarray, "train width"],
    train_labels: Integer[np.ndarray, " train"],
    test_features: Float[np.ndarray, "test width"],
    k: int = 200,
    temperature: float | None = 0.07,
    *,
    block: int = similarity.BLOCK,
) -> Integer[np.ndarray, " test"]:
    """Predicts the class with the most votes among the k nearest training rows by cosine similarity s.

    A neighbour's vote is e^(s/τ), or 1 without a temperature. Ties go to the training row with the lower index, and to the
    class with the lower label.

    Args:
        train_features: (N, D) float.
        train_labels: (N,) int.
        test_features: (M, D) float.
        k: number of neighbours, 1 … N.
        temperature: τ above 0; None for unweighted votes.
        block: maximum number of similarities in memory.

    Returns:
        (M,) labels, in the dtype of `train_labels`.

    Raises:
        UserError: k or temperature is out of range, a set is empty, or features are not finite.
        ValueError: shapes do not agree.

    Source: Wu et al., CVPR 2018, arXiv 1805.01978, section 3.4, with its k and τ.
    """
    train_features, train_labels = np.asarray(train_features), np.asarray(train_labels)
    test_features = np.asarray(test_features)
    if train_features.ndim != 2 or train_labels.shape != train_features.shape[:1]:
        raise ValueError(
            f"train: features {train_features.shape} and labels {train_labels.shape} are not (N, D) and (N,)"
        )
    if not len(train_features) or not len(test_features):
        which = "test" if len(train_features) else "training"
        raise UserError(f"no {which} row for the nearest neighbours: the split is empty")
    if not 1 <= k <= len(train_features):
        raise UserError(f"k={k} must be 1 … {len(train_features)}, the number of training rows")
    if temperature is not None and not temperature > 0:
        raise UserError(f"temperature={temperature} must be above 0, or None for plain votes")
    features = similarity.prepare(
        [("training", train_features, None), ("test", test_features, None)], "cosine"
    )
    classes, codes = np.unique(train_labels, return_inverse=True)
    on_device = jax.device_put(features[: len(train_features)])
    chosen = np.empty(len(test_features), np.int64)
    for start, rows in similarity.rows(features[len(train_features) :], on_device, "cosine", block=block):
        for i, row in enumerate(rows, start):
            near = _nearest(row, k)
            # Relative to the nearest, which does not change the order of the votes and avoids overflow.
            votes = None if temperature is None else np.exp((row[near] - row[near[0]]) / temperature)
            chosen[i] = np.bincount(codes[near], votes, len(classes)).argmax()
    return classes[chosen]


def _nearest(row: np.ndarray, k: int) -> np.ndarray:
    """Returns the indices of the k largest values in descending order; ties go to the lower index."""
    least = np.partition(row, len(row) - k)[len(row) - k]
    candidates = np.flatnonzero(row >= least)
    return candidates[np.argsort(-row[candidates], kind="stable")[:k]]
