"""What text a sample gets, what leaks the label, and what each mistake says."""

from collections import Counter

import numpy as np
import pytest

from fusionjax.data import text
from fusionjax.data.source import Subset
from fusionjax.data.text import Descriptions
from tests.data.sampling.test_class_selection import CLASSES, LABELS, TEXTS, trees_of
from tests.support.fake_tokenizer import PAD, expected, fails, plain


def described() -> Descriptions:
    return Descriptions(CLASSES, TEXTS)


def read_back(texts, row: int) -> list[int]:
    return texts.tokens[row][texts.mask[row]].tolist()


# --- captions


def test_instance_gives_each_example_its_own():
    captions = np.asarray(["red leaf", "green leaf", " red leaf ", "one two three"], object)
    texts = text.instance_texts(captions, "abcd", plain())
    assert texts.kind == "instance" and not texts.leaks and texts.warning == "" and texts.warnings == []
    assert texts.index.dtype == np.int32 and texts.index.shape == (4,) and texts.classes is None
    assert texts.tokens.shape == texts.mask.shape == (3, 16)
    for i, caption in enumerate(captions):
        for epoch in (None, 0, 5):
            assert read_back(texts, texts.row(epoch, i)) == expected(caption)


def test_instance_takes_numpy_texts():
    texts = text.instance_texts(np.array(["red", "blue"]), ["a", "b"], plain())
    assert [read_back(texts, r) for r in texts.rows(None, [1, 0])] == [expected("blue"), expected("red")]


def test_training_draws_among_texts_that_say_the_same():
    captions = [
        ("red", "rot", "rouge"),
        "blue",
        ("rot",),
        ("red", "rot", "rouge"),
        ["red", "", " "],
        ("", "vert"),
    ]
    texts = text.instance_texts(captions, "abcdef", plain(), allow_empty=True, seed=3)
    first = [read_back(texts, r) for r in texts.rows(None, range(6))]
    assert first == [expected("red"), expected("blue"), expected("rot"), expected("red"), expected("red"), []]
    assert texts.choices.tolist() == [3, 1, 1, 3, 1, 1] and texts.index[0] == texts.index[3]
    drawn = Counter(tuple(read_back(texts, texts.row(e, 0))) for e in range(300))
    assert set(drawn) == {tuple(expected(t)) for t in captions[0]} and min(drawn.values()) > 70
    for i in (1, 2, 4, 5):
        assert all(read_back(texts, texts.row(e, i)) == first[i] for e in range(20))
    again = text.instance_texts(captions, "abcdef", plain(), allow_empty=True, seed=4)
    assert [texts.row(e, 0) for e in range(50)] != [again.row(e, 0) for e in range(50)]
    assert [texts.row(e, 0) for e in range(50)] != [texts.row(e, 3) for e in range(50)]


def test_translations_of_a_source():
    lines = np.asarray(["a\nb", "c", "", "d", "e", "f", "g", "h\ni\nj"], object)
    found = text.translations(Subset(trees_of(columns={"translations": lines}), [7, 2, 1]))
    assert found == [("h", "i", "j"), ("",), ("c",)]
    captions = np.asarray(list("abcdefgh"), object)
    assert text.translations(trees_of(columns={"caption": captions}))[:2] == [("a",), ("b",)]
    fails("Trees has no column caption", text.translations, trees_of())


def test_captions_of_a_source():
    source = trees_of(columns={"identity": np.arange(8), "caption": np.asarray(list("abcdefgh"), object)})
    assert list(text.captions(Subset(source, np.array([3, 1])))) == ["d", "b"]
    fails("Trees has no column caption; its columns are identity:", text.captions,
          trees_of(columns={"identity": np.arange(8)}))  # fmt: skip
    fails("its columns are none:", text.captions, trees_of())


def test_empty_captions():
    captions, names = ["red", "", "blue", " ", "~"], [f"{c}.jpg" for c in "abcde"]
    fails(r"caption of b\.jpg has no word in it, nor have 2 others: write one, or set config.text.allow_empty=True",
          text.instance_texts, captions, names, plain())  # fmt: skip
    fails(
        r"caption of e\.jpg has no word in it: ", text.instance_texts, ["a", "~"], ["d.jpg", "e.jpg"], plain()
    )
    texts = text.instance_texts(captions, names, plain(), allow_empty=True)
    rows = texts.rows(None, range(5))
    assert texts.mask[rows].any(1).tolist() == [True, False, True, False, False]
    assert (texts.tokens[rows[1]] == PAD).all()
    assert texts.notes == ("3 of 5 captions have no word in them and are masked, the first that of b.jpg",)


