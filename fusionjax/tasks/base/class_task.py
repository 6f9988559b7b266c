"""What tasks with one label an example share: their scores, outcomes and reference."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from fusionjax.config import impossible
from fusionjax.data.source import Source
from fusionjax.evaluation import classification, per_example
from fusionjax.evaluation.probe import Baseline, logistic_regression
from fusionjax.tasks.base.image_task import Array, ImageTask, Outputs
from fusionjax.train import losses


class ClassTask(ImageTask):
    """A task whose `predict` gives "probabilities/<branch>" (B, C) for each of `branches`.

    Attributes:
        branches: names of the outputs that are scored, "combined" (the answer) last.
    """

    shown = ("accuracy",)
    lower_is_better = ("nll", "ece")
    keep = ("probabilities/",)
    score_names = (*classification.SCALARS, "accuracy_low", "accuracy_high")
    branches: tuple[str, ...] = ("combined",)
    class_weights: Array | None = None

    def example_losses(self, logits: Array, target: Array) -> Array:
        """(B,) losses of the config: cross-entropy or, with `loss.focal_gamma`, focal; classes weighted where it says so.

        Args:
            logits: (B, C).
            target: (B,) labels, or (B, C) shares that sum to 1.
        """
        c = self.config.loss
        if c.focal_gamma:
            return losses.focal(
                logits, target, alpha=c.focal_alpha, gamma=c.focal_gamma, class_weights=self.class_weights
            )
        return losses.cross_entropy(
            logits, target, label_smoothing=c.label_smoothing, class_weights=self.class_weights
        )

    def check(self, sources: Mapping[str, Source]) -> None:
        """Also takes the class weights, which "balanced" counts in the training split: N / (C · n_c)."""
        super().check(sources)
        c, count = self.config.loss, len(self.class_names)
        if c.class_weights:
            if len(c.class_weights) != count:
                raise impossible(self.config, "loss.class_weights", f"one number for each of {count} classes")
            self.class_weights = jnp.asarray(c.class_weights, jnp.float32)
        elif c.balanced:
            found = np.bincount(np.asarray(sources["train"].labels), minlength=count)
            self.class_weights = jnp.asarray(found.sum() / (count * np.maximum(found, 1)), jnp.float32)

    def evaluate(
        self, outputs: Mapping[str, Outputs], sources: Mapping[str, Source]
    ) -> dict[str, dict[str, classification.Result]]:
        """Results by split and branch.

        Args:
            outputs: by split, `predict`'s of all of it, with "label" and "valid".
            sources: by split; not needed here.
        """
        return {split: self._evaluate(rows) for split, rows in outputs.items()}

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

    def scalars(self, results: Mapping[str, dict[str, classification.Result]]) -> dict[str, float]:
        """Flat names: the answer's bare, a branch's with its name, e.g. test/accuracy and test/accuracy_glca."""
        flat = {}
        for split, by_branch in results.items():
            flat |= {f"{split}/{name}": value for name, value in by_branch["combined"].scalars().items()}
            flat |= {f"{split}/accuracy_{b}": by_branch[b].accuracy for b in self.branches[:-1]}
        return flat

    def outcomes(
        self, results: Any, outputs: Mapping[str, Outputs], sources: Mapping[str, Source]
    ) -> dict[str, np.ndarray]:
        """What happened to each example of the split "test", or else of the last one: see `evaluation.per_example`.

        Returns:
            Also "label" and "prediction", class indices; "correct", 0 or 1; "probability", of the true class.
        """
        split = "test" if "test" in outputs else list(outputs)[-1]
        rows = outputs[split]
        good = np.flatnonzero((rows["valid"] > 0) & (rows["index"] >= 0))
        good = good[np.argsort(rows["index"][good], kind="stable")]
        label, p = rows["label"][good], rows["probabilities/combined"][good].astype(np.float32)
        prediction = p.argmax(-1)
        return {
            "name": per_example.names_of(sources[split], rows["index"][good]),
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
        """What a linear model makes of the pretrained network's features.

        Args:
            train, train_labels: (N, D) features of the training images and their classes.
            test, test_rows: (M, D) features of test images and their indices in `source`.
            source: the test split.
        """
        found = logistic_regression(
            train, train_labels, test, np.asarray(source.labels)[test_rows], seed=self.config.seed
        )
        note = "the pretrained network on the same images, its features averaged over the grid"
        return [
            Baseline("logistic_regression", "Logistic regression, frozen features", found["accuracy"], note)
        ]
