"""Scores of visual question answering: VQA v2's soft accuracy, overall, by question type and by answer type.

Antol et al., ICCV 2015, arXiv 1505.00468; Goyal et al., CVPR 2017, arXiv 1612.00837.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from fusionjax.data.vqa import answers as answers_lib
from fusionjax.data.vqa.questions import Question
from fusionjax.errors import UserError
from fusionjax.evaluation import significance

AGREE = 3
"""Number of annotators who must have given an answer for it to score 1."""


def soft_accuracy(answer: str, references: Sequence[str]) -> float:
    """Returns the soft accuracy of an answer: how many annotators gave it.

    The score is min(1, matches / 3), computed with each reference left out in turn and averaged. With ten references this
    makes the score of a model comparable to that of one annotator, who is compared with nine others. The answer is normalised.
    As in the official code, the references are not normalised: only their punctuation is removed, and only if they differ
    from each other. The answers in VQA v2's files are thus compared as they are; answers that this library generates are
    already normalised.

    With fewer than four references, leaving one out makes three matches impossible. The 3 is then replaced by the number of
    references minus one; a single reference must match exactly.

    Args:
        answer: the answer of the model.
        references: the answers of the annotators, ten in VQA v2; at least one.

    Returns:
        The soft accuracy, in [0, 1].

    Raises:
        ValueError: no reference.

    >>> soft_accuracy("A dog.", ["dog"] * 2 + ["cat"] * 8)
    0.6
    """
    if not references:
        raise ValueError("an answer needs at least one reference")
    answer = answers_lib.normalise(answer)
    if len(set(references)) > 1:
        references = [answers_lib.without_punctuation(r) for r in references]
    if len(references) == 1:
        return float(answer == references[0])
    enough = min(AGREE, len(references) - 1)
    matches = [r == answer for r in references]
    return sum(min(1.0, (sum(matches) - own) / enough) for own in matches) / len(matches)


@dataclasses.dataclass(frozen=True)
class Result:
    """The scores that `evaluate` returns, as fractions.

    Attributes:
        n: number of questions.
        accuracy: mean soft accuracy.
        accuracy_interval: its 95 % bootstrap interval over the questions.
        exact: share of questions whose most frequent reference was predicted.
        by_question_type, by_answer_type: type → (number of questions, mean soft accuracy), sorted by type.
        answerable: share of questions with a reference in the vocabulary, an upper bound of the accuracy; 1 without a
            vocabulary.
    """

    n: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    exact: float
    by_question_type: Mapping[str, tuple[int, float]]
    by_answer_type: Mapping[str, tuple[int, float]]
    answerable: float

    def scalars(self) -> dict[str, float]:
        """Returns the scores under flat keys for metrics.jsonl, such as accuracy/which."""
        own = {"accuracy": self.accuracy, "exact": self.exact, "answerable": self.answerable}
        return own | {f"accuracy/{kind}": value for kind, (_, value) in self.by_question_type.items()}


def evaluate(
    predicted: Sequence[str], questions: Sequence[Question], vocabulary: Sequence[str] | None = None
) -> Result:
    """Scores one predicted answer per question.

    Args:
        predicted: Q answers.
        questions: Q questions with references.
        vocabulary: the answers that the model can predict; None if it can predict any.

    Returns:
        The scores.

    Raises:
        UserError: there are no questions.
        ValueError: the numbers of answers and questions differ.
    """
    if len(predicted) != len(questions):
        raise ValueError(f"{len(predicted)} answers to {len(questions)} questions")
    if not questions:
        raise UserError("no question to evaluate: the split is empty")
    scores = [soft_accuracy(p, q.answers) for p, q in zip(predicted, questions, strict=True)]
    exact = [answers_lib.normalise(p) == q.answer for p, q in zip(predicted, questions, strict=True)]
    known = None if vocabulary is None else set(vocabulary)
    answerable = [known is None or not known.isdisjoint(q.normalised) for q in questions]
    return Result(
        len(questions),
        sum(scores) / len(scores),
        significance.mean_interval(np.asarray(scores)),
        sum(exact) / len(exact),
        _by([q.question_type for q in questions], scores),
        _by([q.answer_type for q in questions], scores),
        sum(answerable) / len(answerable),
    )


def question_prior(training: Sequence[Question], questions: Sequence[Question]) -> list[str]:
    """Answers each question with its most frequent training answer, without the image: a language-only baseline.

    Args:
        training: the questions whose answers are counted.
        questions: Q questions to answer. A question that does not occur in training gets the most frequent answer of its
            type, or the most frequent answer overall if the type does not occur either.

    Returns:
        Q answers; ties are broken alphabetically.
    """
    counts: dict[tuple[str, str], Counter[str]] = {}
    for q in training:
        for key in (("question", q.question), ("type", q.question_type), ("all", "")):
            counts.setdefault(key, Counter())[q.answer] += 1
    best = {key: min(c, key=lambda a: (-c[a], a)) for key, c in counts.items()}
    return [
        best.get(("question", q.question)) or best.get(("type", q.question_type)) or best.get(("all", ""), "")
        for q in questions
    ]


def _by(kinds: Sequence[str], scores: Sequence[float]) -> dict[str, tuple[int, float]]:
    found: dict[str, list[float]] = {}
    for kind, score in zip(kinds, scores, strict=True):
        found.setdefault(kind, []).append(score)
    return {kind: (len(own), sum(own) / len(own)) for kind, own in sorted(found.items())}
