"""Checks that every reader shares: fewer than two classes, whatever names them."""

import numpy as np
import pytest

from fusionjax.data.datasets import checks
from fusionjax.data.datasets.tfds import TfdsSource
from fusionjax.data.source import FileSource
from fusionjax.errors import UserError


def test_a_data_set_of_one_class_or_none():
    for names, have in ((("a",), "one class, 'a'"), ((), "no class")):
        with pytest.raises(UserError, match=f"d has {have}, and two or more are needed"):
            checks.two_classes(TfdsSource("d", "train", [], names))
    checks.two_classes(TfdsSource("d", "train", [], ("a", "b")))


def test_a_training_split_of_one_class(tmp_path):
    def source(labels):
        labels = np.asarray(labels, np.int32)
        return FileSource("d", "train", ("a", "b"), labels, [str(i) for i in range(len(labels))], tmp_path)

    with pytest.raises(
        UserError, match="every example of split 'train' of d is of class 'b', and training needs two"
    ):
        checks.trains_two_classes(source([1, 1, 1]))
    checks.trains_two_classes(source([1, 0, 1]))
    checks.trains_two_classes(source([]))  # without examples: named elsewhere


def test_a_list_that_is_no_regular_file(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} cannot be read: it is a folder"):
        checks.text(tmp_path)
