"""Questions about images: generated from captions and folders, the vocabulary of their answers, and a source of questions.

**No leak of the answer.** The words of a generated question come from class names only, never from the caption, and do not
contain an answer. `QuestionSource` removes the columns that would answer the question: names and captions. For each wording,
yes is as frequent as no, so the words alone do not determine the answer.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fusionjax.data.source import Source, Subset, listed_columns
from fusionjax.data.vqa import answers as answers_lib
from fusionjax.errors import UserError

TYPES = ("category", "is_it", "which", "what")
"""Types of question that `generate` creates: "what kind of thing is this?", "is this an animal?", "which animal is it?", "what
is this?"."""
REFERENCES = 10
"""The number of reference answers per question, as in VQA v2."""
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
    """One question about one image.

    Attributes:
        question_id: integer, unique in its split.
        image_id: the index of the image in its source for `generate` and `from_columns`, else the id in the file.
        question: the text.
        answers: reference answers: normalised where this library created them, unchanged from a file of VQA v2, whose accuracy
            is defined on these; ten in VQA v2, empty where unknown.
        question_type, answer_type: as in VQA v2; an answer is "yes/no", "number" or "other".
    """

    question_id: int
    image_id: int
    question: str
    answers: tuple[str, ...]
    question_type: str
    answer_type: str

    @property
    def normalised(self) -> tuple[str, ...]:
        """The normalised reference answers, the basis of vocabularies and targets."""
        return tuple(map(answers_lib.normalise, self.answers))

    @property
    def answer(self) -> str:
        """The most frequent normalised reference answer, the first of equally frequent ones; "" where there is none."""
        counts = Counter(self.normalised)
        return max(counts, key=counts.__getitem__) if counts else ""


