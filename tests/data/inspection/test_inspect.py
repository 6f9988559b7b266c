"""What `fusionjax inspect` finds in small data sets with planted faults."""

import dataclasses
import json
import shlex

import numpy as np
import pytest
from PIL import Image

from fusionjax import config
from fusionjax import inspect as command
from fusionjax.arguments import parse
from fusionjax.data.datasets import duplicates
from fusionjax.data.inspection import findings, images, inspect, recognise
from fusionjax.errors import UserError
from fusionjax.interpret import inspection_page


def picture(seed, size=(64, 48)):
    """A smooth picture of its own, without sharp edges, so that JPEG changes it little."""
    rough = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path):
    """Two classes in Train and Test, nothing wrong."""
    root, seed = tmp_path / "photos", 0
    for split, count in (("Train", 20), ("Test", 10)):
        for label in ("rust", "scab"):
            folder = root / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                seed += 1
                picture(seed).save(folder / f"{i}.png")
    return root


def texts(found, level):
    return [f.text for f in found.findings if f.level == level]


def test_a_healthy_folder(photos):
    found = inspect(photos)
    assert found.layout == "folder" and found.errors == 0
    assert {name: (s.images, s.classes) for name, s in found.splits.items()} == {
        "train": (40, 2),
        "test": (20, 2),
    }
    assert found.classes == {"rust": {"train": 20, "test": 10}, "scab": {"train": 20, "test": 10}}
    assert found.sizes == {(64, 48): 60}
    assert "photos/Train" in found.notes[0] and found.command.startswith(
        "fusionjax train --config=folder:root="
    )


def test_a_file_under_two_labels_and_one_in_two_splits(photos):
    (photos / "Train/scab/x.png").write_bytes((photos / "Train/rust/0.png").read_bytes())
    (photos / "Test/rust/y.png").write_bytes((photos / "Train/rust/1.png").read_bytes())
    found = inspect(photos)
    labels, splits = texts(found, "error")
    assert "under two labels" in labels and "in two splits" in splits
    group = found.findings[0].groups[0]
    assert {found.sources[s].names[i] for s, i in group} == {"Train/rust/0.png", "Train/scab/x.png"}


def test_a_near_duplicate_across_splits_is_found(photos):
    picture(3).resize((40, 30)).save(photos / "Test/rust/near.jpg", quality=80)
    found = inspect(photos)
    (text,) = texts(found, "error")
    assert text.startswith("1 image of another split looks like training images")
    ((a, b),) = found.findings[0].groups
    assert {found.sources[s].names[i] for s, i in (a, b)} == {"Train/rust/2.png", "Test/rust/near.jpg"}


def test_different_pictures_are_not_alike():
    """No pair among 300 pictures of their own."""
    facts = [
        images._read(
            type("S", (), {"names": "x" * 300, "load": lambda self, i: np.asarray(picture(1000 + i))})(),
            i,
            10**6,
        )
        for i in range(300)
    ]
    assert len(images.alike(facts)) == 0


def test_unreadable_tiny_and_blank_images(photos):
    (photos / "Train/rust/bad.png").write_bytes(b"no picture")
    Image.new("L", (20, 20)).save(photos / "Train/rust/black.png")
    found = inspect(photos)
    assert found.splits["train"].unreadable == 1
    assert any("cannot be read" in t and "max_bad_fraction" in t for t in texts(found, "error"))
    assert any("smaller than 32" in t for t in texts(found, "warning"))
    assert any("of one colour" in t for t in texts(found, "warning"))
    assert any("1 PNG L" in t for t in texts(found, "note"))


def test_a_test_class_without_training_images_imbalance_and_few(photos):
    (photos / "Test/mildew").mkdir()
    picture(901).save(photos / "Test/mildew/0.png")
    (photos / "Train/blight").mkdir()
    picture(902).save(photos / "Train/blight/0.png")
    found = inspect(photos)
    assert texts(found, "error") == ["test has classes without a training image: mildew"]
    warnings = texts(found, "warning")
    assert any("1 class has fewer than 10 training images: blight" in t for t in warnings)
    assert any("20 times" in t for t in warnings) and any("±" in t for t in warnings)


def test_class_names_that_differ_in_capitals(photos):
    for split in ("Train", "Test"):
        (photos / split / "Rust").mkdir()
        for i in range(10):
            picture(hash_of(split) + i).save(photos / split / "Rust" / f"{i}.png")
    assert any("'Rust' and 'rust' differ only" in t for t in texts(inspect(photos), "warning"))


def hash_of(text):
    return 5000 + 100 * len(text)


def test_a_manifest_with_captions_that_name_the_class(tmp_path):
    rows = ["path,label,split,caption"]
    for i in range(12):
        label = ("rust", "scab")[i % 2]
        picture(i).save(tmp_path / f"{i}.png")
        rows.append(
            f"{i}.png,{label},{'train' if i < 8 else 'test'},a leaf with {label}"
            if i
            else f"{i}.png,rust,train,"
        )
    (tmp_path / "leaves.csv").write_text("\n".join(rows))
    found = inspect(tmp_path / "leaves.csv")
    assert found.layout == "manifest" and found.columns["caption"] == pytest.approx(11 / 12)
    assert any("contain the name of their class" in t for t in texts(found, "warning"))
    assert recognise(tmp_path).data.source == "manifest"  # the folder of the table


