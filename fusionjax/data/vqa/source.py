"""From a config to a source of questions: whose pictures, which questions, and the answers that training knows."""

from collections.abc import Callable
from typing import Any

from fusionjax.data.source import Source
from fusionjax.data.vqa import questions as questions_lib
from fusionjax.errors import UserError

KINDS = ("captions", "columns")
"""Values of `data.questions`: made from captions and folders, or the source's own: a manifest's columns, VQA v2's files."""


def asked(source: Source, train: Callable[[], Source], data: Any, *, seed: int) -> questions_lib.Asked:
    """A split's pictures as questions about them; the classes are the answers of the training split.

    Args:
        source: the split.
        train: gives the training split; not called where `source` is it.
        data: `config.data`; `questions`, `question_types`, `answers` and `answer_pictures` are read.
        seed: of the questions that are made.

    Raises:
        UserError: no questions can be made of this source, or no answer is frequent enough.
    """
    own = _questions(source, data, seed)
    known = own if source.split == data.train_split else _questions(train(), data, seed)
    words = questions_lib.vocabulary(known, most=data.answers, least=data.answer_pictures)
    return questions_lib.Asked(source, own, words)


def _questions(source: Source, data: Any, seed: int) -> list[questions_lib.Question]:
    if data.questions == "columns":
        own = getattr(source, "questions", None)
        return questions_lib.from_columns(source) if own is None else list(own)
    if data.questions != "captions":
        raise UserError(
            f"config.data.questions={data.questions!r} is not possible: allowed are {', '.join(KINDS)}"
        )
    columns = source.columns
    if "category" not in columns or "kind" not in columns:
        raise UserError(
            f"config.data.questions='captions': {source.name} has no columns category and kind to make questions of; a "
            "manifest with the columns question and answer takes 'columns'"
        )
    captions = columns.get("caption", [""] * len(source))
    types = data.question_types or questions_lib.TYPES
    return questions_lib.generate(columns["category"], columns["kind"], captions, seed=seed, types=types)
