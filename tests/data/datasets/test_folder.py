"""Class folders as people have them: names of splits, a root one level too high, copies, links, and look-alike names."""

import shutil
import unicodedata

import pytest

from fusionjax import config
from fusionjax.data import datasets
from fusionjax.data.datasets import checks
from fusionjax.data.source import Source
from fusionjax.errors import UserError
from tests.support import trees

CLASSES = ("ash", "beech", "cedar")


def settings(root, **fields):
    data = config.default().data
    data.source, data.root = "folder", str(root)
    data.update(fields)
    return data


def open_split(root, split="train", **fields) -> Source:
    return datasets.create(settings(root, **fields), split, seed=0)


def fails(match, root, split="train", **fields):
    with pytest.raises(UserError, match=match) as e:
        open_split(root, split, **fields)
    assert "\n" not in str(e.value)


def tree(root, folders, classes=CLASSES, images=2):
    for k, name in enumerate(folders):
        for c, own in enumerate(classes):
            for i in range(images):
                trees.jpeg(root / name / own / f"{i}.jpg", 100 * k + 10 * c + i)
    return root


@pytest.mark.parametrize(
    "names",
    [("Train", "Validation", "Test"), ("Training", "Valid", "Testing"), ("train_set", "val-set", "test set"),
     ("TRN", "dev", "TEST"), ("trainset", "VAL", "TestSet")],
)  # fmt: skip
def test_splits_are_recognised_in_any_usual_spelling(tmp_path, names):
    tree(tmp_path, names)
    for split, name in zip(("train", "val", "test"), names, strict=True):
        source = open_split(tmp_path, split)
        assert source.class_names == CLASSES and source.split == split
        assert {n.split("/")[0] for n in source.names} == {name}
        assert source.notes == (f"split {split!r} is the folder {tmp_path / name}",)
    assert open_split(tmp_path, names[1]).names == open_split(tmp_path, "val").names


def test_two_folders_of_one_split(tmp_path):
    tree(tmp_path, ("train", "Training", "test"))
    fails(
        "'Training' and 'train' both mean the split 'train': keep one, or name each in config.data", tmp_path
    )
    tree(tmp_path / "d", ("train", "val", "dev"))
    named = dict(eval_splits=("val", "dev"))
    assert open_split(tmp_path / "d", "dev", **named).names[0].startswith("dev/")
    assert open_split(tmp_path / "d", "val", **named).names[0].startswith("val/")
    fails("'dev' and 'val' both mean", tmp_path / "d", "val", eval_splits=("val",))


def test_a_folder_that_may_be_a_split(tmp_path):
    tree(tmp_path, ("train2017", "test2017"))
    fails("train2017 may be a split or a class: rename it|test2017 may be a split or a class", tmp_path)
    named = dict(train_split="train2017", eval_splits=("test2017",))
    assert open_split(tmp_path, "train2017", **named).class_names == CLASSES


def test_splits_without_class_folders(tmp_path):
    tree(tmp_path, (".",), ("train", "test"))
    fails("has the folders test and train without class folders in them", tmp_path)


def test_what_is_not_read_is_said(tmp_path):
    tree(tmp_path, ("train", "test", "unlabelled"))
    trees.jpeg(tmp_path / "logo.jpg")
    assert open_split(tmp_path, "test").notes[1:] == (
        f"not read, as they are no splits: 'unlabelled' in {tmp_path}",
        f"not read, as they are in no class folder: 'logo.jpg' in {tmp_path}",
    )


def test_splits_below_the_classes(tmp_path):
    tree(tmp_path, CLASSES, ("train", "test"))
    fails("class folder .*ash contains the folders test and train: put splits above classes", tmp_path)


def test_a_root_one_level_too_high(tmp_path):
    tree(tmp_path, ("PlantVillage",))
    match = (
        "has one class folder, 'PlantVillage', .*PlantVillage has 3 folders of images: set config.data.root="
    )
    fails(f"{match}'{tmp_path}/PlantVillage'", tmp_path)
    tree(tmp_path / "deep" / "a", ("b",))
    fails("deep/a/b has 3 folders of images", tmp_path / "deep")
    tree(tmp_path / "alone", (".",), ("ash",))
    fails("has one class folder, 'ash', and a classifier needs two classes or more$", tmp_path / "alone")
    tree(tmp_path / "split", ("train", "test"), ("ash",))
    fails("has one class folder, 'train/ash'", tmp_path / "split")


