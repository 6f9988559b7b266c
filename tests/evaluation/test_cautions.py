"""What a reader must know before the scores, from arrays alone."""

import numpy as np
import pytest

from fusionjax.evaluation import cautions
from fusionjax.evaluation.probe import Baseline

NAMES = ["oak", "elm", "ash"]


def answered(label, prediction):
    label, prediction = np.asarray(label), np.asarray(prediction)
    return {"label": label, "prediction": prediction, "correct": (label == prediction).astype(np.uint8)}


def test_classes_that_are_never_predicted_or_never_correctly():
    assert cautions.classes(answered([0, 1, 2, 0], [0, 1, 2, 1]), NAMES) == []
    found = cautions.classes(answered([0, 1, 2, 0], [0, 0, 0, 1]), NAMES)
    assert found == [
        "1 of 3 classes is never predicted: 'ash'",
        "1 of 3 classes is predicted, but never correctly (recall 0): 'elm'",
    ]
    many = cautions.classes(answered(range(10), [0] * 10), [f"c{i}" for i in range(10)])
    assert many == ["9 of 10 classes are never predicted: 'c1', 'c2', 'c3', 'c4', 'c5' and 4 more"]


def test_a_class_without_an_example_is_not_missed():
    assert cautions.classes(answered([0, 0, 1], [0, 0, 1]), NAMES) == []
    assert cautions.classes({"average_precision": np.ones(3)}, NAMES) == []


def test_the_majority_class_on_the_same_examples():
    label = np.repeat([0, 1, 2], [200, 50, 50])
    constant = answered(label, np.zeros_like(label))
    (line,) = cautions.not_above(constant, NAMES)
    assert line.startswith(
        "accuracy 66.7 % is not above the majority class (always answering 'oak'), 66.7 % (on the"
    )
    slightly = answered(label, np.where(np.arange(300) < 205, np.where(np.arange(300) < 200, 0, 1), 0))
    assert (
        slightly["correct"].mean() > 2 / 3
    )  # better by 5 answers, none lost: the paired interval excludes 0
    assert cautions.not_above(slightly, NAMES) == []
    swapped = slightly["prediction"].copy()
    swapped[:4] = 2  # 5 gained, 4 lost
    (line,) = cautions.not_above(answered(label, swapped), NAMES)
    assert (
        line.startswith("accuracy 67.0 % is not clearly above")
        and "95 % interval of the difference −" in line
    )


def test_a_reference_paired_where_its_answers_are_known():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 400)
    run = answered(label, np.where(rng.random(400) < 0.8, label, 1 - label))
    worse = run["correct"].copy()
    worse[np.flatnonzero(worse)[:12]] = 0  # a subset: paired, the difference is certain
    paired = Baseline("probe", "Probe", float(worse.mean()), "", "correct", worse)
    assert cautions.not_above(run, ["a", "b"], [paired]) == []
    (line,) = cautions.not_above(
        run, ["a", "b"], [Baseline("probe", "Probe", float(worse.mean()), "", "correct")]
    )
    assert line.startswith("accuracy") and "is not clearly above “Probe”" in line and "difference" not in line
    other = [
        Baseline("x", "X", 1.0, ""),
        Baseline("y", "Y", 1.0, "", "rank1"),
    ]  # without a measure; of another task
    assert cautions.not_above(run, ["a", "b"], other) == []
    cut = Baseline("probe", "Probe", float(worse.mean()), "", "correct", worse[:-1])  # not the same examples
    assert cautions.not_above(run, ["a", "b"], [cut]) == [line]


def test_retrieval_and_questions_have_references_too():
    ap = np.full(50, 0.5)
    (line,) = cautions.not_above(
        {"average_precision": ap}, (), [Baseline("f", "mAP, frozen features", 0.6, "", "average_precision")]
    )
    assert line.startswith("mAP 50.0 % is not above “mAP, frozen features”, 60.0 %")
    soft = np.linspace(0, 1, 60)
    (line,) = cautions.not_above({"soft_accuracy": soft, "prior_soft_accuracy": soft[::-1].copy()}, ())
    assert line.startswith(
        "vqa_accuracy 50.0 % is not above the answer that is most frequent without the image, 50.0 %"
    )
    assert cautions.not_above({"soft_accuracy": soft, "prior_soft_accuracy": soft / 2}, ()) == []


@pytest.mark.parametrize(("n", "share", "small"), [(100, 0.5, True), (400, 0.5, False), (23, 1.0, True), (24, 1.0, False),
                                                   (5, 0.0, True), (60, 0.99, False)])  # fmt: skip
def test_a_split_too_small_to_tell(n, share, small):
    """Also where all answers are right or all are wrong, and the bootstrap has no width."""
    correct = (np.arange(n) < share * n).astype(np.uint8)
    found = cautions.few({"correct": correct, "label": correct, "probability": correct})
    assert len(found) == small
    if small:
        assert found[0].startswith(
            f"{n} examples are few: the 95 % interval is wider than ± 7 points (accuracy "
        )
    assert cautions.few({"name": np.array(["a"])}) == []


def test_the_table_for_a_terminal():
    run = answered([0, 0, 0, 1, 1, 2], [0, 1, 1, 1, 1, 0])
    assert cautions.recall_table(run, ["oak", "e\x1blm\n", "ash"]) == [
        "class  images   recall  most often taken for",
        "ash         1    0.0 %  oak (1)",
        "oak         3   33.3 %  e\N{REPLACEMENT CHARACTER}lm (2)",
        "e\N{REPLACEMENT CHARACTER}lm        2  100.0 %",
    ]
    many = cautions.recall_table(answered(range(20), range(20)), [f"c{i:02d}" * 20 for i in range(20)])
    assert len(many) == 1 + 12 + 1 and many[-1] == "and 8 more classes" and max(map(len, many)) < 80
    assert cautions.recall_table({"rank1": np.ones(3)}, []) == []
