"""Scores of visual question answering: VQA v2's soft accuracy, in all and by type of question and of answer.

Antol et al., ICCV 2015, arXiv 1505.00468; Goyal et al., CVPR 2017, arXiv 1612.00837.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

from fusionjax.data.vqa import answers as answers_lib
from fusionjax.data.vqa.questions import Question
from fusionjax.errors import UserError

AGREE = 3
"""Humans who must have given an answer for it to count in full."""


def soft_accuracy(answer: str, references: Sequence[str]) -> float:
    """How far people agree with an answer.

    Each reference in turn is left out, the score is then min(1, matches / 3) among the others, and the mean over all is the
    accuracy: min(1, matches / 3) of ten references, made consistent with how one human fares against nine. The answer is
    compared in its normal spelling; as in the official code the references lose their punctuation only where they differ,
    and nothing else: answers of VQA v2's files are compared as they stand there, those that this library makes are in normal
    spelling already.

    Fewer than four references cannot match three times with one left out: the 3 is then their number less one, and a single
    reference must be met.

    Args:
        answer: the model's.
        references: those of humans, ten in VQA v2; at least one.

    Returns:
        0 to 1.

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
    """What `evaluate` measured; fractions.

    Attributes:
        n: questions.
        accuracy: mean soft accuracy.
        exact: share of the questions whose most frequent reference was given.
        by_question_type, by_answer_type: type → (questions, mean soft accuracy), in the order of the names.
        answerable: share of the questions with a reference in the vocabulary, which bounds the accuracy; 1 without one.
    """

    n: int
    accuracy: float
    exact: float
    by_question_type: Mapping[str, tuple[int, float]]
    by_answer_type: Mapping[str, tuple[int, float]]
    answerable: float

    def scalars(self) -> dict[str, float]:
        """Flat keys for metrics.jsonl, such as accuracy/which."""
        own = {"accuracy": self.accuracy, "exact": self.exact, "answerable": self.answerable}
        return own | {f"accuracy/{kind}": value for kind, (_, value) in self.by_question_type.items()}


def evaluate(
    predicted: Sequence[str], questions: Sequence[Question], vocabulary: Sequence[str] | None = None
) -> Result:
    """Scores one answer for each question.

    Args:
        predicted: Q answers.
        questions: Q, with references.
        vocabulary: the answers that the model can give; None for any.

    Raises:
        UserError: no question.
        ValueError: not as many answers as questions.
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
        sum(exact) / len(exact),
        _by([q.question_type for q in questions], scores),
        _by([q.answer_type for q in questions], scores),
        sum(answerable) / len(answerable),
    )


def question_prior(training: Sequence[Question], questions: Sequence[Question]) -> list[str]:
    """The answer that each question has most often in training, whatever the image: what a blind guess reaches.

    Args:
        training: the questions to count.
        questions: Q to answer; one whose words training lacks gets the most frequent answer to its type, or to all.

    Returns:
        Q answers; of equally frequent ones the first in the alphabet.
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