def test_a_copy_of_the_data_within_itself(tmp_path):
    tree(tmp_path, (".", "PlantVillage"))
    fails("class folder .*PlantVillage contains a folder 'ash', which is also the name of a class", tmp_path)
    # A folder within one of its own name is what unpacking leaves.
    shutil.rmtree(tmp_path / "PlantVillage")
    (tmp_path / "ash").rename(tmp_path / "inner")
    (tmp_path / "ash").mkdir()
    (tmp_path / "inner").rename(tmp_path / "ash" / "ash")
    assert open_split(tmp_path, fractions=(1.0, 0.0, 0.0)).names[0] == "ash/ash/0.jpg"


def test_links_to_folders_are_followed(tmp_path):
    tree(tmp_path / "root", (".",))
    tree(tmp_path / "elsewhere", (".",), images=5)
    for name in CLASSES:
        (tmp_path / "root" / name / "more").symlink_to(tmp_path / "elsewhere" / name)
    source = open_split(tmp_path / "root", fractions=(1.0, 0.0, 0.0))
    assert len(source) == 3 * (2 + 5) and "ash/more/4.jpg" in source.names


def test_a_link_to_a_folder_that_is_gone(tmp_path):
    tree(tmp_path, (".",))
    (tmp_path / "ash" / "gone.jpg").symlink_to(tmp_path / "no.jpg")  # of a file: named when it is read
    assert len(open_split(tmp_path, fractions=(1.0, 0.0, 0.0))) == 7
    (tmp_path / "ash" / "more").symlink_to(tmp_path / "no")
    fails("ash/more links to .*no, which is not there: restore that folder, or remove the link", tmp_path)
    (tmp_path / "ash" / "more").rename(tmp_path / "St. Bernard")
    fails("St. Bernard links to .*no, which is not there", tmp_path)


def test_links_in_a_circle_are_refused(tmp_path):
    tree(tmp_path, (".",))
    (tmp_path / "ash" / "again").symlink_to(tmp_path / "ash")
    fails("ash/again is a link to a folder that contains it: remove the link", tmp_path)
    (tmp_path / "ash" / "again").unlink()
    for a, b in (("x", "y"), ("y", "x")):  # neither lies in the other
        (tmp_path / "out" / a).mkdir(parents=True)
        (tmp_path / "out" / a / "to").symlink_to(tmp_path / "out" / b)
    (tmp_path / "ash" / "more").symlink_to(tmp_path / "out" / "x")
    fails("is a link to a folder that contains it", tmp_path)


def test_hidden_folders_are_not_read(tmp_path):
    tree(tmp_path, (".",))
    trees.jpeg(tmp_path / "ash" / ".ipynb_checkpoints" / "0-checkpoint.jpg")
    trees.jpeg(tmp_path / "ash" / "__MACOSX" / "0.jpg")
    assert len(open_split(tmp_path, fractions=(1.0, 0.0, 0.0))) == 6


def test_classes_that_differ_only_in_unicode_composition(tmp_path):
    names = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    tree(tmp_path, (".",), (*names, "tea"))
    fails(r"the class folders 'cafe\\u0301' and 'caf\\xe9' look the same", tmp_path)
    tree(tmp_path / "d" / "train", (".",), (names[0], "tea"))
    tree(tmp_path / "d" / "test", (".",), (names[1], "tea"))
    fails("look the same and differ only in the composition", tmp_path / "d")


def test_files_that_are_no_images_are_named(tmp_path):
    """A telephone's HEIC, and a picture without a suffix, would vanish without a word."""
    tree(tmp_path, ("",))
    for name in ("a.HEIC", "b.heic", "picture", ".hidden"):
        shutil.copy(tmp_path / "ash/0.jpg", tmp_path / "beech" / name)
    note = "2 .heic (beech/a.HEIC …), 1 without suffix (beech/picture)"
    (found,) = open_split(tmp_path, fractions=(1.0, 0.0, 0.0)).notes
    assert found == f"not read, as they are no images ({', '.join(checks.IMAGE_SUFFIXES)}): {note}"
    for name in ("0.jpg", "1.jpg"):
        (tmp_path / "beech" / name).unlink()
    fails(
        "class folder .*beech has no images .*; it has 2 .heic .*: add some, or remove the folder", tmp_path
    )


def test_a_class_of_one_image_gives_no_test_image(tmp_path):
    tree(tmp_path, ("",), images=1)
    fails("split 'test' of .* is empty: .*each class, or identity, keeps at least one", tmp_path, "test")


def test_a_relative_root_says_where_it_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fails(f"config.data.root='absent' does not exist \\(seen from {tmp_path}\\)", "absent")
