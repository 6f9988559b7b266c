"""Scores of tasks with one label per example."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fusionjax.data.source import Source
from fusionjax.evaluation import classification
from fusionjax.evaluation import per_example as per_example_lib
from fusionjax.evaluation.probe import Baseline, logistic_regression
from fusionjax.tasks.base.protocol import Batch, Evaluated, Outputs, ReportFields, ReportSection, Variables
from fusionjax.types import PyTree

Predict = Callable[[Variables, Batch], dict[str, jax.Array]]
ClassResults = Mapping[str, dict[str, classification.Result]]
"""Split → branch → result."""


@dataclasses.dataclass(frozen=True, eq=False)
class ClassScorer:
    """See `protocol.Scorer`.

    Attributes:
        config: of the whole run, validated.
        class_names: one name per class.
        predict: gives "probabilities/<branch>" (B, C) for each of `branches`.
        branches: names of the predictions that are scored, "combined" (the answer) last.
        shown: scores of the progress line.
    """

    config: ConfigDict
    class_names: tuple[str, ...]
    predict: Predict
    branches: tuple[str, ...] = ("combined",)
    shown: tuple[str, ...] = ("accuracy",)
    lower_is_better: ClassVar[tuple[str, ...]] = ("nll", "ece")
    output_names: ClassVar[tuple[str, ...]] = ("probabilities/",)
    closed_set: ClassVar[bool] = True

    @property
    def score_names(self) -> tuple[str, ...]:
        """See `Scorer`."""
        branches = (f"accuracy_{b}" for b in self.branches[:-1])
        return (*classification.SCALARS, "accuracy_low", "accuracy_high", *branches)

    def evaluate(self, outputs: Mapping[str, Outputs], sources: Mapping[str, Source]) -> ClassResults:
        """See `Scorer.evaluate`; sources are not needed."""
        return {split: self._evaluate(rows) for split, rows in outputs.items()}

    def scalars(self, results: ClassResults) -> dict[str, float]:
        """Flat names: the answer's bare, a branch's with its name, e.g. test/accuracy and test/accuracy_glca."""
        flat = {}
        for split, by_branch in results.items():
            flat |= {f"{split}/{name}": value for name, value in by_branch["combined"].scalars().items()}
            flat |= {f"{split}/accuracy_{b}": by_branch[b].accuracy for b in self.branches[:-1]}
        return flat

    def per_example(
        self, results: ClassResults, outputs: Mapping[str, Outputs], sources: Mapping[str, Source]
    ) -> dict[str, np.ndarray]:
        """See `Scorer.per_example`.

        Returns:
            Also "label" and "prediction", class indices; "correct", 0 or 1; "probability", of the true class.
        """
        split = headline(outputs)
        rows = outputs[split]
        good = readable(rows)
        label, p = rows["label"][good], rows["probabilities/combined"][good].astype(np.float32)
        prediction = p.argmax(-1)
        return {
            "name": per_example_lib.names_of(sources[split], rows["index"][good]),
            "split": np.array(split),
            "read": np.array([split]),
            "label": label.astype(np.int32),
            "prediction": prediction.astype(np.int32),
            "correct": (prediction == label).astype(np.uint8),
            "probability": p[np.arange(len(p)), label] / p.sum(-1),
        }

    def probe(
        self,
        train: np.ndarray,
        train_labels: np.ndarray,
        test: np.ndarray,
        test_rows: np.ndarray,
        source: Source,
    ) -> list[Baseline]:
        """What a linear model makes of the pretrained network's features; see `Scorer.probe`."""
        found = logistic_regression(
            train, train_labels, test, np.asarray(source.labels)[test_rows], seed=self.config.seed
        )
        note = "the pretrained network on the same images, its features averaged over the grid"
        return [
            Baseline("logistic_regression", "Logistic regression, frozen features", found["accuracy"], note)
        ]

    def references(
        self,
        weights: PyTree | None,
        variables: Variables,
        batches: Callable[[str], Iterable[dict[str, np.ndarray]]],
        sources: Mapping[str, Source],
        mesh: Mesh,
    ) -> list[Baseline]:
        """See `Scorer.references`: none."""
        return []

    def _evaluate(self, rows: Outputs) -> dict[str, classification.Result]:
        return {
            b: classification.evaluate(
                rows[f"probabilities/{b}"],
                rows["label"],
                rows["valid"],
                self.class_names,
                seed=self.config.seed,
            )
            for b in self.branches
        }


def headline(splits: Iterable[str]) -> str:
    """The split that a report describes in full: "test", or else the last one."""
    names = list(splits)
    return "test" if "test" in names else names[-1]


def readable(rows: Outputs) -> np.ndarray:
    """Rows of the examples that could be read, in the order of their source."""
    good = np.flatnonzero((rows["valid"] > 0) & (rows["index"] >= 0))
    return good[np.argsort(rows["index"][good], kind="stable")]


def results_section(task: str) -> ReportSection:
    """The section that names the task in one line and shows all results of a classifier."""

    def section(run: Evaluated) -> ReportFields:
        return {"task": task, "results": run.results}

    return section
