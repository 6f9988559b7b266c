"""What travels beside an image: with_auxiliary by index and epoch, inert where there is no example."""

import ml_collections
import numpy as np
import pytest

from fusionjax import config as config_lib
from fusionjax.data.feature_cache import batches as features
from fusionjax.data.loading import pipeline
from fusionjax.data.loading.auxiliary import AuxiliaryRows, with_auxiliary


class Numbers:
    """Index and epoch as arrays, so that a test can see what came with what."""

    padding_example = {"words": np.full(2, -7, np.int32)}

    def row(self, index, epoch, repeat=0):
        found = {"words": np.asarray([index, -1 if epoch is None else epoch], np.int32)}
        return found | ({"valid": 0.0} if index == 3 else {})


class Images:
    name, split, class_names, columns = "made", "train", ("a", "b"), {}
    labels = np.asarray([0, 1, 0, 1, 1], np.int32)
    names = list("vwxyz")

    def __len__(self):
        return 5

    def load(self, i):
        return np.full((8, 8, 3), 10 * i, np.uint8)


def data() -> ml_collections.ConfigDict:
    c = config_lib.default().data
    with c.unlocked():
        c.resize = c.image_size = 8
        c.augment.crop, c.augment.flip, c.threads = "none", 0.0, 2
    return c


def streams():
    maps = np.arange(10, dtype=np.float16).reshape(2, 5, 1, 1, 1)
    yield pipeline.train_dataset(Images(), data(), seed=1, batch_size=2, auxiliary=Numbers())
    yield features.feature_dataset(maps, Images.labels, seed=1, batch_size=2, auxiliary=Numbers())


def test_training_rows_know_index_and_epoch():
    for stream in streams():
        rows = [next(stream) for _ in range(5)]
        stream.close()
        index = np.concatenate([r["index"] for r in rows])
        words = np.concatenate([r["words"] for r in rows])
        assert np.array_equal(words[:, 0], index)
        assert np.array_equal(words[:, 1], np.repeat([0, 1], 5))


def test_an_extra_takes_its_example_out_of_the_scores():
    for stream in streams():
        rows = [next(stream) for _ in range(5)]
        stream.close()
        for name, wanted in (("valid", lambda i: i != 3), ("label", lambda i: Images.labels[i] * (i != 3))):
            got = np.concatenate([r[name] for r in rows])
            assert np.array_equal(got, [wanted(i) for i in np.concatenate([r["index"] for r in rows])])


def test_evaluation_rows_are_of_no_epoch_and_padding_is_padding():
    maps = np.zeros((5, 1, 1, 1), np.float16)
    for batches in (
        pipeline.eval_batches(Images(), data(), batch_size=4, auxiliary=Numbers()),
        features.feature_batches(maps, Images.labels, batch_size=4, auxiliary=Numbers()),
    ):
        words = np.concatenate([b["words"] for b in batches])
        assert np.array_equal(words[:5], [[i, -1] for i in range(5)])
        assert (words[5:] == -7).all() and len(words) == 8


def test_rows_of_arrays():
    auxiliary = AuxiliaryRows(
        lambda i, epoch: 2 - i if epoch is None else i, a=np.arange(3), b=np.ones((3, 2), np.float16)
    )
    assert auxiliary.row(0, None)["a"] == 2 and auxiliary.row(0, 4)["a"] == 0
    assert auxiliary.padding_example["b"].shape == (2,) and auxiliary.padding_example["b"].dtype == np.float16
    example = {"index": np.int32(-1), "valid": np.float32(0), "label": np.int32(0)}
    assert with_auxiliary(example, auxiliary, None)["a"] == 0
    assert with_auxiliary(example, None, None) is example


@pytest.mark.parametrize("key", ["a", "b"])
def test_padding_has_the_shape_of_a_row(key):
    auxiliary = AuxiliaryRows(lambda i, epoch: i, a=np.arange(3.0), b=np.ones((3, 2), bool))
    assert auxiliary.row(1, None)[key].shape == auxiliary.padding_example[key].shape
    assert auxiliary.row(1, None)[key].dtype == auxiliary.padding_example[key].dtype
