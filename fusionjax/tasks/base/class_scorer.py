"""Scores of tasks with one label per example."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar

import jax
import numpy as np
from ml_collections import ConfigDict

from fusionjax.data.source import Source
from fusionjax.evaluation import classification, probe
from fusionjax.evaluation import per_example as per_example_lib
from fusionjax.evaluation.probe import Baseline
from fusionjax.tasks.base.baselines import NoBaselines, PooledFeatures
from fusionjax.tasks.base.protocol import Batch, Evaluated, Outputs, ReportFields, ReportSection, Variables

Predict = Callable[[Variables, Batch], dict[str, jax.Array]]
ClassResults = Mapping[str, dict[str, classification.Result]]
"""Split → branch → result."""


@dataclasses.dataclass(frozen=True, eq=False)
class ClassScorer(NoBaselines):
    """See `protocol.Scorer`.

    Attributes:
        config: of the whole run, validated.
        class_names: one name per class.
        predict: returns "probabilities/<branch>" (B, C) for each of `branches`.
        branches: names of the predictions that are scored; "combined", the model's answer, comes last.
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
    reads_training: ClassVar[bool] = False

    @property
    def score_names(self) -> tuple[str, ...]:
        """See `Scorer`."""
        branches = (f"accuracy_{b}" for b in self.branches[:-1])
        return (*classification.scalar_names(len(self.class_names)), *branches)

    def evaluate(self, outputs: Mapping[str, Outputs], sources: Mapping[str, Source]) -> ClassResults:
        """See `Scorer.evaluate`; sources are not needed."""
        return {split: self._evaluate(rows) for split, rows in outputs.items()}

    def scalars(self, results: ClassResults) -> dict[str, float]:
        """Flat names: those of the combined prediction without a suffix, those of a branch with its name: test/accuracy and
        test/accuracy_glca."""
        flat: dict[str, float] = {}
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

    def probe(self, features: PooledFeatures) -> list[Baseline]:
        """Logistic regression on the pretrained network's features; see `Scorer.probe`."""
        labels = np.asarray(features.source.labels)[features.test_rows]
        probabilities, _ = probe.predict(
            features.train, features.train_labels, features.test, labels, seed=self.config.seed
        )
        correct = probabilities.argmax(-1) == labels
        note = "the pretrained network on the same images, its features averaged over the grid"
        return [
            Baseline(
                "logistic_regression",
                "Logistic regression, frozen features",
                float(correct.mean()),
                note,
                "correct",
                correct,
            )
        ]

    def _evaluate(self, rows: Outputs) -> dict[str, classification.Result]:
        return {
            b: classification.evaluate(
                rows[f"probabilities/{b}"],
                rows["label"],
                rows["valid"],
                self.class_names,
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
