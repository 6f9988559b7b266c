"""Questions about pictures: made from captions and folders, their answers' vocabulary, and a source that asks them.

**What a question may know.** Its words are made of class names alone, never of the caption, and no answer to it is among
them. `Asked` leaves out the columns that would answer it: names and captions. A yes is as frequent as a no for each wording,
so the words alone do not tell which.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fusionjax.data.source import Source, Subset
from fusionjax.data.vqa import answers as answers_lib
from fusionjax.errors import UserError

TYPES = ("category", "is_it", "which", "what")
"""Types that `generate` makes: "what kind of thing is this?", "is this an animal?", "which animal is it?", "what is this?"."""
REFERENCES = 10
"""Answers that a question has in VQA v2."""
_STREAM = 0x9A5  # keeps these draws apart from others that start from the same seed
_ARTICLES = re.compile(r"^(an?|the|some|one|two|three|four|five|six) ")
_MEASURE = re.compile(
    r"^(\w+ )*(pair|piece|head|bunch|cluster|string|slice|loaf|model|handful|bouquet|pile|stack|group|kind) of "
    r"(an? |the |some )?"
)
_END = re.compile(
    r" (of|with|in|for|on|at|from|to|that|which|who|where|is|are|means|says|stands|has|have|used|made|called|by|as|like|"
    r"inside|without|under|near|over|holding|wearing|dancing|eating|flying|playing|sitting)\b"
)


@dataclasses.dataclass(frozen=True)
class Question:
    """One question about one picture.

    Attributes:
        question_id: whole number, unique in its split.
        image_id: of the picture: the example's index in its source where `generate` or `from_columns` made the question, else
            what a file says.
        question: the words.
        answers: references, in normal spelling where this library made them, as they stand in a file of VQA v2, for its
            accuracy is of these; ten in VQA v2, empty where unknown.
        question_type, answer_type: as VQA v2 has them; an answer is "yes/no", "number" or "other".
    """

    question_id: int
    image_id: int
    question: str
    answers: tuple[str, ...]
    question_type: str
    answer_type: str

    @property
    def spelt(self) -> tuple[str, ...]:
        """The references in normal spelling: what vocabularies and targets are made of."""
        return tuple(map(answers_lib.normalise, self.answers))

    @property
    def answer(self) -> str:
        """The most frequent reference in normal spelling, of equally frequent ones the first; "" where none is known."""
        counts = Counter(self.spelt)
        return max(counts, key=counts.__getitem__) if counts else ""


def generate(
    categories: Sequence[str],
    kinds: Sequence[str],
    captions: Sequence[str],
    *,
    seed: int,
    types: Sequence[str] = TYPES,
) -> list[Question]:
    """Questions about the examples of one split, a function of its arguments.

    - **category**: "what kind of thing is this?": the category.
    - **is_it**: "is this an animal?": for each category as many examples that are as ones that are not, the latter drawn from
      all others. So each wording has as many yes as no.
    - **which**: "which animal is it?": the kind, where there is one.
    - **what**: "what is this?": the noun of the caption. Where there is a kind too it makes half of the ten references: who
      sees a rosella and says "bird" is right. Examples without a caption are not asked.

    A question with an answer among its words is left out ("which vehicle is it?": military vehicle).

    Args:
        categories: N nouns with their article, "an animal", "food".
        kinds: N nouns of what is within the category, "bird"; "" where there is none.
        captions: N texts, in English; "" where there is none.
        seed: draws the examples that are not of a category.
        types: of `TYPES`, which to make.

    Returns:
        Questions in the order of the examples, then of `TYPES`.

    Raises:
        UserError: an unknown type.
        ValueError: not as many of each.
    """
    if not len(categories) == len(kinds) == len(captions):
        raise ValueError(f"{len(categories)} categories, {len(kinds)} kinds and {len(captions)} captions")
    for kind in types:
        if kind not in TYPES:
            raise UserError(f"there is no type of question {kind!r}; allowed are {', '.join(TYPES)}")
    asked_no = _contrary(categories, seed)
    found = []
    for i, (category, kind, caption) in enumerate(zip(categories, kinds, captions, strict=True)):
        thing, noun = _ARTICLES.sub("", category), head_noun(caption)
        rows = [("category", "what kind of thing is this?", (thing,))]
        yes = category in asked_no
        rows += [("is_it", f"is this {category}?", ("yes",))] if yes and i in asked_no[category][0] else []
        rows += [("is_it", f"is this {c}?", ("no",)) for c, (_, no) in asked_no.items() if i in no]
        rows += [("which", f"which {thing} is it?", (kind,))] if kind else []
        rows += [("what", "what is this?", (noun, kind) if kind else (noun,))] if noun else []
        rows = [row for row in rows if row[0] in types and _fair(row[1], row[2])]
        found += [_made(100 * i + k, i, *row) for k, row in enumerate(rows)]
    return found


def head_noun(caption: str) -> str:
    """The noun that an English caption is about, in normal spelling; "" where none is found.

    A rule of thumb: the last word before the first full stop, comma, preposition or verb of the first sentence; of "a pair of
    white pants" what comes after "of"; single letters and digits do not count, and a plural becomes a singular.

    >>> head_noun("A great blue heron."), head_noun("A pair of red shoes, new."), head_noun("The letter a with an umlaut.")
    ('heron', 'shoe', 'letter')
    """
    text = re.sub(r"[“”\"„]", "", caption.strip().lower().replace("’", "'"))
    text = _ARTICLES.sub("", re.split(r"[.,!?;:()–—…]| - ", text.strip(" –—-"))[0].strip())
    text = _END.split(_MEASURE.sub("", text))[0]
    words = [w for w in re.findall(r"[^\W\d_][\w'-]+", text) if len(w) > 1]
    return answers_lib.normalise(_singular(words[-1])) if words else ""


def vocabulary(questions: Iterable[Question], *, most: int = 1000, least: int = 3) -> tuple[str, ...]:
    """The answers that training has often enough.

    Args:
        questions: of the training split.
        most: k, answers at most.
        least: pictures that an answer must belong to.

    Returns:
        Answers, the most frequent first, of equally frequent ones in the order of the alphabet.

    Raises:
        UserError: none is frequent enough.
    """
    pictures: dict[str, set[int]] = {}
    for q in questions:
        for answer in set(q.spelt):
            pictures.setdefault(answer, set()).add(q.image_id)
    enough = [a for a, own in pictures.items() if len(own) >= least]
    if not enough or most < 1:
        raise UserError(
            f"no answer belongs to {least} pictures of training: lower the number, or give more questions (at most {most})"
        )
    return tuple(sorted(enough, key=lambda a: (-len(pictures[a]), a))[:most])


class Scores:
    """Soft scores of all answers, of which few are not 0: only these are kept, rows are made when they are asked for.

    Args:
        rows: of each question {answer's number: score}.
        width: K.

    Attributes:
        shape: (Q, K).
        best: int32 (Q,), the answer of the highest score, of equal ones the first; 0 where a question has none.
    """

    def __init__(self, rows: Sequence[Mapping[int, float]], width: int):
        self.shape = (len(rows), width)
        most = max(map(len, rows), default=0)
        # One column more than there are answers takes what fills up a row.
        self._places = np.full((len(rows), most), width, np.int32)
        self._values = np.zeros((len(rows), most), np.float32)
        self.best = np.zeros(len(rows), np.int32)
        for i, row in enumerate(rows):
            own = sorted(row.items())
            self._places[i, : len(own)] = [k for k, _ in own]
            self._values[i, : len(own)] = [score for _, score in own]
            self.best[i] = max(own, key=lambda item: item[1])[0] if own else 0

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        """float32 (K,) of a number, (M, K) of several or of a slice."""
        places = self._places[key]
        out = np.zeros((*places.shape[:-1], self.shape[1] + 1), np.float32)
        np.put_along_axis(out, places, self._values[key], -1)
        return out[..., :-1]


def targets(questions: Sequence[Question], vocabulary: Sequence[str]) -> Scores:
    """Soft scores of the answers: min(1, references that agree / 3), with fewer than three references the share that agrees.

    Args:
        questions: Q.
        vocabulary: K answers.

    Returns:
        (Q, K); a row of 0 for a question none of whose references is in the vocabulary.
    """
    place = {answer: k for k, answer in enumerate(vocabulary)}
    rows = [
        {
            place[answer]: min(1.0, count / min(3, len(q.answers)))
            for answer, count in Counter(q.spelt).items()
            if answer in place
        }
        for q in questions
    ]
    return Scores(rows, len(place))


def answerable(questions: Sequence[Question], vocabulary: Sequence[str]) -> dict[str, tuple[int, float]]:
    """Type of question → (how many, share with a reference in the vocabulary); "" for all types together."""
    known, found = set(vocabulary), {"": []}
    for q in questions:
        for kind in ("", q.question_type):
            found.setdefault(kind, []).append(not known.isdisjoint(q.spelt))
    return {kind: (len(own), float(np.mean(own)) if own else 0.0) for kind, own in found.items()}


class Asked(Subset):
    """A source whose examples are questions about the pictures of another one.

    Columns: question, question_type, answer_type, answers ("|" between), which are texts, and picture (int64, index in
    `source`); of the other source's those that are numbers, for its texts would answer.

    Args:
        source: of the pictures.
        questions: Q, `image_id` an index into `source`.
        vocabulary: the classes. A question's label is the answer of its highest score (`targets`), 0 where it has none.

    Attributes:
        questions: as given.
        scores: (Q, K), see `targets`; where a row is 0, no class is right.
    """

    def __init__(self, source: Source, questions: Sequence[Question], vocabulary: Sequence[str]):
        super().__init__(source, np.asarray([q.image_id for q in questions], np.int64))
        if len(questions) and not 0 <= self.indices.min() <= self.indices.max() < len(source):
            raise ValueError(f"a question is about a picture that is not among the {len(source)}")
        self.questions, self.class_names = tuple(questions), tuple(vocabulary)
        self.scores = targets(questions, vocabulary)
        self._labels = self.scores.best

    @property
    def labels(self) -> np.ndarray:
        return self._labels

    @property
    def names(self) -> Sequence[str]:
        return [f"{name}: {q.question}" for name, q in zip(super().names, self.questions, strict=True)]

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        texts = {
            "question": [q.question for q in self.questions],
            "question_type": [q.question_type for q in self.questions],
            "answer_type": [q.answer_type for q in self.questions],
            "answers": ["|".join(q.answers) for q in self.questions],
        }
        inner = {key: value for key, value in super().columns.items() if value.dtype.kind in "iu"}
        return inner | {k: np.asarray(v, object) for k, v in texts.items()} | {"picture": self.indices}


def from_columns(source: Source) -> list[Question]:
    """The questions of a manifest: its columns question, answers ("|" between) and, where there is one, question_type.

    Answers come out in normal spelling; a type that is missing is the question's first two words.

    Raises:
        UserError: the source has no questions.
    """
    columns = source.columns
    if "question" not in columns or "answers" not in columns:
        raise UserError(
            f"{source.name} has no columns question and answers; its columns are {', '.join(columns) or 'none'}"
        )
    kinds = columns.get("question_type", [""] * len(source))
    found, first = [], {}
    for i, (text, given, kind) in enumerate(zip(columns["question"], columns["answers"], kinds, strict=True)):
        picture = first.setdefault(
            source.names[i], i
        )  # rows of one picture are questions about its first row
        references = tuple(answers_lib.normalise(a) for a in given.split("|") if a)
        if not any(references):
            raise UserError(f"{source.names[i]}: the question {text!r} has no answer")
        kind = kind or " ".join(text.lower().split()[:2])
        found.append(Question(i, picture, text, references, kind, answer_type(references)))
    return found


def answer_type(references: Sequence[str]) -> str:
    """ "yes/no", "number" or "other", by the most frequent reference."""
    counts = Counter(references)
    answer = max(counts, key=counts.__getitem__)
    if answer in ("yes", "no"):
        return "yes/no"
    return "number" if answer.replace(".", "", 1).isdigit() else "other"


def _made(question_id: int, image: int, kind: str, text: str, answers: Sequence[str]) -> Question:
    spelt = [answers_lib.normalise(a) for a in answers]
    references = tuple(spelt[k * len(spelt) // REFERENCES] for k in range(REFERENCES))
    return Question(question_id, image, text, references, kind, answer_type(references))


def _contrary(categories: Sequence[str], seed: int) -> dict[str, tuple[set[int], set[int]]]:
    """category → examples that are asked whether they are one: as many that are as that are not."""
    out = {}
    labels = np.asarray(categories, object)
    for category in sorted(set(categories)):
        rng = np.random.default_rng([_STREAM, seed, *category.encode()])
        own, others = np.flatnonzero(labels == category), np.flatnonzero(labels != category)
        count = min(len(own), len(others))
        if count:
            yes, no = (rng.choice(part, count, replace=False) for part in (own, others))
            out[category] = set(yes.tolist()), set(no.tolist())
    return out


def _fair(question: str, answers: Sequence[str]) -> bool:
    """Whether no answer has a word of the question, the small ones aside."""
    asked = set(re.findall(r"\w{3,}", question))
    return not any(asked.intersection(re.findall(r"\w{3,}", answer)) for answer in answers)


def _singular(word: str) -> str:
    word = word.removesuffix("'s")
    if word.endswith("glasses"):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "ches", "shes", "xes")):
        return word[:-2]
    return (
        word[:-1]
        if word.endswith("s") and not word.endswith(("ss", "us", "is", "'s")) and len(word) > 3
        else word
    )
