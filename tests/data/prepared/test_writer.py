"""Preparing a data set: what is read back, what is refused, and that no half output reads as whole."""

import errno
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fusionjax import cli, config, files
from fusionjax.data import datasets
from fusionjax.data.image.decode import decode
from fusionjax.data.loading import pipeline
from fusionjax.data.prepared import records, writer
from fusionjax.data.source import Source
from fusionjax.data.unreadable import BadImages, DecodeError
from fusionjax.errors import UserError
from tests.support import trees

ROOT = Path(__file__).parents[3]


def settings(source: str, root: Path, **fields):
    data = config.default().data
    data.source, data.root, data.check_counts, data.threads = source, str(root), False, 2
    data.update(fields)
    return data


def manifest(root: Path) -> Path:
    """An image shown twice, text and number columns, and a split of the user's own."""
    trees.folder(root, ("ash",), images=5)
    rows = ["path,label,split,caption,identity,camera"]
    rows += [
        f"ash/0{i}.jpg,{i % 2},{'train' if i < 3 else 'my test'},leaf {i} é,{i // 2},c{i}" for i in range(5)
    ]
    rows.append("ash/00.jpg,0,train,again,0,c9")
    path = root / "list.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


MAKERS = {
    "market1501": trees.market, "dukemtmc": trees.duke, "msmt17": trees.msmt, "veri776": trees.veri, "cub": trees.cub,
    "cars": trees.cars, "aircraft": trees.aircraft, "folder": trees.folder, "manifest": manifest,
}  # fmt: skip


def fails(match: str, do, *args, **kwargs) -> None:
    with pytest.raises(UserError, match=match) as e:
        do(*args, **kwargs)
    assert "\n" not in str(e.value)


def prepare(source: str, root: Path, out: Path, *, shards: int = 1, seed: int = 0, **fields) -> list:
    work = writer.Preparation(settings(source, root, **fields), seed=seed)
    return work.write(out, shards=shards)


def reopened(out: Path, split: str, **fields) -> Source:
    return datasets.create(settings("prepared", out, **fields), split, seed=0)


# --- what is read back


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_read_back_is_what_was_there(name, tmp_path):
    assert set(MAKERS) == set(writer.SPLITS)
    root, out = MAKERS[name](tmp_path / "root"), tmp_path / "out"
    rows = prepare(name, root, out, shards=2 if name == "msmt17" else 1)
    splits = [row.split for row in rows]
    if writer.SPLITS[name]:
        assert tuple(splits) == writer.SPLITS[name]
    for row in rows:
        before = datasets.create(settings(name, root), row.split, seed=0)
        after = reopened(out, row.split)
        assert isinstance(after, Source) and len(after) == len(before) == row.images
        assert (after.name, after.split, after.class_names) == (before.name, before.split, before.class_names)
        assert after.names == list(before.names) and after.labels.dtype == before.labels.dtype == np.int32
        np.testing.assert_array_equal(after.labels, before.labels)
        assert after.columns.keys() == before.columns.keys()
        for key, values in before.columns.items():
            assert after.columns[key].dtype == values.dtype
            np.testing.assert_array_equal(after.columns[key], values)
        for i in range(len(before)):
            a, b = after.load(i), before.load(i)
            assert type(a) is type(b) and np.array_equal(
                np.frombuffer(a, np.uint8), np.frombuffer(b, np.uint8)
            )
    fails("has no split 'extra'; allowed are " + ", ".join(splits), reopened, out, "extra")


def test_the_rows_of_the_summary(tmp_path):
    market = prepare("market1501", trees.market(tmp_path / "a"), tmp_path / "b")
    assert [(r.split, r.images, r.classes, r.identities, r.cameras, r.unreadable) for r in market] == [
        ("train", 10, 3, 3, 3, 0),
        ("query", 2, 2, 2, 1, 0),
        ("gallery", 7, 3, 3, 4, 0),
    ]
    lines = writer.table(market).splitlines()
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1
    assert lines[2].split() == ["query", "2", "2", "2", "1", "0", "0.0"]
    (test, train) = sorted(
        prepare("manifest", manifest(tmp_path / "c"), tmp_path / "d"), key=lambda r: r.split
    )
    assert (test.split, test.images, test.identities, test.cameras) == ("my test", 2, 2, 2)
    assert (train.images, train.identities, train.cameras) == (4, 2, 4)
    sizes = [(tmp_path / "c" / "ash" / f"0{i}.jpg").stat().st_size for i in range(3)]
    assert train.size == sum(sizes)