def test_captions_that_are_no_texts():
    fails(
        r"the caption of b is not a text but float", text.instance_texts, ["red", float("nan")], "ab", plain()
    )
    fails(r"the caption of a is not a text but NoneType", text.instance_texts, [None, "red"], "ab", plain())
    fails(r"the caption of a holds half of a surrogate pair", text.instance_texts, ["\ud800"], "a", plain())
    with pytest.raises(ValueError, match="1 captions of 2 examples"):
        text.instance_texts(["red"], "ab", plain())


def test_long_captions_are_counted_by_example():
    long = "word " * 9
    texts = text.instance_texts(["a", long, "b", long], ["p", "q", "r", "s"], plain(max_tokens=10))
    assert texts.notes == (
        "2 of 4 captions are longer than 10 tokens (max_tokens) and were truncated, the first that of q",
    )
    assert texts.warnings == list(texts.notes)
    assert read_back(texts, texts.row(None, 3)) == expected(long, 10)
    assert text.instance_texts(["word " * 8], "a", plain(max_tokens=10)).notes == ()


def test_captions_that_are_class_descriptions_in_disguise():
    labels = np.repeat([0, 1], 30)
    disguised = [TEXTS[c][0] for c in labels]

    def warning(captions):
        return text.instance_texts(
            captions, [str(i) for i in range(60)], plain(), labels=labels, allow_empty=True
        ).warning

    assert warning(disguised).startswith("This score may be no measurement: 60 images share 2 captions")
    assert warning([f"{c} {i % 3}" for i, c in enumerate(disguised)])
    assert warning([f"{c} {i % 4}" for i, c in enumerate(disguised)]) == ""
    assert warning(["same for all"] * 60) == ""
    assert warning([*disguised[:-1], disguised[0]]) == ""
    assert warning(["", *disguised[1:-10], *[""] * 10]) != ""
    assert text.instance_texts(disguised, [str(i) for i in range(60)], plain()).warning == ""


# --- the bank and the true class


def test_bank_is_every_description_in_order():
    texts = text.bank_texts(described(), plain())
    assert texts.kind == "bank" and not texts.leaks and texts.index is None and texts.warnings == []
    assert [read_back(texts, r) for r in range(6)] == [expected(t) for own in TEXTS for t in own]
    assert texts.classes.tolist() == [0, 0, 1, 2, 2, 2] and texts.classes.dtype == np.int32
    with pytest.raises(ValueError, match="no row of an example"):
        texts.row(None, 0)


def test_class_is_refused_unless_it_is_allowed():
    fails("text kind 'class' .* choose 'bank' or 'instance', or set allow_label_leak=True",
          text.class_texts, described(), LABELS, plain())  # fmt: skip
    training = text.class_texts(described(), LABELS, plain(), training=True)
    assert training.leaks and not training.evaluable and training.warning == ""
    assert training.rows(3, range(8)).shape == (8,)
    fails("allow_label_leak=True", training.row, None, 0)
    fails("allow_label_leak=True", training.rows, None, [1])
    both = text.class_texts(described(), LABELS, plain(), training=True, allow_label_leak=True)
    for texts in (both, text.class_texts(described(), LABELS, plain(), allow_label_leak=True)):
        assert texts.leaks and texts.evaluable
        assert texts.warnings[0] == texts.warning
        assert texts.warning.startswith("This score is not a measurement: ") and "\n" not in texts.warning


def test_class_gives_the_first_description_at_evaluation():
    texts = text.class_texts(described(), LABELS, plain(), allow_label_leak=True)
    for i, c in enumerate(LABELS):
        assert read_back(texts, texts.row(None, i)) == expected(TEXTS[c][0])
    rows = texts.rows(None, [2, -1, 0])
    assert rows.dtype == np.int32 and rows.tolist() == [3, 0, 0]
    assert texts.row(0, -1) == 0  # padding of a batch


def test_class_draws_one_of_its_descriptions_in_training():
    labels = np.tile(LABELS, 50)
    one, same, other = (
        text.class_texts(described(), labels, plain(), training=True, seed=s) for s in (0, 0, 1)
    )
    for epoch in (0, 1):
        rows = one.rows(epoch, range(400))
        assert (one.classes[rows] == labels).all()
        assert rows.tolist() == same.rows(epoch, range(400)).tolist()
        assert rows.tolist() != other.rows(epoch, range(400)).tolist()
        # Whatever came before: an example's draw is its own.
        assert one.row(epoch, 7) == rows[7]
        counts = Counter(rows.tolist())
        assert set(counts) == set(range(6)) and counts[2] == 100
        for row, mean in ((0, 75), (1, 75), (3, 50), (4, 50), (5, 50)):
            assert abs(counts[row] - mean) < 5 * mean**0.5
    assert one.rows(0, range(400)).tolist() != one.rows(1, range(400)).tolist()


