"""Readers of folders, manifests and official layouts: what a whole tree gives, and what each damage says."""

import csv
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from fusionjax import config
from fusionjax.data import datasets
from fusionjax.data.image.decode import decode
from fusionjax.data.source import Source, Subset
from fusionjax.errors import UserError
from tests.support import trees


def open_split(source: str, root: Path, split: str, *, check_counts: bool = False, seed: int = 0) -> Source:
    data = config.default().data
    data.source, data.root, data.check_counts = source, str(root), check_counts
    return datasets.create(data, split, seed=seed)


def fails(match: str, *args, **kwargs) -> None:
    with pytest.raises(UserError, match=match) as e:
        open_split(*args, **kwargs)
    assert "\n" not in str(e.value)


def check_readable(source: Source) -> None:
    assert isinstance(source, Source)
    assert source.labels.dtype == np.int32 and source.labels.shape == (len(source),)
    assert len(source.names) == len(source) == len(set(source.names))
    assert decode(source.load(len(source) - 1), 10_000).shape[2] == 3


@pytest.mark.parametrize("name", ["folder", "cub", "cars", "aircraft"])
def test_root_missing_or_empty(name, tmp_path):
    fails(r"config\.data\.root is empty: set it to the folder of", name, "", "train")
    fails("does not exist", name, tmp_path / "no", "train")


def test_unknown_source(tmp_path):
    fails(r"'cup' is not known.*did you mean 'cub'", "cup", tmp_path, "train")


def test_subset_follows_its_indices(tmp_path):
    whole = open_split("cub", trees.cub(tmp_path), "train")
    part = Subset(whole, np.array([4, 0]), split="held_out")
    check_readable(part)
    assert part.names == [whole.names[4], whole.names[0]] and part.split == "held_out"
    assert part.labels.tolist() == whole.labels[[4, 0]].tolist() and part.load(1) == whole.load(0)


# --- folder


def test_folder_is_split_by_fractions(tmp_path):
    root = trees.folder(tmp_path / "d", images=20)
    parts = {s: open_split("folder", root, s) for s in ("train", "val", "test")}
    names = [n for p in parts.values() for n in p.names]
    assert len(names) == len(set(names)) == 60
    for split, per_class in (("train", 14), ("val", 3), ("test", 3)):
        check_readable(parts[split])
        assert np.bincount(parts[split].labels).tolist() == [per_class] * 3
    assert parts["train"].class_names == ("ash", "beech", "cedar")
    assert parts["test"].names == open_split("folder", root, "test").names
    assert parts["test"].names != open_split("folder", root, "test", seed=1).names
    fails("has no split 'dev'", "folder", root, "dev")


def test_folder_that_is_split_already(tmp_path):
    trees.folder(tmp_path / "train", images=3)
    trees.folder(tmp_path / "test", ("beech", "cedar"), images=2)
    test = open_split("folder", tmp_path, "test")
    check_readable(test)
    assert test.class_names == ("ash", "beech", "cedar") and test.labels.tolist() == [1, 1, 2, 2]
    assert len(open_split("folder", tmp_path, "train")) == 9
    fails("no folder 'val'.*it has train, test", "folder", tmp_path, "val")


def test_folder_class_named_like_a_split(tmp_path):
    root = trees.folder(tmp_path / "d", ("bus", "train"))
    assert open_split("folder", root, "train").class_names == ("bus", "train")


def test_folder_damaged(tmp_path):
    fails("no class folders", "folder", tmp_path, "train")
    root = trees.folder(tmp_path / "d")
    (root / "dogwood").mkdir()
    (root / "dogwood" / "notes.txt").write_text("no image")
    fails(r"class folder .*dogwood has no images", "folder", root, "train")
    fails("is a file", "folder", root / "ash" / "00.jpg", "train")


# --- manifest

ROWS = [
    {"path": f"ash/{i:02d}.jpg", "label": "10" if i % 2 else "9", "split": "train" if i < 7 else "test",
     "caption": f"leaf, number {i}", "identity": f"{i // 2:04d}", "camera": "c1"}
    for i in range(10)
]  # fmt: skip


def write_manifest(root: Path, rows: list[dict], suffix: str) -> Path:
    trees.folder(root, ("ash",))
    path = root / f"list{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with open(path, "w", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_manifest(tmp_path, suffix):
    path = write_manifest(tmp_path, ROWS, suffix)
    test = open_split("manifest", path, "test")
    check_readable(test)
    assert test.class_names == ("9", "10") and test.labels.tolist() == [1, 0, 1]
    assert test.columns["identity"].tolist() == [3, 4, 4]
    assert test.columns["camera"].tolist() == ["c1"] * 3
    assert test.columns["caption"][0] == "leaf, number 7"
    fails("no row with split 'val'; its column 'split' holds test, train", "manifest", path, "val")


