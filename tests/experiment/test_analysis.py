"""Where a classifier errs, in lines."""

import numpy as np
import pytest

from fusionjax.errors import UserError
from fusionjax.evaluation import classification
from fusionjax.experiment import analysis


def test_the_class_with_the_lowest_recall_comes_first():
    label, guess = np.array([0, 0, 1, 1, 1, 2]), np.array([0, 1, 1, 2, 2, 2])
    result = classification.evaluate(np.eye(3)[guess], label, None, ["apple", "pear", "plum"])
    head, _, first, *_ = analysis.lines({"test": {"combined": result}})
    assert head == "test: classes, the lowest recall first"
    assert first.split() == ["pear", "0.333", "0.500", "3", "plum", "(2)"]


def test_a_run_without_classes_is_told_so():
    with pytest.raises(UserError, match="this run's results have none"):
        analysis.lines({"test": {"mAP": 0.5}})
