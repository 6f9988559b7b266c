"""Reads and writes the JSON files of VQA v2: questions and answers (visualqa.org/download.html).

questions    {"questions": [{"image_id": 7, "question_id": 7000, "question": "What is this?"}, …]}
annotations  {"annotations": [{"question_id": 7000, "image_id": 7, "question_type": "what is", "answer_type": "other",
              "multiple_choice_answer": "dog",
                  "answers": [{"answer": "dog", "answer_confidence": "yes", "answer_id": 1}, …]}, …]}
results      [{"question_id": 7000, "answer": "dog"}, …], the input of the official evaluation
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from fusionjax import files
from fusionjax.data.vqa.questions import Question
from fusionjax.errors import UserError

TYPES = ("yes/no", "number", "other")
"""Values of `answer_type`."""
T = TypeVar("T", int, str, list)


def read(questions: str | Path, annotations: str | Path | None = None) -> list[Question]:
    """Reads questions and their answers; answers are not normalised.

    Args:
        questions: the file of questions.
        annotations: the file of answers; None for a test split without answers, whose questions have no answers and no types.

    Returns:
        Questions in the order of the first file.

    Raises:
        UserError: a file is missing, damaged or has another layout; a question has no annotation, or one about another image;
            a repeated id. The message names the file and the entry.
    """
    answers: dict[int, tuple[int, tuple[str, ...], str, str]] = {}
    if annotations is not None:
        for where, entry in _entries(annotations, "annotations"):
            given = _field(entry, "answers", list, where)
            references = tuple(
                sys.intern(_field(a, "answer", str, f"{where}, answers[{k}]")) for k, a in enumerate(given)
            )
            if not references:
                raise UserError(f"{where}: 'answers' is empty")
            kind = _field(entry, "answer_type", str, where)
            if kind not in TYPES:
                raise UserError(f"{where}: answer_type {kind!r} is not one of {', '.join(TYPES)}")
            key = _field(entry, "question_id", int, where)
            if key in answers:
                raise UserError(f"{where}: question_id {key} has two annotations")
            image, question_type = (
                _field(entry, "image_id", int, where),
                _field(entry, "question_type", str, where),
            )
            answers[key] = (image, references, question_type, kind)
    found: list[Question] = []
    seen: set[int] = set()
    for where, entry in _entries(questions, "questions"):
        key, image = (_field(entry, name, int, where) for name in ("question_id", "image_id"))
        text = _field(entry, "question", str, where)
        if key in seen:
            raise UserError(f"{where}: question_id {key} occurs twice")
        seen.add(key)
        if annotations is None:
            found.append(Question(key, image, text, (), "", ""))
            continue
        if key not in answers:
            raise UserError(f"{where}: question_id {key} has no annotation in {annotations}")
        other, references, question_type, kind = answers[key]
        if other != image:
            raise UserError(
                f"{where}: question_id {key} is about image {image}, its annotation about image {other}"
            )
        found.append(Question(key, image, text, references, question_type, kind))
    return found


def write(found: Sequence[Question], questions: str | Path, annotations: str | Path | None = None) -> None:
    """Writes the file of questions, and that of annotations unless it is None.

    Args:
        found: questions; they need answers where annotations are written.
        questions, annotations: paths of the files.

    Raises:
        UserError: a question without an answer.
    """
    rows = [{"image_id": q.image_id, "question_id": q.question_id, "question": q.question} for q in found]
    _dump(questions, {"questions": rows})
    if annotations is None:
        return
    for q in found:
        if not q.answers:
            raise UserError(f"question {q.question_id} ({q.question!r}) has no answer to write")
    _dump(annotations, {"annotations": [_annotation(q) for q in found]})


def write_results(path: str | Path, found: Sequence[Question], answers: Sequence[str]) -> None:
    """Writes the answers of a model, one per question, as input of the official evaluation.

    Args:
        path: file to write.
        found: Q questions.
        answers: Q answers.

    Raises:
        ValueError: different numbers of questions and answers.
    """
    if len(found) != len(answers):
        raise ValueError(f"{len(answers)} answers to {len(found)} questions")
    _dump(path, [{"question_id": q.question_id, "answer": a} for q, a in zip(found, answers, strict=True)])


def image_name(subtype: str, image_id: int) -> str:
    """The file name of an image of COCO: image_name("val2014", 42) is "COCO_val2014_000000000042.jpg"."""
    return f"COCO_{subtype}_{image_id:012d}.jpg"


def _annotation(q: Question) -> dict[str, object]:
    given = [{"answer": a, "answer_confidence": "yes", "answer_id": k} for k, a in enumerate(q.answers, 1)]
    return {
        "question_id": q.question_id, "image_id": q.image_id, "question_type": q.question_type,
        "answer_type": q.answer_type, "multiple_choice_answer": q.answer, "answers": given,
    }  # fmt: skip


def _entries(path: str | Path, key: str) -> list[tuple[str, object]]:
    """(position in the file, entry) of each entry of the list `key`."""
    try:
        content = json.loads(files.read_bytes(path).decode("utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: it must be VQA v2's file of {key}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from None
    rows = content.get(key) if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise UserError(f"{path} has no list {key!r}: it must be VQA v2's file of {key}")
    return [(f"{path} {key}[{i}]", row) for i, row in enumerate(rows)]


_KINDS: dict[type, str] = {int: "an integer", str: "a text", list: "a list"}


def _field(entry: object, name: str, kind: type[T], where: str) -> T:
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(f"{where}: {name!r} must be {_KINDS[kind]}")
    return value


def _dump(path: str | Path, content: object) -> None:
    Path(path).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