def test_manifest_of_numbers_in_parquet(tmp_path):
    rows = [{"path": r["path"], "label": i % 2, "identity": i} for i, r in enumerate(ROWS)]
    train = open_split("manifest", write_manifest(tmp_path, rows, ".parquet"), "train")
    assert train.class_names == ("0", "1") and train.columns["identity"].dtype == np.int64


def test_manifest_without_split_keeps_a_path_together(tmp_path):
    rows = [{"path": r["path"], "label": r["label"], "caption": c} for r in ROWS for c in "ab"]
    path = write_manifest(tmp_path, rows, ".csv")
    parts = [set(open_split("manifest", path, s).names) for s in ("train", "val", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 10


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_manifest_damaged(tmp_path, suffix):
    def damaged(name: str, edit) -> Path:
        return write_manifest(tmp_path / name, [edit(i, dict(r)) for i, r in enumerate(ROWS)], suffix)

    second = "line 3" if suffix == ".csv" else "row 2"
    path = damaged("a", lambda i, r: {**r, "path": "ash/gone.jpg"} if i == 1 else r)
    fails(f"gone.jpg is missing.*{second}", "manifest", path, "train")
    path = damaged("b", lambda i, r: {**r, "label": ""} if i == 1 else r)
    fails(f"{second}: 'label' is empty", "manifest", path, "train")
    path = damaged("c", lambda i, r: {"path": r["path"], "klass": r["label"], "split": r["split"]})
    fails("no column 'label'; its columns are 'path', 'klass', 'split'", "manifest", path, "train")
    (tmp_path / f"d{suffix}").write_bytes(b'\xff\xfe"')
    fails("cannot be read as", "manifest", tmp_path / f"d{suffix}", "train")


def test_manifest_ragged_csv_and_other_suffix(tmp_path):
    path = write_manifest(tmp_path, ROWS, ".csv")
    trees.edit(path, 4, "ash/00.jpg,9")
    fails("line 4: 2 fields, the header has 6", "manifest", path, "train")
    (tmp_path / "list.txt").write_text("")
    fails(r"ends in \.csv, \.tsv, \.parquet", "manifest", tmp_path / "list.txt", "train")
    fails("not a file", "manifest", tmp_path, "train")


# --- CUB


def test_cub(tmp_path):
    top = trees.cub(tmp_path)
    for root in (top, tmp_path):
        train, test = open_split("cub", root, "train"), open_split("cub", root, "test")
        check_readable(train)
        assert train.class_names == ("Some Bird 1", "Some Bird 2", "Some Bird 3")
        assert train.labels.tolist() == test.labels.tolist() == [0, 0, 1, 1, 2, 2]
        assert not set(train.names) & set(test.names)
    fails("expected 200, found 3", "cub", top, "train", check_counts=True)
    fails("allowed are train, test", "cub", top, "val")


def test_lists_with_a_byte_order_mark(tmp_path):
    """As editors on Windows save text; the names of classes and of files are as without it."""
    plain = open_split("cub", trees.cub(tmp_path / "plain"), "train")
    top = trees.cub(tmp_path / "marked")
    for path in top.glob("*.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    marked = open_split("cub", top, "train")
    assert marked.class_names == plain.class_names and marked.names == plain.names
    data = trees.aircraft(tmp_path)
    for path in data.glob("*.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert open_split("aircraft", data, "test").class_names == ("707-320", "A300B4", "Cessna 172")


def test_only_a_line_break_ends_a_line(tmp_path):
    top = trees.cub(tmp_path)
    trees.edit(top / "classes.txt", 2, "2 002.Some\u2028Bird\x85")
    assert open_split("cub", top, "train").class_names[1] == "Some\u2028Bird"


CUB_DAMAGE = {
    "train_test_split.txt is missing": lambda t: (t / "train_test_split.txt").unlink(),
    r"images.txt line 2: expected '<image id> <path>', found '2'": lambda t: trees.edit(
        t / "images.txt", 2, "2"
    ),
    "images.txt line 3: id 1 is listed twice, first in line 1": lambda t: trees.edit(
        t / "images.txt", 3, "1 x.jpg"
    ),
    "image_class_labels.txt line 5: class '4' is not one of the 3": lambda t: trees.edit(
        t / "image_class_labels.txt", 5, "5 4"
    ),
    "train_test_split.txt line 1: expected 0 or 1, found 'x'": lambda t: trees.edit(
        t / "train_test_split.txt", 1, "1 x"
    ),
    r"image_class_labels.txt has no line for image id 12 \(images.txt line 12\)": lambda t: trees.edit(
        t / "image_class_labels.txt", 12, None
    ),
    "image_class_labels.txt line 12: image id 99 is not in": lambda t: trees.edit(
        t / "image_class_labels.txt", 12, "99 1"
    ),
    r"001.Some_Bird_1.1.jpg is missing; it is listed in images.txt": lambda t: (
        t / "images" / "001.Some_Bird_1" / "1.jpg"
    ).unlink(),
    "images.txt is empty": lambda t: (t / "images.txt").write_text("\n"),
    "classes.txt cannot be read": lambda t: (t / "classes.txt").write_bytes(b"1 \xff\xfe\n"),
}


@pytest.mark.parametrize("match", CUB_DAMAGE)
def test_cub_damaged(tmp_path, match):
    top = trees.cub(tmp_path)
    CUB_DAMAGE[match](top)
    fails(match, "cub", top, "train")


# --- Stanford Cars


def test_cars_devkit(tmp_path):
    root = trees.cars(tmp_path / "c")
    train, test = open_split("cars", root, "train"), open_split("cars", root, "test")
    check_readable(train)
    assert train.class_names == trees.CARS and train.labels.tolist() == [0, 1, 2, 0]
    assert test.labels.tolist() == [2, 1, 0] and test.names[0] == "cars_test/00001.jpg"
    fails("classes: expected 196, found 3", "cars", root, "train", check_counts=True)


def test_cars_single_file(tmp_path):
    root = trees.cars_single(tmp_path)
    train, test = open_split("cars", root, "train"), open_split("cars", root, "test")
    check_readable(test)
    assert train.names == ["car_ims/000001.jpg", "car_ims/000003.jpg"] and train.labels.tolist() == [1, 0]
    assert test.labels.tolist() == [2, 1]


def test_cars_damaged(tmp_path):
    root = trees.cars(tmp_path / "a", labels=(1, 2, 4, 1))
    fails("annotation 3: class 4 is not between 1 and 3", "cars", root, "train")
    root = trees.cars(tmp_path / "b", withlabels=False)
    fails("no field 'class'.*without labels", "cars", root, "test")
    (root / "cars_train" / "00002.jpg").unlink()
    fails(r"00002.jpg is missing; it is listed in cars_train_annos.mat", "cars", root, "train")
    path = root / "devkit" / "cars_train_annos.mat"
    path.write_bytes(path.read_bytes()[:200])
    fails("cannot be read as a MATLAB file", "cars", root, "train")
    path.unlink()
    fails(r"cars_train_annos.mat is missing", "cars", root, "train")


# --- FGVC-Aircraft


def test_aircraft(tmp_path):
    data = trees.aircraft(tmp_path)
    sizes = {}
    for split in ("train", "val", "trainval", "test"):
        source = open_split("aircraft", tmp_path, split)
        check_readable(source)
        sizes[split] = len(source)
    assert sizes == {"train": 6, "val": 6, "trainval": 12, "test": 6}
    assert source.class_names == ("707-320", "A300B4", "Cessna 172")
    image = open_split("aircraft", data, "test").load(0)
    assert image.shape == (40, 48, 3) and image[-1].mean() < 250  # the banner of 20 white rows is gone
    fails("variants: expected 100, found 3", "aircraft", data.parent, "test", check_counts=True)


def test_aircraft_damaged(tmp_path):
    data = trees.aircraft(tmp_path)
    listing = data / "images_variant_test.txt"
    whole = listing.read_text()
    trees.edit(listing, 2, "0000014 Concorde")
    fails(
        "images_variant_test.txt line 2: variant 'Concorde' is not in variants.txt", "aircraft", data, "test"
    )
    listing.write_text(whole)
    trees.edit(listing, 2, "0000014")
    fails("images_variant_test.txt line 2: expected", "aircraft", data, "test")
    listing.write_text(whole)
    trees.edit(listing, 6, whole.splitlines()[0])
    fails("line 6: id 0000013 is listed twice, first in line 1", "aircraft", data, "test")
    listing.write_text(whole)
    (data / "images" / "0000013.jpg").unlink()
    fails("0000013.jpg is missing", "aircraft", data, "test")
    listing.unlink()
    fails("images_variant_test.txt is missing", "aircraft", data, "test")
