"""OpenMoji: what is in it, and that no drawing is on two sides of a split."""

import collections

import cv2
import numpy as np
import pytest

from fusionjax import config
from fusionjax.data import datasets
from fusionjax.data.datasets import openmoji
from fusionjax.errors import UserError


def settings(size: int = 32, renderings=("color",)):
    data = config.default().data
    data.source, data.resize, data.fractions = "openmoji", size, (0.7, 0.1, 0.2)
    data.renderings = renderings
    return data


def open_split(split: str, *, renderings=("color",), seed=0):
    return openmoji.create(settings(renderings=renderings), split, seed=seed)


def test_counts():
    every = [open_split(f"{s}_all") for s in ("train", "val", "test")]
    assert sum(map(len, every)) == 3773
    assert len({i for s in every for i in s.columns["identity"].tolist()}) == 1898
    assert len(set(every[0].class_names)) == 9 and "Component" not in every[0].class_names
    tones = collections.Counter(i for s in every for i in s.columns["identity"].tolist())
    assert set(tones.values()) == {1, 6, 26}


@pytest.mark.parametrize("seed", [0, 1])
def test_splits_share_no_identity_and_no_drawing(seed):
    parts = [open_split(f"{s}_all", seed=seed) for s in ("train", "val", "test")]
    for key in ("identity", "group"):
        owned = [set(p.columns[key].tolist()) for p in parts]
        assert sum(map(len, owned)) == len(set.union(*owned))
    codes = [{n.partition(":")[0] for n in p.names} for p in parts]
    assert sum(map(len, codes)) == 3773


def test_sizes_and_shares():
    train, val, test = (datasets.create(settings(), s, seed=0) for s in ("train", "val", "test"))
    assert (len(val), len(test)) == (190, 380) and len(set(train.columns["identity"].tolist())) == 1328
    assert len(set(test.columns["identity"].tolist())) == len(test) and set(test.columns["tone"]) == {""}
    for part in (val, test, open_split("train_base")):
        assert 0.19 < np.bincount(part.labels).max() / len(part) < 0.215
    assert np.bincount(train.labels).max() / len(train) > 0.55
    assert datasets.create(settings(), "test", seed=1).names != test.names == open_split("test").names


def test_twins_are_one_group():
    columns = open_split("train_all", seed=0).columns
    test, val = (open_split(f"{s}_all").columns for s in ("test", "val"))
    group = {
        caption: g
        for c in (columns, test, val)
        for caption, g in zip(c["caption"].tolist(), c["group"].tolist(), strict=True)
    }
    assert group["norway flag"] == group["svalbard & jan mayen flag"]
    assert group["couple with heart"] == group["couple with heart: woman, man"]
    assert group["farmer"] == group["man farmer"] != group["woman farmer"]


def test_drawings():
    test = open_split("test", renderings=("color", "line"))
    assert len(test) == 760 and test.columns["rendering"][:2].tolist() == ["color", "line"]
    assert test.columns["identity"][0] == test.columns["identity"][1]
    assert len(set(test.columns["camera"].tolist())) == 2
    differing = 0
    for i in range(0, 40, 2):
        colour, line = test.load(i), test.load(i + 1)
        assert colour.shape == line.shape == (32, 32, 3) and colour.dtype == np.uint8
        assert (colour[[0, 0, -1, -1], [0, -1, 0, -1]] > 250).all()  # white where the SVG is transparent
        assert np.ptp(line.astype(int), axis=-1).max() <= 20  # no colour is left
        differing += np.abs(colour.astype(int) - line).max() > 100
        np.testing.assert_array_equal(test.load(i), colour)
    assert differing > 10


def test_red_is_red():
    every = [open_split(f"{s}_base") for s in ("train", "val", "test")]
    (heart,) = [s.load(i) for s in every for i in np.flatnonzero(s.columns["caption"] == "heavy black heart")]
    r, g, b = heart[16, 16].astype(int)
    assert r > 180 and r > 2 * max(g, b)


def test_png_is_square_and_of_the_size_asked_for():
    drawing = openmoji._drawings()[0]
    png = openmoji.draw(drawing.path.read_text(encoding="utf-8"), 50, "color")
    assert cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED).shape[:2] == (50, 50)


def test_mistakes(monkeypatch):
    with pytest.raises(UserError, match="no split 'dev'"):
        open_split("dev")
    with pytest.raises(UserError, match="no rendering 'sepia'"):
        open_split("test", renderings=("sepia",))
    monkeypatch.setitem(__import__("sys").modules, "resvg_py", None)
    with pytest.raises(UserError, match=r'needs the package resvg_py: pip install "fusionjax\[quickstart\]"'):
        open_split("test")


def test_the_object_is_the_drawing():
    source = open_split("test")
    for i in (0, 5):
        mask, image = source.object_mask(i), source.load(i)
        assert mask.shape == image.shape[:2] and 0.1 < mask.mean() < 0.9
        assert (image[~mask] > 120).all()  # white, but for the drawing's soft border
