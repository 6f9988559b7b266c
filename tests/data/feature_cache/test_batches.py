"""Batches of cached features: order, shares, resuming, padding."""

import numpy as np
import pytest

from fusionjax import config
from fusionjax.data import datasets
from fusionjax.data.feature_cache import batches as features
from fusionjax.data.loading import pipeline
from fusionjax.errors import UserError
from tests.support import trees
from tests.support.batches import joined, same, take

FEATURES = np.random.default_rng(0).standard_normal((3, 10, 2, 2, 5)).astype(np.float16)
LABELS = np.arange(10) % 4
VALID = np.ones((3, 10), np.float32)
VALID[1, 7] = 0


def stream(**fields):
    return features.feature_dataset(FEATURES, LABELS, seed=2, batch_size=4, valid=VALID, **fields)


def test_features_follow_the_pass_of_the_epoch(tmp_path):
    np.save(tmp_path / "f.npy", FEATURES)
    memmap = np.load(tmp_path / "f.npy", mmap_mode="r")
    batches = take(features.feature_dataset(memmap, LABELS, seed=2, batch_size=4, valid=VALID), 10)
    rows = {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}
    for i, index in enumerate(rows["index"]):
        k = i // 10 % 3
        np.testing.assert_array_equal(rows["features"][i], FEATURES[k, index])
        assert rows["valid"][i] == VALID[k, index]
        assert rows["label"][i] == (LABELS[index] if VALID[k, index] else 0)
    same(batches, take(stream(), 10))


def test_features_have_the_order_of_images(tmp_path):
    data = config.default().data
    data.root = str(trees.folder(tmp_path / "train", ("ash", "beech"), images=11).parent)
    data.resize, data.image_size = 24, 16
    source = datasets.create(data, "train", seed=0)
    images = take(pipeline.train_dataset(source, data, seed=7, batch_size=4), 8)
    maps = np.zeros((1, len(source), 1, 1, 1))
    cached = take(features.feature_dataset(maps, source.labels, seed=7, batch_size=4), 8)
    same(
        [{"i": b["index"], "y": b["label"]} for b in images],
        [{"i": b["index"], "y": b["label"]} for b in cached],
    )


def test_features_resume_and_share():
    whole = take(stream(), 9)
    half = stream()
    take(half, 4)
    resumed = stream(threads=1)
    resumed.set_state(half.get_state())
    same(take(resumed, 5), whole[4:])
    same(joined([take(stream(process_index=p, process_count=2), 9) for p in (0, 1)]), whole)


def test_feature_batches():
    batches = list(features.feature_batches(FEATURES[1], LABELS, batch_size=4, valid=VALID[1]))
    assert np.concatenate([b["index"] for b in batches]).tolist() == [*range(10), -1, -1]
    np.testing.assert_array_equal(np.concatenate([b["features"] for b in batches])[:10], FEATURES[1])
    assert np.concatenate([b["valid"] for b in batches]).sum() == 9


def test_feature_shapes_that_do_not_fit():
    with pytest.raises(UserError, match="10 cached features, but labels"):
        features.feature_dataset(FEATURES, LABELS[:9], seed=0, batch_size=4)
    with pytest.raises(UserError, match="are not"):
        features.feature_dataset(FEATURES[:0], LABELS, seed=0, batch_size=4)
