"""Files with the same content under two labels, or in training and in evaluation, are named."""

import shutil

from fusionjax import config
from fusionjax.data import datasets
from fusionjax.data.datasets import duplicates
from tests.support import trees


def sources(root, splits=("train", "val", "test"), kind="folder"):
    data = config.default().data
    data.source, data.root = kind, str(root)
    return {split: datasets.create(data, split, seed=0) for split in splits}


def test_no_file_twice(tmp_path):
    assert duplicates.notes(sources(trees.folder(tmp_path)), "train") == ()


def test_a_file_under_two_labels(tmp_path):
    trees.folder(tmp_path)
    shutil.copy(tmp_path / "ash" / "00.jpg", tmp_path / "beech" / "copy.jpg")
    shutil.copy(tmp_path / "ash" / "01.jpg", tmp_path / "ash" / "copy.jpg")
    (line,) = (line for line in duplicates.notes(sources(tmp_path), "train") if "labels" in line)
    assert line.startswith("files with the same content have different labels (1): ")
    assert f"{tmp_path}/ash/00.jpg (ash)" in line and f"{tmp_path}/beech/copy.jpg (beech)" in line


def test_one_file_with_two_labels_in_a_manifest(tmp_path):
    trees.folder(tmp_path, images=2)
    path = tmp_path / "list.csv"
    rows = [
        "ash/00.jpg,x,train",
        "ash/00.jpg,x,train",
        "ash/01.jpg,y,train",
        "beech/00.jpg,x,test",
        "ash/00.jpg,y,train",
    ]
    path.write_text("\n".join(["path,label,split", *rows]))
    (line,) = duplicates.notes(sources(path, ("train", "test"), "manifest"), "train")
    assert line.endswith(
        f"have different labels (1): {tmp_path}/ash/00.jpg (x) and {tmp_path}/ash/00.jpg (y)"
    )


def test_a_file_in_training_and_in_evaluation(tmp_path):
    for split in ("train", "test"):
        trees.folder(tmp_path / split, images=2)
    assert len(duplicates.notes(sources(tmp_path, ("train", "test")), "train")) == 1  # the trees are the same
    for path in (tmp_path / "test").rglob("*.jpg"):
        path.write_bytes(path.read_bytes() + path.name.encode())  # of other content, some of the same size
    assert duplicates.notes(sources(tmp_path, ("train", "test")), "train") == ()
    shutil.copy(tmp_path / "train" / "ash" / "00.jpg", tmp_path / "test" / "ash" / "new.jpg")
    (line,) = duplicates.notes(sources(tmp_path, ("train", "test")), "train")
    assert line == (
        f"files with the same content are in training and in evaluation (1): {tmp_path}/train/ash/00.jpg (train) and "
        f"{tmp_path}/test/ash/new.jpg (test): the score counts what was trained on"
    )
    assert duplicates.notes(sources(tmp_path, ("train", "test")), "train", most=3) == ()


def test_files_that_differ_at_their_beginning_only(tmp_path):
    trees.folder(tmp_path, images=6)
    for name, first in (("ash", b"a"), ("beech", b"b")):
        (tmp_path / name / "long.jpg").write_bytes(first + b"." * 10_000)
    assert duplicates.notes(sources(tmp_path), "train") == ()


def test_an_official_split_that_contains_another_is_no_duplicate(tmp_path):
    trees.aircraft(tmp_path)
    data = config.default().data
    data.source, data.root, data.check_counts = "aircraft", str(tmp_path), False
    found = {s: datasets.create(data, s, seed=0) for s in ("train", "val", "trainval", "test")}
    assert duplicates.notes(found, "train") == duplicates.notes(found, "trainval") == ()