def generate(
    categories: Sequence[str],
    kinds: Sequence[str],
    captions: Sequence[str],
    *,
    seed: int,
    types: Sequence[str] = TYPES,
) -> list[Question]:
    """Generates questions about the examples of one split; the result depends on the arguments only.

    - **category**: "what kind of thing is this?": the category.
    - **is_it**: "is this an animal?": for each category equally many examples inside and outside of it, the latter drawn from
      all others, so that each wording has as many yes as no.
    - **which**: "which animal is it?": the kind, where there is one.
    - **what**: "what is this?": the noun of the caption. Where there is a kind too, it makes up half of the ten references:
      "bird" is a correct answer for a rosella. Examples without a caption get no such question.

    A question whose words contain an answer is omitted ("which vehicle is it?": military vehicle).

    Args:
        categories: N nouns with their article, "an animal", "food".
        kinds: N nouns within the category, e.g. "bird"; "" where there is none.
        captions: N texts, in English; "" where there is none.
        seed: seed of the draw of the examples outside of a category.
        types: the types of `TYPES` to create.

    Returns:
        Questions in the order of the examples, then of `TYPES`.

    Raises:
        UserError: an unknown type.
        ValueError: sequences of different lengths.
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
        rows: list[tuple[str, str, tuple[str, ...]]] = [("category", "what kind of thing is this?", (thing,))]
        yes = category in asked_no
        rows += [("is_it", f"is this {category}?", ("yes",))] if yes and i in asked_no[category][0] else []
        rows += [("is_it", f"is this {c}?", ("no",)) for c, (_, no) in asked_no.items() if i in no]
        rows += [("which", f"which {thing} is it?", (kind,))] if kind else []
        rows += [("what", "what is this?", (noun, kind) if kind else (noun,))] if noun else []
        rows = [row for row in rows if row[0] in types and _fair(row[1], row[2])]
        found += [_made(100 * i + k, i, *row) for k, row in enumerate(rows)]
    return found


def head_noun(caption: str) -> str:
    """The head noun of an English caption, normalised; "" where none is found.

    A heuristic: the last word before the first full stop, comma, preposition or verb of the first sentence; in "a pair of
    white pants" the part after "of" is used; single letters and digits are ignored, and a plural becomes a singular.

    >>> head_noun("A great blue heron."), head_noun("A pair of red shoes, new."), head_noun("The letter a with an umlaut.")
    ('heron', 'shoe', 'letter')
    """
    text = re.sub(r"[“”\"„]", "", caption.strip().lower().replace("’", "'"))
    text = _ARTICLES.sub("", re.split(r"[.,!?;:()–—…]| - ", text.strip(" –—-"))[0].strip())
    text = _END.split(_MEASURE.sub("", text))[0]
    words = [w for w in re.findall(r"[^\W\d_][\w'-]+", text) if len(w) > 1]
    return answers_lib.normalise(_singular(words[-1])) if words else ""


def vocabulary(questions: Iterable[Question], *, most: int = 1000, least: int = 3) -> tuple[str, ...]:
    """The vocabulary: the answers that are frequent enough in training.

    Args:
        questions: questions of the training split.
        most: maximum number of answers.
        least: minimum number of images per answer.

    Returns:
        Answers by decreasing frequency; equally frequent ones in alphabetical order.

    Raises:
        UserError: no answer is frequent enough.
    """
    pictures: dict[str, set[int]] = {}
    for q in questions:
        for answer in set(q.normalised):
            pictures.setdefault(answer, set()).add(q.image_id)
    enough = [a for a, own in pictures.items() if len(own) >= least]
    if not enough or most < 1:
        raise UserError(
            f"no answer belongs to {least} images of the training split: lower config.data.answer_pictures, or add questions "
            f"(config.data.answers={most})"
        )
    return tuple(sorted(enough, key=lambda a: (-len(pictures[a]), a))[:most])


class Scores:
    """A sparse matrix of soft scores (Q, K): only non-zero scores are stored, rows are created when they are read.

    Args:
        rows: for each of Q questions {index of the answer: score}.
        width: K.

    Attributes:
        shape: (Q, K).
        best: (Q,) int32, the answer with the highest score, the first of equal ones; 0 where a question has none.
    """

    def __init__(self, rows: Sequence[Mapping[int, float]], width: int):
        self.shape = (len(rows), width)
        most = max(map(len, rows), default=0)
        # An additional column K receives the fill of short rows.
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

    def __getitem__(self, key: int | slice | Sequence[int] | np.ndarray) -> np.ndarray:
        """(K,) float32 for an index, (M, K) for several indices or a slice."""
        places = np.asarray(self._places[key])
        out = np.zeros((*places.shape[:-1], self.shape[1] + 1), np.float32)
        np.put_along_axis(out, places, self._values[key], -1)
        return out[..., :-1]


def targets(questions: Sequence[Question], vocabulary: Sequence[str]) -> Scores:
    """Soft target scores: min(1, equal references / 3); with fewer than three references, the fraction of equal ones.

    Args:
        questions: Q questions.
        vocabulary: K answers.

    Returns:
        (Q, K); the row is 0 where no reference is in the vocabulary.
    """
    place = {answer: k for k, answer in enumerate(vocabulary)}
    rows = [
        {
            place[answer]: min(1.0, count / min(3, len(q.answers)))
            for answer, count in Counter(q.normalised).items()
            if answer in place
        }
        for q in questions
    ]
    return Scores(rows, len(place))


def answerable(questions: Sequence[Question], vocabulary: Sequence[str]) -> dict[str, tuple[int, float]]:
    """The coverage of a vocabulary.

    Args:
        questions: questions.
        vocabulary: K answers.

    Returns:
        Type of question → (number of questions, fraction with a reference in the vocabulary); "" for all types together.
    """
    known = set(vocabulary)
    found: dict[str, list[bool]] = {"": []}
    for q in questions:
        for kind in ("", q.question_type):
            found.setdefault(kind, []).append(not known.isdisjoint(q.normalised))
    return {kind: (len(own), float(np.mean(own)) if own else 0.0) for kind, own in found.items()}


class QuestionSource(Subset):
    """A source whose examples are questions about the images of another source.

    Columns: question, question_type, answer_type, answers (separated by "|"), which are texts, picture (int64, index in
    `source`), and the integer columns of `source`; its texts are left out, as they would answer the question.

    Args:
        source: the source of the images.
        questions: Q questions whose `image_id` is an index into `source`.
        vocabulary: the classes, K answers. The label of a question is the answer with the highest score (`targets`), 0 where
            there is none.

    Attributes:
        questions: Q questions.
        scores: (Q, K), see `targets`; where a row is 0, no class is correct.
    """

    def __init__(self, source: Source, questions: Sequence[Question], vocabulary: Sequence[str]):
        super().__init__(source, np.asarray([q.image_id for q in questions], np.int64))
        if len(questions) and not 0 <= self.indices.min() <= self.indices.max() < len(source):
            raise ValueError(f"a question is about an image that is not among the {len(source)}")
        self.questions, self.class_names = tuple(questions), tuple(vocabulary)
        self.scores = targets(questions, vocabulary)
        self._labels = self.scores.best

    def take(self, rows: np.ndarray, split: str) -> "QuestionSource":
        """See `data.source.take`."""
        found = QuestionSource(self.source, [self.questions[i] for i in rows.tolist()], self.class_names)
        found.split = split
        return found

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
    """The questions of a manifest: its columns question, answers (separated by "|") and, optionally, question_type.

    Answers are normalised; a missing type is replaced by the first two words of the question.

    Raises:
        UserError: the source has no such columns, or a question has no answer.
    """
    columns = source.columns
    if "question" not in columns or "answers" not in columns:
        raise UserError(
            f"{source.name} has no columns question and answers; its columns are {listed_columns(source)}"
        )
    kinds = list(columns["question_type"]) if "question_type" in columns else [""] * len(source)
    found: list[Question] = []
    first: dict[str, int] = {}
    for i, (text, given, kind) in enumerate(zip(columns["question"], columns["answers"], kinds, strict=True)):
        # Rows with the same image are questions about the first of them.
        picture = first.setdefault(source.names[i], i)
        references = tuple(answers_lib.normalise(a) for a in given.split("|") if a)
        if not any(references):
            raise UserError(f"{source.names[i]}: the question {text!r} has no answer")
        kind = kind or " ".join(text.lower().split()[:2])
        found.append(Question(i, picture, text, references, kind, answer_type(references)))
    return found


def answer_type(references: Sequence[str]) -> str:
    """ "yes/no", "number" or "other", by the most frequent of the normalised references (at least one)."""
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
    """category → (examples inside, examples outside) that get the question "is_it", equally many."""
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
    """Whether no answer shares a word of three or more letters with the question."""
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
