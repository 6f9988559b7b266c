"""Visual question answering: one of the answers that training knows, by an image and a question (METHODS.md section 5).

The model is that of image–text fusion: the tokens of both attend each other, pooled, and a classifier chooses among the
answers.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fusionjax.config import impossible
from fusionjax.data.loading.auxiliary import Both, Extra, Rows
from fusionjax.data.loading.stream import Example
from fusionjax.data.source import Source
from fusionjax.data.text import Texts, instance_texts
from fusionjax.data.vqa import json_files
from fusionjax.data.vqa.questions import Question
from fusionjax.errors import UserError
from fusionjax.evaluation import per_example, vqa
from fusionjax.tasks.base.image_task import Array, Batch, Outputs, PyTree, average
from fusionjax.tasks.image_text.fusion import BASELINES, Fusion
from fusionjax.tasks.image_text.text_inputs import TextSide
from fusionjax.train import losses


class QuestionSide(TextSide):
    """The text of an example is its question."""

    def _make(self, source: Source, labels: np.ndarray) -> Texts:
        return instance_texts(source.columns["question"], source.names, self.tokenise)


class VQA(Fusion):
    """An answer to each question.

    The target is VQA v2's soft score of every answer, divided by their sum; a question none of whose references training knows
    takes no part in the loss, and counts as missed at test.

    Args:
        config: of the whole run, validated.
        class_names: the answers.
    """

    text_side = QuestionSide
    shown = ("vqa_accuracy",)
    lower_is_better = ()

    def __init__(self, config: ConfigDict, class_names: Sequence[str]):
        super().__init__(config, class_names)
        self.score_names = ("vqa_accuracy", "accuracy", "answerable", "prior_vqa_accuracy")
        self._training: Sequence[Question] = ()

    # -- data -------------------------------------------------------------------------------------------------------------

    def check(self, sources: Mapping[str, Source]) -> None:
        """Also keeps the training questions, for the reference that looks at no image."""
        for source in sources.values():
            if not hasattr(source, "scores"):
                raise UserError(f"{source.name} has no questions: set config.data.questions")
        super().check(sources)
        self._training = sources["train"].questions
        split, _, metric = self.config.train.best_metric.partition("/")
        if metric and metric not in self.score_names:
            raise impossible(self.config, "train.best_metric", f"{split} has {', '.join(self.score_names)}")

    def padding(self, sources: Mapping[str, Source]) -> Example:
        """See `ImageTask`; also "scores" (C,) float32."""
        return super().padding(sources) | {"scores": np.zeros(len(self.class_names), np.float32)}

    def extras(
        self,
        sources: Mapping[str, Source],
        variables: dict[str, PyTree],
        *,
        folder: Path | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> dict[str, Extra]:
        """See `ImageTask`; also the scores of the answers."""
        found = super().extras(sources, variables, folder=folder, say=say)
        scores = {name: _scores(source) for name, source in sources.items()}
        return {name: Both(found[name], own) if name in found else own for name, own in scores.items()}

    # -- steps ------------------------------------------------------------------------------------------------------------

    def loss(self, variables: dict[str, PyTree], batch: Batch, key: Array, *, groups: int):
        """Loss, metrics and updated collections of one (micro-)batch; see `Fusion.loss`. Reads `scores` (B, C)."""
        mutable = [name for name in variables if name != "params"]
        (output, _), new = self._apply(variables, batch, train=True, rngs={"dropout": key}, mutable=mutable)
        scores = batch["scores"]
        total = scores.sum(1)
        known = batch["valid"] * (total > 0)
        target = scores / jnp.maximum(total, 1e-6)[:, None]
        loss = losses.masked_mean(self.example_losses(output, target), known)
        got = jnp.take_along_axis(scores, output.argmax(-1)[:, None], 1)[:, 0]
        return loss, ({"vqa_accuracy": average(got, batch["valid"])}, new)

    # -- scores -----------------------------------------------------------------------------------------------------------

    def evaluate(
        self, outputs: Mapping[str, Outputs], sources: Mapping[str, Source]
    ) -> dict[str, dict[str, vqa.Result]]:
        """Results by split: "model" and, where the training questions are at hand, "prior", the commonest answer to the words.

        Args:
            outputs: by split, `predict`'s of all of it, with "index" and "valid".
            sources: by split, `data.questions.Asked`.
        """
        return {split: self._measured(rows, sources[split]) for split, rows in outputs.items()}

    def _measured(self, rows: Outputs, source: Any) -> dict[str, vqa.Result]:
        good, predicted = self._answers(rows)
        asked = [source.questions[i] for i in rows["index"][good]]
        found = {"model": vqa.evaluate(predicted, asked, self.class_names)}
        if self._training:
            found["prior"] = vqa.evaluate(vqa.question_prior(self._training, asked), asked)
        return found

    def _answers(self, rows: Outputs) -> tuple[np.ndarray, list[str]]:
        """Rows of the questions whose image could be read, in order of index, and their answers."""
        good = np.flatnonzero((rows["valid"] > 0) & (rows["index"] >= 0))
        good = good[np.argsort(rows["index"][good], kind="stable")]
        return good, [self.class_names[k] for k in rows["probabilities/combined"][good].argmax(-1)]

    def scalars(self, results: Mapping[str, dict[str, vqa.Result]]) -> dict[str, float]:
        """Flat names: test/vqa_accuracy is VQA v2's, test/vqa_accuracy_<type> a type of question's, test/accuracy the share of
        questions whose most frequent reference was given."""
        flat = {}
        for split, by_name in results.items():
            model = by_name["model"]
            flat |= {f"{split}/vqa_accuracy": model.accuracy, f"{split}/accuracy": model.exact}
            flat[f"{split}/answerable"] = model.answerable
            for kind, (_, value) in model.by_question_type.items():
                flat[f"{split}/vqa_accuracy_{'_'.join(kind.split())}"] = value
            if "prior" in by_name:
                flat[f"{split}/prior_vqa_accuracy"] = by_name["prior"].accuracy
        return flat

    def outcomes(
        self, results: Any, outputs: Mapping[str, Outputs], sources: Mapping[str, Source]
    ) -> dict[str, np.ndarray]:
        """What happened to each question of the split "test", or else of the last one: see `evaluation.per_example`.

        Returns:
            "correct", whether the most frequent reference was given, and "soft_accuracy".
        """
        split = "test" if "test" in outputs else list(outputs)[-1]
        source = sources[split]
        good, predicted = self._answers(outputs[split])
        index = outputs[split]["index"][good]
        single = [vqa.evaluate([p], [source.questions[i]]) for p, i in zip(predicted, index, strict=True)]
        return {
            "name": per_example.names_of(source, index),
            "split": np.array(split),
            "read": np.array([split]),
            "correct": np.asarray([r.exact for r in single], np.uint8),
            "soft_accuracy": np.asarray([r.accuracy for r in single], np.float32),
        }

    def leave(
        self,
        folder: Path,
        variables: dict[str, PyTree],
        outputs: Mapping[str, Outputs],
        sources: Mapping[str, Source],
    ) -> None:
        """Writes answers/<split>.json, results as VQA v2's evaluation takes them: an answer to every question, "" where the
        picture could not be read."""
        for split, rows in outputs.items():
            asked = sources[split].questions
            good, predicted = self._answers(rows)
            answers = [""] * len(asked)
            for i, answer in zip(rows["index"][good], predicted, strict=True):
                answers[i] = answer
            (Path(folder) / "answers").mkdir(exist_ok=True)
            json_files.write_results(Path(folder) / "answers" / f"{split}.json", asked, answers)

    def report(
        self, results: Any, outputs: Mapping[str, Outputs], sources: Mapping[str, Source]
    ) -> dict[str, Any]:
        """Fields of `interpret.report.ReportContent` that are this task's."""
        headline, rows = [], []
        for split, by_name in results.items():
            model, prior = by_name["model"], by_name.get("prior")
            headline.append((f"VQA accuracy, {split}", model.accuracy, None, f"{model.n:,} questions"))
            if prior:
                note = "the commonest answer to the question's words in training, no image"
                headline.append((f"question prior, {split}", prior.accuracy, None, note))
            kinds = {"all": (model.n, model.accuracy)} | dict(model.by_question_type)
            blind = {"all": (prior.n, prior.accuracy)} | dict(prior.by_question_type) if prior else {}
            for kind, (n, value) in kinds.items():
                rows.append((split, kind, f"{n:,}", value, blind[kind][1] if blind else "–"))
            for kind, (n, value) in model.by_answer_type.items():
                blind_value = prior.by_answer_type[kind][1] if prior else "–"
                rows.append((split, f"answer: {kind}", f"{n:,}", value, blind_value))
            rows.append((split, "an answer is known", f"{model.n:,}", model.answerable, "–"))
        heads = ("split", "type of question", "questions", "VQA accuracy", "question prior")
        return {
            "task": f"One of {len(self.class_names):,} answers to a question about an image: "
            f"{BASELINES[self.config.fusion.mode]}.",
            "headline": headline,
            "tables": [("Accuracy by type of question", heads, rows)],
        }


def _scores(source: Any) -> Rows:
    return Rows(lambda index, epoch: index, scores=source.scores)
