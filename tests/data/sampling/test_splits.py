"""Seeded, stratified splits, with and without groups."""

import numpy as np
import pytest

from fusionjax.data.sampling import splits
from fusionjax.errors import UserError

FRACTIONS = (0.7, 0.1, 0.2)


@pytest.mark.parametrize("sizes", [(100, 50, 7), (1, 1, 1, 40), (13,) * 30, (3, 2, 1)])
def test_whole_disjoint_and_close_to_the_shares(sizes):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    parts = splits.stratified(labels, FRACTIONS, seed=3)
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(len(labels)))
    for share, name in zip(FRACTIONS, splits.SPLITS, strict=True):
        counts = np.bincount(labels[parts[name]], minlength=len(sizes))
        assert np.all(np.abs(counts - share * np.array(sizes)) < 2)
        if name == "train":
            assert counts.min() >= 1
    if min(sizes) > 3:
        assert abs(len(parts["test"]) - 0.2 * len(labels)) <= 1


def test_seed_decides():
    labels = np.arange(200) % 4
    a, b, c = (splits.stratified(labels, FRACTIONS, seed=s)["test"] for s in (0, 0, 1))
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_groups_never_part():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 150, 900)
    labels = groups % 5
    parts = splits.stratified(labels, FRACTIONS, seed=0, groups=groups)
    owners = [set(groups[p].tolist()) for p in parts.values()]
    assert sum(map(len, owners)) == len(set.union(*owners)) == len(np.unique(groups))
    assert abs(len(parts["test"]) - 180) < 12 and abs(len(parts["val"]) - 90) < 12


def test_large_groups_still_reach_every_split():
    groups = np.repeat(np.arange(30), 6)
    parts = splits.stratified(groups % 10, (0.7, 0.15, 0.15), seed=0, groups=groups)
    assert min(len(p) for p in parts.values()) >= 12


def test_pick():
    parts = splits.stratified(np.zeros(10, int), (1.0, 0.0, 0.0), seed=0)
    assert len(splits.pick("d", parts, "train")) == 10
    with pytest.raises(UserError, match="split 'val' of d is empty"):
        splits.pick("d", parts, "val")
    with pytest.raises(UserError, match="allowed are train, val, test"):
        splits.pick("d", parts, "dev")


def test_linked_examples_are_one_group_through_others_too():
    shared = [(0, "a"), (3, "a"), (3, "b"), (5, "b"), (1, "c"), (4, "d"), (2, "d")]
    assert splits.linked(6, shared).tolist() == [0, 1, 2, 0, 2, 0]
    assert splits.linked(6, reversed(shared)).tolist() == [0, 1, 2, 0, 2, 0]
    assert splits.linked(3, []).tolist() == [0, 1, 2]
