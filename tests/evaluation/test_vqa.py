"""VQA v2's spelling of answers, its soft accuracy and its files, against what the official rules give by hand."""

import itertools
import json

import numpy as np
import pytest

from fusionjax.data.vqa import json_files
from fusionjax.data.vqa.answers import normalise
from fusionjax.data.vqa.questions import Question
from fusionjax.errors import UserError
from fusionjax.evaluation import vqa


@pytest.mark.parametrize(("given", "wanted"), [
    ("The  Dogs", "dogs"), ("a dog.", "dog"), ("3.5", "3.5"), ("2:50 PM", "2:50 pm"), ("girl's", "girl's"),
    ("dont", "don't"), ("couldntve", "couldntve"), ("couldn'tve", "couldn't've"), ("Isnt it", "isn't it"), ("let's", "let's"),
    ("two", "2"), ("None", "0"), ("TEN cats", "10 cats"), ("twenty", "twenty"), ("100,978", "100978"),
    ("red,blue", "red blue"), ("red, blue", "red blue"), ("black-and-white", "black and white"),
    ("black - white", "black white"),
    ("wow!", "wow"),
    ("yes\n", "yes"), ("a\tb c", "b c"), ("an apple/pear", "apple pear"), ("1,000 -x", "1000 x"), ("U.S.A.", "usa"),
    ("somebody'd", "somebodyd"), ("", ""), ("the", ""),
])  # fmt: skip
def test_spelling(given, wanted):
    assert normalise(given) == wanted
    assert normalise(wanted) == wanted


def by_definition(answer: str, references: list[str]) -> float:
    """The mean over all subsets of all but one of the people."""
    scores = [min(1, others.count(answer) / 3) for others in
              (list(c) for c in itertools.combinations(references, len(references) - 1))]  # fmt: skip
    return sum(scores) / len(scores)


def test_soft_accuracy_is_the_mean_over_leave_one_out_subsets(rng):
    for _ in range(100):
        references = [str(w) for w in rng.choice(["cat", "dog", "emu"], 10)]
        for answer in ("cat", "dog", "ant"):
            assert vqa.soft_accuracy(answer, references) == pytest.approx(by_definition(answer, references))
    table = [vqa.soft_accuracy("cat", ["cat"] * k + ["dog"] * (10 - k)) for k in range(11)]
    assert table == pytest.approx([0, 0.3, 0.6, 0.9] + [1] * 7)


def test_soft_accuracy_of_few_references():
    assert [
        vqa.soft_accuracy("cat", r) for r in (["cat"], ["dog"], ["cat"] * 2, ["cat"] * 3, ["cat"] * 4)
    ] == [1, 0, 1, 1, 1]
    assert vqa.soft_accuracy("cat", ["cat", "dog"]) == 0.5
    assert vqa.soft_accuracy("cat", ["cat", "cat", "dog"]) == pytest.approx((0.5 + 0.5 + 1) / 3)
    with pytest.raises(ValueError, match="at least one reference"):
        vqa.soft_accuracy("cat", [])


def test_spelling_counts_as_in_the_official_code():
    assert vqa.soft_accuracy("The DOG!", ["dog"] * 10) == 1
    # References lose their punctuation where they differ, and only there; articles and capitals they keep.
    assert vqa.soft_accuracy("hot dog", ["hot-dog"] * 9 + ["cat"]) == 1
    assert vqa.soft_accuracy("hot dog", ["hot-dog"] * 10) == 0
    assert vqa.soft_accuracy("dog", ["the dog"] * 9 + ["cat"]) == 0


def asked(number, answers, kind="what", text="what?", answer_type="other"):
    return Question(number, number, text, tuple(answers), kind, answer_type)


def test_accuracy_by_type():
    questions = [asked(1, ["cat"] * 10), asked(2, ["cat"] * 2 + ["dog"] * 8), asked(3, ["yes"], "is", answer_type="yes/no"),
                 asked(4, ["emu"] * 10)]  # fmt: skip
    found = vqa.evaluate(["cat", "cat", "no", "emu"], questions, ("cat", "yes", "no", "dog"))
    assert found.n == 4 and found.accuracy == pytest.approx((1 + 0.6 + 0 + 1) / 4) and found.exact == 0.5
    assert found.by_question_type == {"is": (1, 0.0), "what": (3, pytest.approx(2.6 / 3))}
    assert found.by_answer_type == {"other": (3, pytest.approx(2.6 / 3)), "yes/no": (1, 0.0)}
    assert found.answerable == 0.75 and vqa.evaluate(["x"] * 4, questions).answerable == 1
    assert sorted(found.scalars()) == ["accuracy", "accuracy/is", "accuracy/what", "answerable", "exact"]
    with pytest.raises(ValueError, match="1 answers to 4 questions"):
        vqa.evaluate(["cat"], questions)
    with pytest.raises(UserError, match="no question to evaluate"):
        vqa.evaluate([], [])


def test_a_blind_guess():
    training = [asked(i, [a], k, t) for i, (t, k, a) in enumerate([
        ("is it red?", "is", "no"), ("is it red?", "is", "yes"), ("is it red?", "is", "no"), ("is it blue?", "is", "yes"),
        ("is it big?", "is", "yes"), ("what is it?", "what", "cat"), ("what is it?", "what", "ant")])]  # fmt: skip
    questions = [asked(9, [], k, t) for t, k in
                 (("is it red?", "is"), ("is it old?", "is"), ("what is it?", "what"), ("why?", "why"))]  # fmt: skip
    assert vqa.question_prior(training, questions) == ["no", "yes", "ant", "yes"]


