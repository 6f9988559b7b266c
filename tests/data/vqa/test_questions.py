"""Questions from captions and folders: balanced, deterministic, without the answer in their words; their vocabulary."""

from collections import Counter

import numpy as np
import pytest

from fusionjax.data.source import FileSource, Source
from fusionjax.data.vqa import questions as q
from fusionjax.errors import UserError

CATEGORIES = ["an animal"] * 12 + ["food"] * 6 + ["a military item"] * 3
KINDS = ["bird"] * 5 + ["dog"] * 4 + [""] * 3 + ["fruit"] * 6 + ["military vehicle"] * 3
CAPTIONS = (
    [f"A {c} heron." for c in "abcde"]
    + ["A dog!"] * 4
    + ["", "A cow.", "A frog"]
    + ["A pair of red apples."] * 6
    + ["A tank."] * 3
)


def made(seed=0, **how):
    return q.generate(CATEGORIES, KINDS, CAPTIONS, seed=seed, **how)


def test_generated_questions():
    found = made()
    assert found == made() != made(seed=1)
    ids = [x.question_id for x in found]
    assert ids == sorted(set(ids)) and {x.image_id for x in found} == set(range(21))
    own = {(x.question_type, x.question): x for x in found if x.image_id == 0}
    assert own["category", "what kind of thing is this?"].answers == ("animal",) * 10
    assert (
        own["is_it", "is this an animal?"].answer == "yes"
        and own["is_it", "is this an animal?"].answer_type == "yes/no"
    )
    assert own["which", "which animal is it?"].answers == ("bird",) * 10
    what = own["what", "what is this?"]
    assert (
        what.answers == ("heron",) * 5 + ("bird",) * 5
        and what.answer == "heron"
        and what.answer_type == "other"
    )
    asked = Counter(x.question_type for x in found)
    assert asked["category"] == 21 and asked["which"] == 15 and asked["what"] == 20
    assert {x.answer for x in found if x.image_id == 10 and x.question_type == "what"} == {"cow"}
    assert not [x for x in found if x.image_id == 9 and x.question_type in ("which", "what")]


def test_yes_is_as_frequent_as_no_for_each_wording():
    for seed in range(3):
        counts = Counter((x.question, x.answer) for x in made(seed) if x.question_type == "is_it")
        # Of twelve animals nine are asked about: there are but nine others to answer no.
        assert counts == {("is this an animal?", "yes"): 9, ("is this an animal?", "no"): 9, ("is this food?", "yes"): 6,
                          ("is this food?", "no"): 6, ("is this a military item?", "yes"): 3,
                          ("is this a military item?", "no"): 3}  # fmt: skip
    for x in made():
        if x.question_type == "is_it":
            assert (x.answer == "yes") == (x.question == f"is this {CATEGORIES[x.image_id]}?")
    alone = q.generate(["food"] * 4, [""] * 4, [""] * 4, seed=0)
    assert {x.question_type for x in alone} == {"category"}, "without a no there is no question"


def test_no_answer_is_among_the_words_of_its_question():
    for x in made():
        assert x.answer in ("yes", "no") or not set(x.question.strip("?").split()) & set(
            " ".join(x.answers).split()
        )
    assert not [x for x in made() if x.question_type == "which" and x.image_id >= 18], (
        "which military item: a military vehicle"
    )


def test_types_are_chosen():
    assert {x.question_type for x in made(types=("what", "which"))} == {"what", "which"}
    with pytest.raises(
        UserError, match="no type of question 'why'; allowed are category, is_it, which, what"
    ):
        made(types=("why",))
    with pytest.raises(ValueError, match="2 categories, 1 kinds and 2 captions"):
        q.generate(["a", "b"], ["c"], ["d", "e"], seed=0)


@pytest.mark.parametrize(("caption", "noun"), [
    ("A crow.", "crow"), ("A great blue heron.", "heron"), ("An “Uglifruit”", "uglifruit"), ("", ""), ("?!", ""),
    ("A pair of red shoes, new.", "shoe"), ("A bunch of grapes.", "grape"), ("Some cherries.", "cherry"),
    ("A pair of sunglasses.", "sunglasses"), ("The letter a with an umlaut.", "letter"), ("Seven.", "7"),
    ("A candy cane is a traditional treat in the United States.", "cane"), ("A glass of water.", "glass"),
    ("A peacock (a male peafowl).", "peacock"), ("Dollar sign.", "sign"), ("A wizard's hat.", "hat"), ("A bus.", "bus"),
    ("A baby sheep—a lamb.", "sheep"), ("Mercury—the planet closest to the Sun.", "mercury"), ("A dress.", "dress"),
    ("Fire! Fire! Fire!", "fire"), ("The green light means you can go.", "light"), ("Two city houses.", "house"),
    ("A hand-held drill.", "drill"), ("A bottle of apple juice", "bottle"), ("10 Japanese yen.", "yen"),
    ("A red and white flower.", "flower"), ("Two foxes.", "fox"), ("A computer mouse. Squeak!", "mouse"),
])  # fmt: skip
def test_the_noun_of_a_caption(caption, noun):
    assert q.head_noun(caption) == noun


def question(image, *answers, kind="what", text="what?"):
    return q.Question(image, image, text, answers, kind, q.answer_type(answers))