def test_an_image_of_several_splits_is_stored_once(tmp_path):
    out = tmp_path / "out"
    prepare("msmt17", trees.msmt(tmp_path), out)
    listed = json.loads((out / "index.json").read_text())["files"]
    assert [(f["name"].split("-")[0], f["records"]) for f in listed] == [
        ("train", 8), ("val", 2), ("query", 2), ("gallery", 5),
    ]  # fmt: skip
    assert {f["name"] for f in listed} | {"index.json", ".lock"} == set(os.listdir(out))
    assert all(f["sha256"] == files.sha256(out / f["name"]) for f in listed)
    prepare("manifest", manifest(tmp_path / "m"), tmp_path / "n")
    listed = json.loads((tmp_path / "n" / "index.json").read_text())["files"]
    assert [f["records"] for f in listed] == [3, 2]


def test_batches_are_those_of_the_files(tmp_path):
    root = trees.market(tmp_path)
    prepare("market1501", root, tmp_path / "out")
    fields = dict(resize=24, image_size=16)
    streams = [
        pipeline.train_dataset(datasets.create(data, "train", seed=0), data, seed=0, batch_size=4)
        for data in (settings("market1501", root, **fields), settings("prepared", tmp_path / "out", **fields))
    ]
    for _ in range(6):
        one, two = (next(s) for s in streams)
        assert all(np.array_equal(one[k], two[k]) for k in one)
    for s in streams:
        s.close()


def test_many_threads_read_at_random(tmp_path):
    root = trees.folder(tmp_path / "d", images=20)
    prepare("folder", root, tmp_path / "out", shards=3, fractions=(1.0, 0.0, 0.0))
    source = reopened(tmp_path / "out", "train")
    whole = [(root / name).read_bytes() for name in source.names]
    asked = np.random.default_rng(0).integers(len(source), size=2000).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.load, asked)) == [whole[i] for i in asked]


def test_splits_of_a_folder_and_of_a_manifest(tmp_path):
    trees.folder(tmp_path / "d" / "train", images=3)
    trees.folder(tmp_path / "d" / "test", images=2)
    found = writer.Preparation(settings("folder", tmp_path / "d"), seed=0).sources
    assert {s: len(v) for s, v in found.items()} == {"train": 9, "test": 6}
    drawn = settings("folder", tmp_path / "d" / "train", fractions=(0.5, 0.0, 0.5))
    assert list(writer.Preparation(drawn, seed=0).sources) == ["train", "test"]
    path = manifest(tmp_path / "m")
    assert list(writer.Preparation(settings("manifest", path), seed=0).sources) == ["train", "my test"]
    chosen = writer.Preparation(settings("manifest", path), seed=0, wanted=["my test"])
    assert list(chosen.sources) == ["my test"]
    fails("does not exist", writer.Preparation, settings("folder", tmp_path / "no"), seed=0)
    fails(
        "'tfds' cannot be prepared; allowed are market1501",
        writer.Preparation,
        settings("tfds", ""),
        seed=0,
    )


# --- unreadable images


@pytest.fixture
def damaged(tmp_path) -> Path:
    root = trees.folder(tmp_path / "d", ("ash", "beech"), images=10)
    (root / "ash" / "03.jpg").write_bytes(b"not an image")
    (root / "beech" / "07.jpg").write_bytes((root / "beech" / "07.jpg").read_bytes()[:300])
    return root


def test_unreadable_images_are_named_and_kept(damaged, tmp_path, caplog):
    fields = dict(fractions=(1.0, 0.0, 0.0), max_bad_fraction=0.1)
    work = writer.Preparation(settings("folder", damaged, **fields), seed=0)
    (row,) = work.write(tmp_path / "out")
    assert row.unreadable == 2 and list(work.unreadable) == ["ash/03.jpg", "beech/07.jpg"]
    assert sum("unreadable image" in r.getMessage() for r in caplog.records) == 2
    source, bad = reopened(tmp_path / "out", "train"), BadImages()
    with pytest.raises(DecodeError, match="it is not an image of a known format"):
        source.load(3)
    assert b"not an image" not in b"".join(p.read_bytes() for p in (tmp_path / "out").glob("*.arrayrecord"))
    data = settings("prepared", tmp_path / "out", resize=16, image_size=16, max_bad_fraction=1.0)
    (batch,) = pipeline.eval_batches(source, data, batch_size=20, bad=bad)
    assert set(bad.names) == {"ash/03.jpg", "beech/07.jpg"}
    assert batch["valid"].sum() == 18