def test_descriptions_that_are_cut_or_have_no_word():
    long = Descriptions(("a", "b"), (("one",), ("two", "word " * 9)), ("a note",))
    for texts in (
        text.bank_texts(long, plain(max_tokens=10)),
        text.class_texts(long, np.array([0, 1]), plain(max_tokens=10), training=True),
    ):
        assert texts.notes == (
            "a note",
            "1 of 3 descriptions are longer than 10 tokens (max_tokens) and were truncated, the first one of class 'b'",
        )
    fails(
        "a description of class 'b' has no word",
        text.bank_texts,
        Descriptions(("a", "b"), (("x",), ("~",))),
        plain(),
    )
    with pytest.raises(ValueError, match="not below 3 classes"):
        text.class_texts(described(), np.array([3]), plain(), training=True)


# --- the label-permutation test


@pytest.mark.parametrize("sizes", [(4, 4), (1, 1), (3, 5, 2), (1, 9), (7, 2, 2), (10, 10, 10, 1)])
def test_permuted(sizes):
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(sizes)) + 5, sizes))
    out = text.permuted(labels, 0)
    assert sorted(out) == sorted(labels)
    stays = int((out == labels).sum())
    # The largest class keeps what the others have no room for, and no other example keeps its label.
    assert stays == max(0, 2 * max(sizes) - sum(sizes))
    if sum(sizes) > 10:
        assert text.permuted(labels, 1).tolist() != out.tolist()
    np.testing.assert_array_equal(out, text.permuted(labels, 0))


def test_permutation_needs_two_classes():
    fails("two classes or more", text.permuted, np.zeros(4, int), 0)
    fails("two classes or more", text.depends_on_labels, lambda labels: None, np.zeros(4, int), 0)


@pytest.mark.parametrize("seed", range(3))
def test_label_permutation_tells_the_kinds_apart(seed):
    captions, names = [f"caption {i}" for i in range(8)], [str(i) for i in range(8)]
    made = {
        "instance": lambda labels: text.instance_texts(captions, names, plain(), labels=labels),
        "bank": lambda labels: text.bank_texts(described(), plain()),
        "class": lambda labels: text.class_texts(
            described(), labels, plain(), seed=seed, allow_label_leak=True
        ),
        "class in training": lambda labels: text.class_texts(described(), labels, plain(), training=True),
        "no difference": lambda labels: text.class_texts(
            Descriptions(CLASSES, (("same",),) * 3), labels, plain(), training=True
        ),
    }
    found = {kind: text.depends_on_labels(make, LABELS, seed) for kind, make in made.items()}
    assert found == {
        "instance": False, "bank": False, "class": True, "class in training": True, "no difference": False,
    }  # fmt: skip


def test_label_permutation_finds_hidden_look_ups():
    def captions_by_label(labels):
        return text.instance_texts([TEXTS[c][0] for c in labels], list("abcdefgh"), plain())

    def sorted_bank(labels):
        order = np.argsort([int((labels[:2] != c).all()) for c in range(3)], kind="stable")
        return text.bank_texts(Descriptions(CLASSES, tuple(TEXTS[c] for c in order)), plain())

    def now_and_then(labels):
        return captions_by_label(labels) if labels[0] == LABELS[0] else text.bank_texts(described(), plain())

    def later_alone(labels):
        own = tuple(("first", *extra) for extra in (("p",), ("q",), ("r",)))
        return text.class_texts(
            Descriptions(CLASSES, own), labels, plain(), training=True, allow_label_leak=True
        )

    for make in (captions_by_label, sorted_bank, now_and_then, later_alone):
        assert text.depends_on_labels(make, LABELS, 0)


def test_label_permutation_ignores_padding():
    width = iter((16, 48))

    def make(labels):
        texts = text.bank_texts(described(), plain())
        wide = next(width) - 16
        pad = lambda x, value: np.pad(x, ((0, 0), (0, wide)), constant_values=value)  # noqa: E731
        return text.Texts("bank", pad(texts.tokens, 7), pad(texts.mask, False))

    assert not text.depends_on_labels(make, LABELS, 0)
