"""The inputs of a scorer's baselines: scores of pretrained weights that the report shows beside the result."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from fusionjax.data.source import Source
from fusionjax.evaluation.probe import Baseline
from fusionjax.types import PyTree


class PooledFeatures(NamedTuple):
    """The pretrained network's pooled features of a run's images.

    Attributes:
        train, train_labels: (N, D) features of the training images and their classes (N,).
        test, test_rows: (M, D) features of test images and their indices (M,) in `source`.
        source: the test split.
    """

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_rows: np.ndarray
    source: Source


class Untrained(NamedTuple):
    """A run before its first step, for references that need a forward pass.

    Attributes:
        weights: of `model_factory.read_weights`; None where none are named.
        variables: that the run began with.
        batches: split → its batches.
        sources: by split.
        mesh: of the devices.
    """

    weights: PyTree | None
    variables: dict[str, PyTree]
    batches: Callable[[str], Iterable[dict[str, np.ndarray]]]
    sources: Mapping[str, Source]
    mesh: Mesh


class NoBaselines:
    """The part of a `Scorer` that measures no baselines."""

    def probe(self, features: PooledFeatures) -> list[Baseline]:
        """See `Scorer.probe`: none."""
        return []

    def references(self, start: Untrained) -> list[Baseline]:
        """See `Scorer.references`: none."""
        return []