def test_official_layouts_are_recognised(tmp_path):
    for folder, name in (
        ("bounding_box_train", "0001_c1_f0000001.jpg"),
        ("bounding_box_test", "0002_c1_f0000001.jpg"),
        ("query", "0002_c2_f0000001.jpg"),
    ):
        (tmp_path / folder).mkdir()
        picture(len(folder)).save(tmp_path / folder / name)
    found = inspect(tmp_path)
    assert (
        found.layout == "dukemtmc" and found.identities and set(found.splits) == {"train", "query", "gallery"}
    )


@pytest.mark.parametrize("name", ["nothing", "a.txt", "flat"])
def test_what_is_no_data_set_is_one_line(tmp_path, name):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "flat").mkdir()
    picture(1).save(tmp_path / "flat" / "1.png")
    with pytest.raises(UserError, match="does not exist|no manifest|no class folders"):
        inspect(tmp_path / name)


def test_the_command_its_json_and_its_page(photos, tmp_path, capsys):
    assert command.main(parse(command.COMMAND, [str(photos)])) == 0
    assert "nothing was found" not in capsys.readouterr().err
    (photos / "Train/scab/x.png").write_bytes((photos / "Train/rust/0.png").read_bytes())
    assert command.main(parse(command.COMMAND, [str(photos), "--json", f"--out={tmp_path / 'page'}"])) == 1
    content = json.loads(capsys.readouterr().out)
    assert content["findings"][0]["examples"] == [["Train/rust/0.png", "Train/scab/x.png"]]
    page = (tmp_path / "page" / "index.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 16 and "under two labels" in page


def test_a_page_is_not_written_into_the_data(photos, tmp_path, monkeypatch):
    """Its folder would be a class of every later command; beside the data, and for a manifest anywhere, it is fine."""
    monkeypatch.chdir(photos.parent)
    before = sorted(photos.rglob("*"))
    for out in ("photos", "photos/page", "photos/Train/page"):
        with pytest.raises(UserError, match="--out=.* lies within .*photos.*name another folder"):
            command.main(parse(command.COMMAND, ["photos", f"--out={out}"]))
    assert sorted(photos.rglob("*")) == before
    assert command.main(parse(command.COMMAND, ["photos", "--out=page"])) == 0


def test_the_folder_of_a_run_is_no_data_set(tmp_path):
    for name in ("checkpoints", "report"):
        (tmp_path / name).mkdir()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is the folder of a run, not a data set: its report is"):
        inspect(tmp_path)


def test_the_share_of_unreadable_images_is_that_of_the_config(photos, monkeypatch):
    (photos / "Train/rust/0.png").write_bytes(b"no picture")
    assert "more than data.max_bad_fraction=0.01 allows" in texts(inspect(photos), "error")[0]
    default = config.default()
    default.data.max_bad_fraction = 0.5
    monkeypatch.setattr(config, "default", lambda: default)
    assert "left out of training and scores" in texts(inspect(photos), "warning")[0]


def test_training_and_inspection_judge_copies_alike(photos):
    """By one rule: labels are compared where the splits have the same classes."""
    (photos / "Train/scab/x.png").write_bytes((photos / "Train/rust/0.png").read_bytes())
    (photos / "Test/rust/y.png").write_bytes((photos / "Train/rust/1.png").read_bytes())
    found = inspect(photos)
    lines = duplicates.notes(found.sources, "train")
    assert len(lines) == len(texts(found, "error")) == 2
    source = found.sources["test"]
    elsewhere = dataclasses.replace(source, class_names=tuple(f"{name}2" for name in source.class_names))
    facts = {"train": images.read_all(found.sources["train"], 10**9, threads=2, progress=lambda: None)}
    facts["test"] = images.read_all(elsewhere, 10**9, threads=2, progress=lambda: None)
    said = findings.find({"train": found.sources["train"], "test": elsewhere}, facts, identities=True)
    assert sum("two labels" in f.text for f in said) == 1 and sum("two splits" in f.text for f in said) == 1


def test_the_text_names_everything(photos):
    said = inspection_page.text(inspect(photos))
    for part in ("40", "rust", "64 × 48 (60)", "to train: fusionjax train"):
        assert part in said


def test_classes_that_are_spelt_in_two_ways(photos):
    for split in ("Train", "Test"):
        for name in ("Rust ", "1", "1.0", "-1"):
            (photos / split / name).mkdir()
            for i in range(10):
                picture(hash((split, name, i)) % 2**31).save(photos / split / name / f"{i}.png")
    found = [t for t in texts(inspect(photos), "warning") if "spelling" in t]
    assert found == [
        "the classes '1' and '1.0' differ only in spelling: are they one class?",
        "the classes 'Rust ' and 'rust' differ only in spelling: are they one class?",
    ]


def test_the_command_can_be_pasted(photos):
    there = photos.rename(photos.parent / "my photos; 1")
    words = shlex.split(inspect(there).command)
    assert words[2] == f"--config=folder:root={there}" and len(words) == 4