def test_too_many_unreadable_images_write_nothing(damaged, tmp_path):
    match = r"2 of 20 images of split 'train' are unreadable, more than .*max_bad_fraction=0.05 allows: ash/03.jpg \("
    for do in (
        lambda w: w.check(),
        lambda w: w.write(tmp_path / "out"),
    ):
        work = writer.Preparation(
            settings("folder", damaged, fractions=(1.0, 0.0, 0.0), max_bad_fraction=0.05), seed=0
        )
        fails(match, do, work)
        assert len(work.unreadable) == 2
    assert os.listdir(tmp_path / "out") == [".lock"]


def test_a_file_that_cannot_be_read_at_all(tmp_path):
    work = writer.Preparation(settings("folder", trees.folder(tmp_path / "d")), seed=0)
    gone = work.sources["val"].names[0]
    (tmp_path / "d" / gone).unlink()
    fails(f"image .*{gone} cannot be read: No such file", work.write, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == [".lock"]


# --- nothing half, nothing silent


def snapshot(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture
def finished(tmp_path) -> Path:
    prepare("folder", trees.folder(tmp_path / "first", images=4), tmp_path / "out")
    return tmp_path / "out"


def test_an_interrupted_writer_leaves_what_was_there(finished, tmp_path, monkeypatch):
    before, count = snapshot(finished), iter(range(10**6))

    def interrupted(encoded, *limits):
        if next(count) == 20:
            raise KeyboardInterrupt
        return decode(encoded, *limits)

    monkeypatch.setattr(writer, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare("folder", trees.folder(tmp_path / "second"), finished)
    assert snapshot(finished) == before
    assert len(reopened(finished, "train")) == 8


KILLED = """
import os, signal, sys
from pathlib import Path
from fusionjax.data.prepared import writer
from tests.data.prepared.test_writer import prepare

count = 0
def killed(*args, at=int(sys.argv[3])):
    global count
    count += 1
    if count == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args)

name = sys.argv[4]
real = getattr(os, name) if name == "replace" else writer.decode
setattr(os if name == "replace" else writer, name, killed)
prepare("folder", Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.parametrize(("name", "at"), [("decode", 27), ("replace", 3), ("replace", 4)])
def test_a_killed_writer_leaves_nothing_that_reads_as_whole(tmp_path, name, at):
    root, out = trees.folder(tmp_path / "d"), tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(root), str(out), str(at), name]
    assert subprocess.run(command, cwd=ROOT).returncode == -signal.SIGKILL
    left = os.listdir(out)
    assert any(n.endswith(".part") for n in left) and "index.json" not in left
    fails("holds no prepared data set: .*index.json is missing", reopened, out, "train")
    prepare("folder", root, out)
    assert not any(n.endswith(".part") for n in os.listdir(out)) and len(os.listdir(out)) == 5
    assert len(reopened(out, "train")) == 22


def test_overwriting_replaces_all(finished, tmp_path):
    before, digest = set(os.listdir(finished)), reopened(finished, "train").digest
    prepare("folder", trees.folder(tmp_path / "second", images=6), finished, shards=2)
    assert set(os.listdir(finished)) & before == {"index.json", ".lock"}
    assert len(os.listdir(finished)) == 2 + 3 * 2
    assert len(reopened(finished, "train")) == 12 and reopened(finished, "train").digest != digest


def test_a_full_disk(finished, tmp_path, monkeypatch):
    before, real = snapshot(finished), records.ArrayRecordWriter
    monkeypatch.setattr(records, "ArrayRecordWriter", lambda path, options: real("/dev/full", options))
    with pytest.raises((RuntimeError, OSError, ValueError)) as e:
        prepare("folder", trees.folder(tmp_path / "second"), finished)
    assert cli._disk(e.value).startswith("the disk is full")
    assert snapshot(finished) == before
    monkeypatch.undo()

    def full(path, *args):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(OSError) as e:
        prepare("folder", tmp_path / "second", finished)
    assert cli._disk(e.value).startswith("the disk is full")
    assert snapshot(finished) == before


def test_folders_that_cannot_be_written(finished, tmp_path):
    root = tmp_path / "first"
    fails("holds other files .* name an empty or a new folder", prepare, "folder", root, tmp_path)
    fails("is a file; name a folder", prepare, "folder", root, finished / "index.json")
    fails("is a file; name a folder", prepare, "folder", root, finished / "index.json" / "x")
    fails("lies within config.data.root=", prepare, "folder", root, root / "out")
    with records.writing(finished):
        fails("is in use: another process prepares a data set there", prepare, "folder", root, finished)
    assert not (root / "out").exists()


def test_damage_is_named(finished):
    index, content = finished / "index.json", json.loads((finished / "index.json").read_text())
    whole = index.read_text()
    first = finished / content["files"][0]["name"]
    again = "prepare it again with --overwrite"

    index.write_text(whole.replace('"labels": [0', '"labels": [1', 1))
    assert index.read_text() != whole
    fails(
        f"index.json is damaged: its content does not match its digest; {again}", reopened, finished, "train"
    )
    for text in (whole[:-9], "[1]", '{"format": "x"}', "é"):
        index.write_text(text)
        fails(f"index.json is damaged .*{again}", reopened, finished, "train")
    index.write_text(json.dumps({**content, "version": 99}))
    fails("has version 99, this fusionjax reads version 1", reopened, finished, "train")
    listed = [{**content["files"][0], "name": "../x.arrayrecord"}]
    changed = {k: v for k, v in {**content, "files": listed}.items() if k != "digest"}
    index.write_text(json.dumps({**changed, "digest": records._digest(changed)}))
    fails("names '../x.arrayrecord', which prepare does not write", reopened, finished, "train")

    listed = [{**f, "records": f["records"] + 1} for f in content["files"]]
    changed = {**changed, "files": listed}
    index.write_text(json.dumps({**changed, "digest": records._digest(changed)}))
    fails("holds 12 images instead of 15", reopened, finished, "train")
    index.write_text(whole)

    stored = first.read_bytes()
    first.write_bytes(stored[:-100])
    sizes = f"{len(stored) - 100:,} bytes instead of {len(stored):,}"
    fails(f"{first.name} has {sizes}; {again}", reopened, finished, "train")
    first.unlink()
    fails(f"{first.name} is missing; {again}", reopened, finished, "train")
    first.write_bytes(stored)
    assert reopened(finished, "train").load(0)


def test_a_flipped_bit_is_found(finished):
    content = records.read_index(finished, "it")
    records.verify(finished, content)
    source = reopened(finished, "train")
    path = finished / content["files"][0]["name"]
    whole, wanted = path.read_bytes(), source.load(0)
    at = whole.index(wanted) + len(wanted) // 2
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    fails(
        f"{path.name} is damaged: its sha256 differs from that in the index",
        records.verify,
        finished,
        content,
    )
    with pytest.raises(DecodeError, match="its record is damaged"):
        reopened(finished, "train").load(0)


def test_a_column_of_another_type_is_refused(tmp_path):
    work = writer.Preparation(settings("market1501", trees.market(tmp_path)), seed=0)
    work.sources["query"].columns["weight"] = np.ones(2, np.float32)
    fails("column 'weight' of type float32 cannot be prepared", work.write, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == [".lock"]


# --- what the index must hold, and what must not be copied


def rewritten(out: Path, change) -> None:
    """The index with a change, and with a digest that fits."""
    index = json.loads((out / "index.json").read_text())
    change(index)
    index["digest"] = records._digest({k: v for k, v in index.items() if k != "digest"})
    (out / "index.json").write_text(json.dumps(index))


WRONG = {
    "split 'train' has -1 among its labels, which count from 0 to 2": lambda i, t: t["labels"].__setitem__(
        0, -1
    ),
    "split 'train' has 3 among its labels": lambda i, t: t["labels"].__setitem__(0, 3),
    "split 'train' has 7 values of labels for 8 names": lambda i, t: t["labels"].pop(),
    r"splits.train.labels.0: Input should be a valid integer": lambda i, t: t["labels"].__setitem__(0, "1"),
    r"splits.train.class_names: Input should be a valid list": lambda i, t: t.update(class_names="abc"),
    r"files: Field required": lambda i, t: i.pop("files"),
    r"bottom_rows_removed: Input should be a valid integer": lambda i, t: i.update(bottom_rows_removed="2"),
    "split 'train' has 12 among its records, which count from 0 to 11": lambda i, t: t["records"].__setitem__(
        0, 12
    ),
    "values in column c that are not int64": lambda i, t: t["columns"].update(
        c={"type": "int64", "values": [2**63] * 8}
    ),
    "2 values of column c for 8 names": lambda i, t: t["columns"].update(
        c={"type": "text", "values": ["a", "b"]}
    ),
}


@pytest.mark.parametrize("match", WRONG)
def test_an_index_that_prepare_does_not_write_is_refused(finished, match):
    rewritten(finished, lambda index: WRONG[match](index, index["splits"]["train"]))
    fails(f"index.json is damaged: .*{match}.*prepare it again", reopened, finished, "train")


def test_an_index_nested_without_end(finished):
    (finished / "index.json").write_text("[" * 100_000)
    fails("index.json is damaged", reopened, finished, "train")


def test_only_what_lies_below_the_root_is_copied(tmp_path):
    trees.folder(tmp_path / "root", ("ash", "beech"), images=2)
    trees.jpeg(tmp_path / "elsewhere" / "a.jpg")
    (tmp_path / "secret.txt").write_text("not for others")
    (tmp_path / "root" / "link.jpg").symlink_to(tmp_path / "elsewhere" / "a.jpg")
    (tmp_path / "root" / "more").symlink_to(tmp_path / "elsewhere")
    outside = (
        "../elsewhere/a.jpg",
        str(tmp_path / "elsewhere" / "a.jpg"),
        "link.jpg",
        "more/a.jpg",
        "../secret.txt",
    )
    path = tmp_path / "root" / "list.csv"
    for name in outside:
        path.write_text(f"path,label,split\n{name},x,train\nash/00.jpg,y,train\n")
        fails(
            "outside of .*, and would be copied; --allow_outside", prepare, "manifest", path, tmp_path / "out"
        )
    work = writer.Preparation(settings("manifest", path, max_bad_fraction=0.5), seed=0)
    work.write(tmp_path / "out", allow_outside=True)
    stored = b"".join(p.read_bytes() for p in (tmp_path / "out").glob("*.arrayrecord"))
    assert b"not for others" not in stored  # it is no image
    path.write_text(f"path,label,split\n{outside[0]},x,train\nash/00.jpg,y,train\n")
    writer.Preparation(settings("manifest", path), seed=0).write(tmp_path / "out2", allow_outside=True)
    assert reopened(tmp_path / "out2", "train").load(0) == (tmp_path / "elsewhere" / "a.jpg").read_bytes()
    # A root that is itself a link, and paths inside of it, are not outside.
    (tmp_path / "alias").symlink_to(tmp_path / "root")
    path.write_text("path,label,split\nash/../ash/01.jpg,x,train\nash/00.jpg,y,train\n")
    prepare("manifest", tmp_path / "alias" / "list.csv", tmp_path / "out3")


def test_splits_of_any_spelling_are_prepared_by_their_usual_names(tmp_path):
    for name in ("Training", "Testing"):
        trees.folder(tmp_path / "d" / name, ("ash", "beech"), images=2)
    work = writer.Preparation(settings("folder", tmp_path / "d"), seed=0)
    assert list(work.sources) == ["train", "test"]
    assert work.notes()[0] == f"split 'train' is the folder {tmp_path / 'd' / 'Training'}"


def test_one_class_is_not_prepared(tmp_path):
    trees.folder(tmp_path, ("ash",), images=4)
    path = tmp_path / "list.csv"
    path.write_text("path,label\n" + "".join(f"ash/0{i}.jpg,x\n" for i in range(4)))
    fails(
        "list has one class, 'x', and two or more are needed",
        writer.Preparation,
        settings("manifest", path),
        seed=0,
    )
    path.write_text("path,label,identity\n" + "".join(f"ash/0{i}.jpg,x,{i}\n" for i in range(4)))
    assert writer.Preparation(settings("manifest", path), seed=0).sources
