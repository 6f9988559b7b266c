"""Creates a source of questions from a config: the images, the questions, and the vocabulary of answers."""

from collections.abc import Callable

from ml_collections import ConfigDict

from fusionjax.data.source import Source
from fusionjax.data.vqa import questions as questions_lib
from fusionjax.errors import UserError

KINDS = ("captions", "columns")
"""Values of `data.questions`: generated from captions and folders, or those of the source (columns of a manifest, VQA v2)."""


def question_source(
    source: Source, train: Callable[[], Source], data: ConfigDict, *, seed: int
) -> questions_lib.QuestionSource:
    """The questions about the images of a split; the classes are the answers of the training split.

    Args:
        source: the images of the split.
        train: returns the images of the training split; not called if `source` is the training split.
        data: `config.data`; `train_split`, `questions`, `question_types`, `answers` and `answer_pictures` are read.
        seed: seed of the generated questions.

    Raises:
        UserError: the source has no questions, none can be generated, or no answer is frequent enough.
    """
    own = _questions(source, data, seed)
    known = own if source.split == data.train_split else _questions(train(), data, seed)
    words = questions_lib.vocabulary(known, most=data.answers, least=data.answer_pictures)
    return questions_lib.QuestionSource(source, own, words)


def _questions(source: Source, data: ConfigDict, seed: int) -> list[questions_lib.Question]:
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
            f"config.data.questions='captions': {source.name} has no columns category and kind to generate questions from; a "
            "for a manifest with the columns question and answer, set 'columns'"
        )
    captions = list(columns["caption"]) if "caption" in columns else [""] * len(source)
    types = data.question_types or questions_lib.TYPES
    return questions_lib.generate(
        list(columns["category"]), list(columns["kind"]), captions, seed=seed, types=types
    )
