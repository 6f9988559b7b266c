"""Questions and answers in the JSON files of VQA v2 (visualqa.org/download.html), read and written.

questions    {"questions": [{"image_id": 7, "question_id": 7000, "question": "What is this?"}, …]}
annotations  {"annotations": [{"question_id": 7000, "image_id": 7, "question_type": "what is", "answer_type": "other",
              "multiple_choice_answer": "dog",
                  "answers": [{"answer": "dog", "answer_confidence": "yes", "answer_id": 1}, …]}, …]}
results      [{"question_id": 7000, "answer": "dog"}, …], which the official evaluation takes
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusionjax.data.vqa.questions import Question
from fusionjax.errors import UserError

TYPES = ("yes/no", "number", "other")


def read(questions: str | Path, annotations: str | Path | None = None) -> list[Question]:
    """Questions, with their answers as they are written there.

    Args:
        questions: the file of questions.
        annotations: that of answers; None for a test without, whose questions then have none, and no types.

    Returns:
        In the order of the first file.

    Raises:
        UserError: a file is missing, damaged or of another layout; a question without an annotation, or about another image
            than its annotation; an id twice. One line with the file and the entry.
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
                raise UserError(f"{where}: question_id {key} has an annotation already")
            image, question_type = (
                _field(entry, "image_id", int, where),
                _field(entry, "question_type", str, where),
            )
            answers[key] = (image, references, question_type, kind)
    found, seen = [], set()
    for where, entry in _entries(questions, "questions"):
        key, image = (_field(entry, name, int, where) for name in ("question_id", "image_id"))
        text = _field(entry, "question", str, where)
        if key in seen:
            raise UserError(f"{where}: question_id {key} is there already")
        seen.add(key)
        if annotations is None:
            found.append(Question(key, image, text, (), "", ""))
            continue
        if key not in answers:
            raise UserError(f"{where}: question_id {key} has no annotation in {annotations}")
        other, *rest = answers[key]
        if other != image:
            raise UserError(
                f"{where}: question_id {key} is about image {image}, its annotation about image {other}"
            )
        found.append(Question(key, image, text, *rest))
    return found


def write(found: Sequence[Question], questions: str | Path, annotations: str | Path | None = None) -> None:
    """The two files; without a name for the second, only the questions.

    Args:
        found: questions; with answers where annotations are written.
        questions, annotations: files to write.

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
    """A model's answers, one a question, as the official evaluation takes them."""
    if len(found) != len(answers):
        raise ValueError(f"{len(answers)} answers to {len(found)} questions")
    _dump(path, [{"question_id": q.question_id, "answer": a} for q, a in zip(found, answers, strict=True)])


def image_name(subtype: str, image_id: int) -> str:
    """COCO's file of an image: image_name("val2014", 42) is "COCO_val2014_000000000042.jpg"."""
    return f"COCO_{subtype}_{image_id:012d}.jpg"


def _annotation(q: Question) -> dict[str, Any]:
    given = [{"answer": a, "answer_confidence": "yes", "answer_id": k} for k, a in enumerate(q.answers, 1)]
    return {
        "question_id": q.question_id, "image_id": q.image_id, "question_type": q.question_type,
        "answer_type": q.answer_type, "multiple_choice_answer": q.answer, "answers": given,
    }  # fmt: skip


def _entries(path: str | Path, key: str) -> list[tuple[str, Mapping[str, Any]]]:
    """(where it stands, entry) of a file's list."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: it must be VQA v2's file of {key}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from None
    rows = content.get(key) if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise UserError(f"{path} has no list {key!r}: it must be VQA v2's file of {key}")
    return [(f"{path} {key}[{i}]", row) for i, row in enumerate(rows)]


def _field(entry: Any, name: str, kind: type, where: str) -> Any:
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        words = {int: "a whole number", str: "a text", list: "a list"}[kind]
        raise UserError(f"{where}: {name!r} must be {words}")
    return value


def _dump(path: str | Path, content: Any) -> None:
    Path(path).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