QUESTIONS = [
    Question(42000, 42, "What is “this”?", ("hund",) * 6 + ("größe",) * 4, "what is", "other"),
    Question(42001, 42, "Is it?", ("yes",) * 10, "is it", "yes/no"),
    Question(7000, 7, "How many?", ("2",) * 10, "how many", "number"),
]


def files(tmp_path):
    return tmp_path / "questions.json", tmp_path / "annotations.json"


def test_files_are_read_as_they_were_written(tmp_path):
    paths = files(tmp_path)
    json_files.write(QUESTIONS, *paths)
    assert json_files.read(*paths) == QUESTIONS
    bare = json_files.read(paths[0])
    assert [(x.question_id, x.image_id, x.question, x.answers, x.answer) for x in bare] == [
        (x.question_id, x.image_id, x.question, (), "") for x in QUESTIONS]  # fmt: skip
    entry = json.loads(paths[1].read_text())["annotations"][0]
    assert entry["multiple_choice_answer"] == "hund" and len(entry["answers"]) == 10
    assert entry["answers"][9] == {"answer": "größe", "answer_confidence": "yes", "answer_id": 10}
    assert json.loads(paths[0].read_text())["questions"][2] == {
        "image_id": 7,
        "question_id": 7000,
        "question": "How many?",
    }
    json_files.write_results(tmp_path / "results.json", QUESTIONS, ["hund", "no", "2"])
    assert json.loads((tmp_path / "results.json").read_text())[1] == {"question_id": 42001, "answer": "no"}
    assert json_files.image_name("val2014", 42) == "COCO_val2014_000000000042.jpg"


def test_files_with_a_byte_order_mark(tmp_path):
    paths = files(tmp_path)
    json_files.write(QUESTIONS, *paths)
    for path in paths:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert json_files.read(*paths) == QUESTIONS


def test_a_file_of_the_official_layout(tmp_path):
    """Fields beyond those that are needed, and the annotations in another order."""
    paths = files(tmp_path)
    answers = [{"answer": "net", "answer_confidence": "maybe", "answer_id": i} for i in range(1, 11)]
    paths[0].write_text(json.dumps({
        "info": {"version": "2.0"}, "task_type": "Open-Ended", "data_type": "mscoco", "license": {}, "data_subtype": "val2014",
        "questions": [{"image_id": 458752, "question": "What is this photo taken looking through?", "question_id": 458752000},
                      {"image_id": 458752, "question": "What position?", "question_id": 458752001}]}))  # fmt: skip
    paths[1].write_text(json.dumps({
        "info": {}, "license": {}, "data_subtype": "val2014", "data_type": "mscoco", "annotations": [
            {"question_type": "what", "multiple_choice_answer": "net", "answers": answers, "image_id": 458752,
             "answer_type": "other", "question_id": q} for q in (458752001, 458752000)]}))  # fmt: skip
    found = json_files.read(*paths)
    assert [q.question_id for q in found] == [458752000, 458752001] and found[0].answers == ("net",) * 10
    assert np.mean([vqa.soft_accuracy("net", q.answers) for q in found]) == 1


DAMAGE = {
    "annotations.json does not exist": lambda q, a: a.unlink(),
    "questions.json cannot be read as JSON": lambda q, a: q.write_text("{"),
    "questions.json has no list 'questions'": lambda q, a: q.write_text("[]"),
    r"questions.json questions\[1\]: 'question_id' must be an integer": lambda q, a: edit(
        q, 1, question_id="x"
    ),
    r"questions.json questions\[0\]: 'question' must be a text": lambda q, a: edit(q, 0, question=None),
    r"questions.json questions\[1\]: question_id 42000 occurs twice": lambda q, a: edit(
        q, 1, question_id=42000
    ),
    r"questions.json questions\[2\]: question_id 7 has no annotation in": lambda q, a: edit(
        q, 2, question_id=7
    ),
    r"questions\[2\]: question_id 7000 is about image 8, its annotation about image 7": lambda q, a: edit(
        q, 2, image_id=8
    ),
    r"annotations.json annotations\[1\]: 'answers' is empty": lambda q, a: edit(a, 1, answers=[]),
    r"annotations\[1\], answers\[0\]: 'answer' must be a text": lambda q, a: edit(a, 1, answers=[{}]),
    r"annotations\[0\]: answer_type 'colour' is not one of yes/no, number, other": lambda q, a: edit(
        a, 0, answer_type="colour"
    ),
    r"annotations\[1\]: question_id 42000 has two annotations": lambda q, a: edit(a, 1, question_id=42000),
}


def edit(path, i, **fields):
    content = json.loads(path.read_text())
    (rows,) = content.values()
    rows[i].update(fields)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("match", DAMAGE)
def test_damaged_files(tmp_path, match):
    paths = files(tmp_path)
    json_files.write(QUESTIONS, *paths)
    DAMAGE[match](*paths)
    with pytest.raises(UserError, match=match) as e:
        json_files.read(*paths)
    assert "\n" not in str(e.value)


def test_an_answer_must_be_there_to_be_written(tmp_path):
    with pytest.raises(UserError, match=r"question 5 \('what\?'\) has no answer to write"):
        json_files.write([asked(5, [])], *files(tmp_path))
    with pytest.raises(ValueError, match="1 answers to 3 questions"):
        json_files.write_results(tmp_path / "r.json", QUESTIONS, ["a"])