def test_the_vocabulary_is_of_answers_that_training_has_often():
    found = (
        [question(i, "cat", "pet") for i in range(4)]
        + [question(i, "dog") for i in range(4, 7)]
        + [question(9, "emu")]
    )
    found += [question(7, "pet"), question(7, "pet"), question(8, "ant", "bee"), question(8, "ant")]
    assert q.vocabulary(found) == ("pet", "cat", "dog")
    assert q.vocabulary(found, least=1) == ("pet", "cat", "dog", "ant", "bee", "emu")
    assert q.vocabulary(found, least=1, most=2) == ("pet", "cat")
    with pytest.raises(UserError, match="no answer belongs to 9 images of the training split"):
        q.vocabulary(found, least=9)


def test_targets_are_soft_scores():
    answers = [
        ("cat",) * 7 + ("dog",) * 2 + ("emu",),
        ("emu",),
        ("dog",),
        ("cat", "dog"),
        ("dog",) * 10,
        ("cat", "cat", "dog"),
    ]
    scores = q.targets([question(0, *a) for a in answers], ("dog", "cat"))
    want = np.array([[2 / 3, 1], [0, 0], [1, 0], [0.5, 0.5], [1, 0], [1 / 3, 2 / 3]])
    assert scores[0].dtype == np.float32 and scores.shape == (6, 2) and len(scores) == 6
    np.testing.assert_allclose(scores[:], want, rtol=1e-6)
    np.testing.assert_allclose(scores[[5, 1]], want[[5, 1]], rtol=1e-6)
    np.testing.assert_allclose(scores[3], want[3], rtol=1e-6)
    assert scores.best.tolist() == want.argmax(1).tolist()
    assert q.targets([], ("dog",))[:].shape == (0, 1)


def test_answers_of_a_file_count_in_normal_spelling():
    found = [question(i, "The Dog.", "a dog", "Two") for i in range(3)]
    assert q.vocabulary(found) == ("2", "dog") and found[0].answer == "dog"
    np.testing.assert_allclose(q.targets(found, ("2", "dog"))[0], [1 / 3, 2 / 3], rtol=1e-6)
    assert q.answerable(found, ("dog",))[""] == (3, 1.0)


def test_what_can_be_answered_is_said_by_type():
    found = [
        question(0, "cat"),
        question(1, "emu"),
        question(2, "emu", "cat"),
        question(3, "yes", kind="is_it"),
    ]
    assert q.answerable(found, ("cat", "yes")) == {"": (4, 0.75), "what": (3, 2 / 3), "is_it": (1, 1.0)}
    assert q.answerable([], ("cat",)) == {"": (0, 0.0)}


def pictures(tmp_path=None, **columns):
    names = [f"{i}.jpg" for i in range(5)]
    made = {k: np.asarray(v, object if isinstance(v[0], str) else np.int64) for k, v in columns.items()}
    return FileSource("Made", "train", ("a", "b"), np.zeros(5, np.int32), names, tmp_path, made)


def test_a_source_that_asks(tmp_path):
    (tmp_path / "3.jpg").write_bytes(b"three")
    inner = pictures(tmp_path, caption=list("vwxyz"), kind=list("vwxyz"), group=[4, 5, 6, 7, 8])
    found = [
        question(3, "cat", text="what is this?"),
        question(0, "emu"),
        question(3, "dog", "dog", "dog", "cat", "cat"),
    ]
    asked = q.QuestionSource(inner, found, ("cat", "dog"))
    assert (
        isinstance(asked, Source)
        and len(asked) == 3
        and asked.class_names == ("cat", "dog")
        and asked.split == "train"
    )
    assert asked.labels.tolist() == [0, 0, 1] and asked.labels.dtype == np.int32
    assert asked.scores[:].sum(1).tolist() == pytest.approx([1, 0, 5 / 3])
    assert (
        asked.names == ["3.jpg: what is this?", "0.jpg: what?", "3.jpg: what?"] and asked.load(0) == b"three"
    )
    columns = asked.columns
    assert sorted(columns) == ["answer_type", "answers", "group", "picture", "question", "question_type"]
    assert columns["picture"].tolist() == [3, 0, 3] and columns["group"].tolist() == [7, 4, 7]
    assert columns["answers"][2] == "dog|dog|dog|cat|cat"
    with pytest.raises(ValueError, match="not among the 5"):
        q.QuestionSource(inner, [question(5, "cat")], ("cat",))


def test_questions_of_a_manifest():
    texts = ["What colour is it?", "Is it red?", "How many?", "Which?", "Why?"]
    answers = ["Red|a red|Blue", "Yes.", "Two|2", "the Dog", "it's|its"]
    found = q.from_columns(pictures(question=texts, answers=answers))
    assert [x.answers for x in found] == [
        ("red", "red", "blue"),
        ("yes",),
        ("2", "2"),
        ("dog",),
        ("it's", "its"),
    ]
    assert [x.answer_type for x in found] == ["other", "yes/no", "number", "other", "other"]
    assert [x.question_type for x in found] == ["what colour", "is it", "how many?", "which?", "why?"]
    typed = q.from_columns(pictures(question=texts, answers=answers, question_type=["a", "", "b", "b", "b"]))
    assert [x.question_type for x in typed] == ["a", "is it", "b", "b", "b"] and typed[3].image_id == 3
    with pytest.raises(UserError, match="Made has no columns question and answers; its columns are caption"):
        q.from_columns(pictures(caption=list("abcde")))
    with pytest.raises(UserError, match=r"3\.jpg: the question 'Which\?' has no answer"):
        q.from_columns(pictures(question=texts, answers=[*answers[:3], "the", "x"]))
