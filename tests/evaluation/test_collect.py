"""Predictions of a split: what is not finite is no result."""

import jax
import numpy as np
import pytest

from fusionjax.distributed import mesh as mesh_lib
from fusionjax.evaluation.collect import NotFinite, collect


def batches(values, valid):
    n = len(values)
    row = {"label": np.zeros(n, np.int32), "valid": np.asarray(valid, np.float32)}
    row["index"] = np.where(row["valid"] > 0, np.arange(n), -1).astype(np.int32)
    return [row | {"x": np.asarray(values, np.float32)}]


def collected(values, valid):
    def predict(variables, batch):
        return {"embedding": batch["x"].astype(variables.dtype), "other": batch["x"]}

    mesh = mesh_lib.create(len(values))
    return collect(predict, jax.numpy.zeros(()), batches(values, valid), mesh, output_names=("embedding",))


def test_padding_and_unreadable_images_may_be_anything():
    rows = collected([[1.0], [np.nan], [2.0], [np.inf]], [1, 0, 1, 0])
    assert set(rows) == {"embedding", "label", "valid", "index"} and rows["embedding"][2] == 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_output_that_is_not_finite_is_one_line(value):
    with pytest.raises(
        NotFinite, match="embedding of the model is not finite for 1 of 3 examples: training has"
    ) as e:
        collected([[1.0, 0.0], [0.0, value], [2.0, 0.0], [np.nan, np.nan]], [1, 1, 1, 0])
    assert "\n" not in str(e.value)
