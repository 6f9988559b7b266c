"""TFDS by random access, without TensorFlow: a small data set prepared here, and mocks of the real ones."""

import importlib.util
import io
import os
import sys

import numpy as np
import pytest
import simplejpeg
import tensorflow_datasets as tfds

from fusionjax import config, files
from fusionjax.data import datasets
from fusionjax.data.datasets import tfds as reader
from fusionjax.data.image.decode import decode
from fusionjax.data.loading import pipeline
from fusionjax.data.source import Source
from fusionjax.errors import UserError
from tests.support import trees

SPLITS = {"tiny_leaves": ("train",), "tiny_birds": ("train", "validation", "test")}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def settings(builder: str, root="", *, check_counts: bool = True):
    data = config.default().data
    data.source, data.builder, data.root, data.check_counts = "tfds", builder, str(root), check_counts
    return data


def examples():
    for i in range(20):
        image = simplejpeg.encode_jpeg(trees.picture(i))
        yield i, {"image": io.BytesIO(image), "mask": io.BytesIO(image), "label": i % 2}


def prepare(name: str, root) -> None:
    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = root

        def _info(self):
            image, label = tfds.features.Image(), tfds.features.ClassLabel(names=["ill", "well"])
            features = tfds.features.FeaturesDict({"image": image, "mask": image, "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {split: examples() for split in SPLITS[name]}

        def _generate_examples(self):
            raise NotImplementedError

    Tiny.name = name
    Tiny(data_dir=root, file_format="array_record").download_and_prepare()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for name in SPLITS:
        prepare(name, folder)
    return folder


def test_train_alone_is_split_by_fractions(root):
    data = settings("tiny_leaves", root)
    parts = {s: datasets.create(data, s, seed=0) for s in ("train", "val", "test")}
    names = [n for p in parts.values() for n in p.names]
    assert len(names) == len(set(names)) == 20
    for split, n in (("train", 14), ("val", 3), ("test", 3)):
        assert isinstance(parts[split], Source) and len(parts[split]) == n and parts[split].split == split
    train = parts["train"]
    assert train.class_names == ("ill", "well") and np.abs(np.bincount(train.labels) - 7).max() <= 1
    assert isinstance(train.load(0), bytes) and decode(train.load(0), 10_000).shape == (40, 48, 3)
    with pytest.raises(UserError, match="allowed are train, val, test"):
        datasets.create(data, "dev", seed=0)
    assert len(datasets.create(data, "train[:25%]", seed=0)) == 5


def test_official_splits(root):
    data = settings("tiny_birds", root)
    val = datasets.create(data, "val", seed=0)
    assert len(val) == len(datasets.create(data, "test", seed=0)) == 20
    data.image_size = data.resize = 32
    batches = list(pipeline.eval_batches(val, data, batch_size=8))
    assert np.concatenate([b["valid"] for b in batches]).sum() == 20
    with pytest.raises(UserError, match="no split 'extra'; it has"):
        datasets.create(data, "extra", seed=0)


def test_no_tensorflow_was_imported(root):
    if importlib.util.find_spec("tensorflow") is None:
        assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    "builder, classes", [("caltech_birds2011", 200), ("cars196", 196), ("plant_village", 38)]
)
def test_mock_of_a_real_data_set(builder, classes):
    records = [{"image": simplejpeg.encode_jpeg(trees.picture(i)), "label": i % classes} for i in range(6)]

    def serve(self, split=None, decoders=None, **kwargs):
        assert all(isinstance(d, type(tfds.decode.SkipDecoding())) for d in decoders.values())
        return records

    with tfds.testing.mock_data(as_data_source_fn=serve):
        source = datasets.create(settings(builder, check_counts=False), "train", seed=0)
        assert len(source.class_names) == classes and source.labels.tolist() == list(range(6))
        assert decode(source.load(5), 10_000).shape == (40, 48, 3)
        if builder in reader.IMAGES:
            with pytest.raises(UserError, match=r"expected (5,994|8,144), found 6"):
                datasets.create(settings(builder), "train", seed=0)


def test_label_out_of_range_and_unreadable_record():
    source = reader.TfdsSource("d", "train", [{"label": 0, "image": b""}, {"label": 9}], ("a", "b"))
    with pytest.raises(UserError, match=r"d/train\[1\]: label 9 is not below 2"):
        _ = source.labels
    source = reader.TfdsSource("d", "train", [{}], ("a",))
    with pytest.raises(UserError, match=r"d/train\[0\] cannot be read"):
        _ = source.labels


def test_mistakes(tmp_path, monkeypatch):
    for builder, match in (("", "builder is empty"), ("no_such_set", "TFDS's catalogue")):
        with pytest.raises(UserError, match=match):
            datasets.create(settings(builder, tmp_path), "train", seed=0)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "tensorflow" else find(n, *a))
    with pytest.raises(
        UserError, match=r"not prepared in .*needs TensorFlow: pip install \"fusionjax\[prepare\]\""
    ):
        datasets.create(settings("eurosat", tmp_path), "train", seed=0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: object())
    monkeypatch.setattr(reader, "_online", lambda builder: False)
    with pytest.raises(UserError, match="no network"):
        datasets.create(settings("eurosat", tmp_path), "train", seed=0)


def test_prepared_without_random_access(root, tmp_path):
    info = root / "tiny_birds" / "1.0.0" / "dataset_info.json"
    other = tmp_path / "tiny_birds" / "1.0.0"
    other.mkdir(parents=True)
    for path in info.parent.iterdir():
        name = path.name.replace("array_record", "tfrecord")
        (other / name).write_bytes(path.read_bytes().replace(b"array_record", b"tfrecord"))
    with pytest.raises(UserError, match="prepared as tfrecord, which has no random access"):
        datasets.create(settings("tiny_birds", tmp_path), "test", seed=0)


def test_labels_are_read_once_and_kept(root, monkeypatch):
    data = settings("tiny_birds", root)
    first = datasets.create(data, "train", seed=0)
    want = first.labels.copy()
    (kept,) = files.user_cache("labels").glob("tiny_birds-*/labels.npy")
    with monkeypatch.context() as patch:
        patch.setattr(reader.TfdsSource, "_read_labels", lambda self: pytest.fail("read again"))
        assert np.array_equal(datasets.create(data, "train", seed=0).labels, want)
    for damage in (b"", kept.read_bytes()[:-3], b"not an array"):
        kept.write_bytes(damage)
        assert np.array_equal(datasets.create(data, "train", seed=0).labels, want)
    np.save(kept, np.full(len(want), 9, np.int32))  # no such class
    assert np.array_equal(datasets.create(data, "train", seed=0).labels, want)
    record = next(p for p in (root / "tiny_birds").rglob("*train*") if p.is_file())
    os.utime(record, ns=(1, 1))  # prepared anew
    assert np.array_equal(datasets.create(data, "train", seed=0).labels, want)
    assert len(list(files.user_cache("labels").glob("tiny_birds-*"))) == 2


def test_a_cache_that_cannot_be_written_costs_time_only(root, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(datasets.create(settings("tiny_birds", root), "train", seed=0).labels) == 20
