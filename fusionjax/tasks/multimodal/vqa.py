"""Visual question answering: one of the answers of the training split, by an image and a question.

The model is that of image–text fusion: the tokens of both attend to each other, pooled, and a classifier chooses among the
answers. Source: docs/methods/multimodal.md.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics
from ml_collections import ConfigDict

from fusionjax.data.loading.auxiliary import Auxiliary, AuxiliaryGroup, AuxiliaryRows
from fusionjax.data.loading.stream import Example
from fusionjax.data.source import Source
from fusionjax.data.vqa import json_files
from fusionjax.data.vqa.questions import Question, QuestionSource
from fusionjax.errors import UserError
from fusionjax.evaluation import per_example as per_example_lib
from fusionjax.evaluation import vqa
from fusionjax.evaluation.probe import Baseline
from fusionjax.tasks.base import multispectral_inputs
from fusionjax.tasks.base.baselines import NoBaselines, PooledFeatures
from fusionjax.tasks.base.class_scorer import ClassScorer, Predict, headline, readable
from fusionjax.tasks.base.image_inputs import ImageInputs
from fusionjax.tasks.base.objectives import ExampleLoss, average, class_weights
from fusionjax.tasks.base.protocol import (
    Batch,
    Evaluated,
    Facts,
    Outputs,
    ReportFields,
    Say,
    Task,
    Variables,
    silent,
)
from fusionjax.tasks.image_text import fusion_model
from fusionjax.tasks.image_text.fusion import (
    BASELINES,
    FusionExplanation,
    FusionInputs,
    FusionObjective,
    FusionPredictor,
)
from fusionjax.tasks.image_text.text_inputs import TextInputs

VqaResults = Mapping[str, dict[str, vqa.Result]]
"""Split → "model" and, where the training questions are known, "prior"."""


def create(config: ConfigDict, facts: Facts) -> Task:
    """An answer to each question.

    The target is VQA v2's soft score of every answer, divided by their sum. A question without a reference among the training
    answers is left out of the loss, and counts as incorrect at test.

    Args:
        config: of the whole run, validated.
        facts: of the data; a class is an answer.

    Raises:
        UserError: a model that cannot be built, or data without questions.
    """
    for source in facts.splits.values():
        with_questions(source)
    text = None if config.fusion.mode == "image" else TextInputs(config, facts, question=True)
    inputs = QuestionInputs(ImageInputs(config), text, len(facts.class_names))
    model = fusion_model.create(config, facts, inputs.images, text)
    multispectral_inputs.check(config, facts.splits.values())
    scorer = VqaScorer(
        config,
        facts.class_names,
        FusionPredictor(model, inputs),
        () if facts.train is None else with_questions(facts.train).questions,
    )
    return Task(
        config,
        facts.class_names,
        model,
        inputs,
        VqaObjective(
            model, inputs, ExampleLoss(config, class_weights(config, facts.class_names, facts.train))
        ),
        scorer,
        (QuestionSection(config, len(facts.class_names)),),
        FusionExplanation(model, inputs, facts.class_names),
        AnswerExport(scorer),
    )


def with_questions(source: Source) -> QuestionSource:
    """The source of a split, checked to have questions; a UserError otherwise."""
    if not isinstance(source, QuestionSource):
        raise UserError(f"{source.name} has no questions: set config.data.questions")
    return source


@dataclasses.dataclass(frozen=True, eq=False)
class QuestionInputs(FusionInputs):
    """Images, the question of each, and the scores of the answers.

    Attributes:
        answers: C.
    """

    answers: int

    def padding_example(self) -> Example:
        """See `Inputs.padding_example`; also "scores" (C,) float32."""
        return super().padding_example() | {"scores": np.zeros(self.answers, np.float32)}

    def prepare(
        self,
        split: str,
        source: Source,
        variables: Variables,
        *,
        folder: Path | None = None,
        say: Say = silent,
    ) -> Auxiliary:
        """See `Inputs.prepare`; also the scores of the answers."""
        found = super().prepare(split, source, variables, folder=folder, say=say)
        scores = AuxiliaryRows(lambda index, epoch: index, scores=with_questions(source).scores)
        return scores if found is None else AuxiliaryGroup(found, scores)


class VqaObjective(FusionObjective):
    """Cross-entropy with the answers' soft scores, "scores" (B, C) of a batch."""

    def target(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """The scores as shares; an example counts where an answer is known."""
        scores = batch["scores"]
        total = scores.sum(1)
        return scores / jnp.maximum(total, 1e-6)[:, None], batch["valid"] * (total > 0)

    def metrics(self, output: jax.Array, batch: Batch) -> dict[str, clu_metrics.Average]:
        """VQA v2's accuracy."""
        got = jnp.take_along_axis(batch["scores"], output.argmax(-1)[:, None], 1)[:, 0]
        return {"vqa_accuracy": average(got, batch["valid"])}


@dataclasses.dataclass(frozen=True, eq=False)
class VqaScorer(NoBaselines):
    """See `protocol.Scorer`.

    Attributes:
        config: of the whole run, validated.
        answers: by class index.
        predict: gives "probabilities/combined" (B, C).
        training: questions of the training split, for the baseline without images; empty where they are not known.
    """

    config: ConfigDict
    answers: tuple[str, ...]
    predict: Predict
    training: Sequence[Question]
    shown: ClassVar[tuple[str, ...]] = ("vqa_accuracy",)
    lower_is_better: ClassVar[tuple[str, ...]] = ()
    score_names: ClassVar[tuple[str, ...]] = ("vqa_accuracy", "accuracy", "answerable", "prior_vqa_accuracy")
    output_names: ClassVar[tuple[str, ...]] = ("probabilities/",)
    closed_set: ClassVar[bool] = True
    reads_training: ClassVar[bool] = True

    def evaluate(self, outputs: Mapping[str, Outputs], sources: Mapping[str, Source]) -> VqaResults:
        """Results by split: "model" and, where training questions are known, "prior", the most frequent answer to the words.

        Args:
            outputs: by split, the predictions of all of it.
            sources: by split.
        """
        return {
            split: self._evaluate(rows, with_questions(sources[split])) for split, rows in outputs.items()
        }

    def _evaluate(self, rows: Outputs, source: QuestionSource) -> dict[str, vqa.Result]:
        good, predicted = self.answered(rows)
        asked = [source.questions[i] for i in rows["index"][good]]
        found = {"model": vqa.evaluate(predicted, asked, self.answers)}
        if self.training:
            found["prior"] = vqa.evaluate(vqa.question_prior(self.training, asked), asked)
        return found

    def answered(self, rows: Outputs) -> tuple[np.ndarray, list[str]]:
        """Rows of the questions whose image could be read, in the order of their source, and their answers."""
        good = readable(rows)
        return good, [self.answers[k] for k in rows["probabilities/combined"][good].argmax(-1)]

    def scalars(self, results: VqaResults) -> dict[str, float]:
        """Flat names: test/vqa_accuracy is VQA v2's, test/vqa_accuracy_<type> a type of question's, test/accuracy the share of
        questions whose most frequent reference was given."""
        flat: dict[str, float] = {}
        for split, by_name in results.items():
            model = by_name["model"]
            flat |= {f"{split}/vqa_accuracy": model.accuracy, f"{split}/accuracy": model.exact}
            flat[f"{split}/answerable"] = model.answerable
            for kind, (_, value) in model.by_question_type.items():
                flat[f"{split}/vqa_accuracy_{'_'.join(kind.split())}"] = value
            if "prior" in by_name:
                flat[f"{split}/prior_vqa_accuracy"] = by_name["prior"].accuracy
        return flat

    def per_example(
        self, results: VqaResults, outputs: Mapping[str, Outputs], sources: Mapping[str, Source]
    ) -> dict[str, np.ndarray]:
        """See `Scorer.per_example`.

        Returns:
            "correct", whether the most frequent reference was given, "soft_accuracy" and, where the training questions are
            known, "prior_soft_accuracy", that of their most frequent answer.
        """
        split = headline(outputs)
        source = with_questions(sources[split])
        good, predicted = self.answered(outputs[split])
        index = outputs[split]["index"][good]
        asked = [source.questions[i] for i in index]
        single = [vqa.evaluate([p], [q]) for p, q in zip(predicted, asked, strict=True)]
        prior = vqa.question_prior(self.training, asked) if self.training else []
        blind = [vqa.soft_accuracy(p, q.answers) for p, q in zip(prior, asked, strict=True)] if prior else []
        return {
            "name": per_example_lib.names_of(source, index),
            "split": np.array(split),
            "read": np.array([split]),
            "correct": np.asarray([r.exact for r in single], np.uint8),
            "soft_accuracy": np.asarray([r.accuracy for r in single], np.float32),
            **({"prior_soft_accuracy": np.asarray(blind, np.float32)} if blind else {}),
        }

    def probe(self, features: PooledFeatures) -> list[Baseline]:
        """See `Scorer.probe`: the answers are classes, as for `ClassScorer`."""
        return ClassScorer(self.config, self.answers, self.predict).probe(features)


@dataclasses.dataclass(frozen=True, eq=False)
class AnswerExport:
    """See `protocol.Exporter`.

    Attributes:
        scorer: of the task.
    """

    scorer: VqaScorer

    def __call__(self, folder: Path, run: Evaluated) -> None:
        """Writes answers/<split>.json, results as VQA v2's evaluation takes them: an answer to every question, "" where the
        image could not be read."""
        for split, rows in run.outputs.items():
            asked = with_questions(run.sources[split]).questions
            good, predicted = self.scorer.answered(rows)
            answers = [""] * len(asked)
            for i, answer in zip(rows["index"][good], predicted, strict=True):
                answers[i] = answer
            (Path(folder) / "answers").mkdir(exist_ok=True)
            json_files.write_results(Path(folder) / "answers" / f"{split}.json", asked, answers)


@dataclasses.dataclass(frozen=True, eq=False)
class QuestionSection:
    """See `protocol.ReportSection`: accuracy by type of question, beside the prior.

    Attributes:
        config: of the whole run.
        answers: C.
    """

    config: ConfigDict
    answers: int

    def __call__(self, run: Evaluated) -> ReportFields:
        """Headline and a table."""
        headline, rows = [], []
        for split, by_name in run.results.items():
            model, prior = by_name["model"], by_name.get("prior")
            headline.append(
                (f"VQA accuracy, {split}", model.accuracy, model.accuracy_interval, f"{model.n:,} questions")
            )
            if prior:
                note = "the most frequent training answer to the words of the question, without the image"
                headline.append((f"question prior, {split}", prior.accuracy, prior.accuracy_interval, note))
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
            "task": f"One of {self.answers:,} answers to a question about an image: "
            f"{BASELINES[self.config.fusion.mode]}.",
            "headline": headline,
            "tables": [("Accuracy by type of question", heads, rows)],
        }
