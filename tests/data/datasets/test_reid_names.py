"""Readers of the re-identification layouts: what a whole tree gives, and what each damage says."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from fusionjax import config
from fusionjax.data import datasets
from fusionjax.data.datasets import dukemtmc, market1501, msmt17, veri776
from fusionjax.data.image.decode import decode
from fusionjax.data.loading import pipeline
from fusionjax.data.source import FileSource, Source
from fusionjax.data.unreadable import BadImages
from fusionjax.errors import UserError
from tests.support import trees

TREES = {"market1501": trees.market, "dukemtmc": trees.duke, "veri776": trees.veri, "msmt17": trees.msmt}
LAYOUTS = {
    "market1501": market1501.MARKET,
    "dukemtmc": dukemtmc.DUKE,
    "veri776": veri776.VERI,
    "msmt17": msmt17.MSMT17,
}


def settings(source: str, root: Path, **fields):
    data = config.default().data
    data.source, data.root, data.check_counts = source, str(root), False
    data.update(fields)
    return data


def open_split(source: str, root: Path, split: str, *, check_counts: bool = False) -> FileSource:
    return datasets.create(settings(source, root, check_counts=check_counts), split, seed=0)


def fails(match: str, *args, **kwargs) -> None:
    with pytest.raises(UserError, match=match) as e:
        open_split(*args, **kwargs)
    assert "\n" not in str(e.value)


@pytest.fixture(params=TREES)
def name(request) -> str:
    return request.param


# --- what all have in common


def test_identities_cameras_and_labels(name, tmp_path):
    top = TREES[name](tmp_path)
    for root in (top, tmp_path):
        for split in ("train", "query", "gallery"):
            source = open_split(name, root, split)
            assert isinstance(source, Source) and len(source) == len(set(source.names)) > 1
            assert source.labels.dtype == np.int32
            assert source.columns["identity"].dtype == source.columns["camera"].dtype == np.int64
            own = sorted(set(source.columns["identity"].tolist()))
            assert source.class_names == tuple(f"{i:04d}" for i in own)
            assert [own[label] for label in source.labels] == source.columns["identity"].tolist()
            assert decode(source.load(len(source) - 1), 10_000).shape == (32, 16, 3)
            for path, identity, camera in zip(source.names, *source.columns.values(), strict=True):
                field = Path(path).name.replace("s1_", "_").replace("s2_", "_").split("_")
                assert int(field[0]) == identity
                assert int((field[2] if name == "msmt17" else field[1]).lstrip("c")) - 1 == camera


def test_training_identities(name, tmp_path):
    train = open_split(name, TREES[name](tmp_path), "train")
    sizes = {"msmt17": {0: 3, 1: 1, 2: 4}}.get(name, {2: 3, 7: 1, 11: 6})
    identities, counts = np.unique(train.columns["identity"], return_counts=True)
    assert dict(zip(identities.tolist(), counts.tolist(), strict=True)) == sizes


def test_roots_splits_and_published_counts(name, tmp_path):
    fails(r"config\.data\.root is empty: set it to the folder of", name, "", "train")
    fails("does not exist", name, tmp_path / "no", "train")
    top = TREES[name](tmp_path)
    fails("has no split 'test'; allowed are train, .*query, gallery", name, top, "test")
    published = LAYOUTS[name].images
    for split in ("train", "query"):
        expected = f"{published[split]:,}"
        fails(f"images of split '{split}': expected {expected}, found", name, top, split, check_counts=True)


def test_published_numbers_are_those_of_the_papers():
    assert {k: (*v.images.values(), v.cameras) for k, v in LAYOUTS.items()} == {
        "market1501": (12936, 3368, 15913, 6),
        "dukemtmc": (16522, 2228, 17661, 8),
        "veri776": (37778, 1678, 11579, 20),
        "msmt17": (30248, 2373, 32621, 11659, 82161, 15),
    }
    assert {k: v.identities["train"] for k, v in LAYOUTS.items()} == {
        "market1501": 751, "dukemtmc": 702, "veri776": 576, "msmt17": 1041,
    }  # fmt: skip


def test_identities_and_cameras_are_compared_with_what_was_published(tmp_path, monkeypatch):
    top = trees.duke(tmp_path)
    for key, value in {"train": 10, "query": 2, "gallery": 5}.items():
        monkeypatch.setitem(dukemtmc.DUKE.images, key, value)
    monkeypatch.setitem(dukemtmc.DUKE.identities, "train", 3)
    assert len(open_split("dukemtmc", top, "train", check_counts=True)) == 10
    fails("identities of split 'query': expected 702, found 2", "dukemtmc", top, "query", check_counts=True)
    folder = top / "bounding_box_train"
    (folder / "0011_c3_f0000005.jpg").rename(folder / "0011_c9_f0000005.jpg")
    fails("0011_c9_f0000005.jpg' is of camera 9; .* has cameras 1 to 8", "dukemtmc", top, "train",
          check_counts=True)  # fmt: skip
    assert open_split("dukemtmc", top, "train").columns["camera"].max() == 8
    (folder / "0011_c9_f0000005.jpg").rename(folder / "0011_c0_f0000005.jpg")
    fails("is of camera 0", "dukemtmc", top, "train")


def test_an_unreadable_image_is_named_by_the_pipeline(name, tmp_path):
    source = open_split(name, TREES[name](tmp_path), "train")
    (source.root / source.names[2]).write_bytes(b"not an image")
    bad = BadImages()
    data = settings(name, tmp_path, threads=2, resize=16, image_size=16, max_bad_fraction=0.5)
    (batch,) = pipeline.eval_batches(source, data, batch_size=16, bad=bad)
    assert bad.names == (source.names[2],) and batch["valid"][2] == 0
    data.max_bad_fraction = 0.05
    with pytest.raises(UserError, match=f"1 of {len(source)} images are unreadable.*{source.names[2]}"):
        list(pipeline.eval_batches(source, data, batch_size=16))


# --- Market-1501 and DukeMTMC-reID


def test_market_gallery_keeps_distractors_and_drops_junk(tmp_path):
    top = trees.market(tmp_path)
    gallery = open_split("market1501", top, "gallery")
    assert gallery.columns["identity"].tolist() == [0, 0, 1, 1, 4, 4, 4]
    assert gallery.columns["camera"].tolist() == [0, 5, 0, 1, 0, 1, 2]
    assert not any("-1_" in n or "Thumbs" in n for n in gallery.names)
    fails(
        "files in bounding_box_test: expected 19,732, found 8",
        "market1501",
        top,
        "gallery",
        check_counts=True,
    )


def test_market_counts_after_the_junk(tmp_path, monkeypatch):
    monkeypatch.setattr(market1501, "GALLERY_FILES", 8)
    fails("images of split 'gallery': expected 15,913, found 7", "market1501", trees.market(tmp_path), "gallery",
          check_counts=True)  # fmt: skip


@pytest.mark.parametrize("identity", ["-1", "0000"])
@pytest.mark.parametrize("split", ["train", "query"])
def test_market_junk_elsewhere(tmp_path, identity, split):
    top = trees.market(tmp_path)
    file = top / trees.MARKET_FOLDERS[split] / f"{identity}_c1s1_000001_00.jpg"
    trees.jpeg(file)
    fails(
        f"{file} has identity {int(identity)}, which is allowed in bounding_box_test only",
        "market1501",
        top,
        split,
    )


@pytest.mark.parametrize("name", ["market1501", "dukemtmc"])
def test_market_like_damaged(name, tmp_path):
    top = TREES[name](tmp_path)
    for wrong in ("0002.jpg", "x_c1s1_000001_00.jpg", "0002_c001_00016450_0.jpg", "0002_d1.jpg"):
        trees.jpeg(top / "query" / wrong)
        fails(f"'query/{wrong}' has no identity and camera; expected a name like", name, top, "query")
        (top / "query" / wrong).unlink()
    trees.jpeg(top / "query" / f"{'1' * 20}_c1s1_000000_01.jpg")  # more than an integer of 64 bits holds
    fails("has a number of more than 18 digits", name, top, "query")
    (top / "query" / f"{'1' * 20}_c1s1_000000_01.jpg").unlink()
    trees.jpeg(top / "query" / "._0001_c1s1_000000_01.jpg")  # what macOS leaves
    assert len(open_split(name, top, "query")) == 2
    shutil.rmtree(top / "query")
    fails("query is missing: the data set is incomplete", name, top, "query")
    (top / "query").mkdir()
    fails(r"query has no \.jpg images", name, top, "query")


def test_market_gallery_of_junk_alone(tmp_path):
    top = trees.market(tmp_path)
    for file in (top / "bounding_box_test").glob("0*.jpg"):
        file.unlink()
    fails("split 'gallery' of Market-1501 in .* has no images", "market1501", top, "gallery")


# --- VeRi-776


def test_veri_follows_its_lists_where_they_are(tmp_path):
    listed = open_split("veri776", trees.veri(tmp_path / "a"), "train")
    plain = open_split("veri776", trees.veri(tmp_path / "b", lists=False), "train")
    rows = (listed.root / "name_train.txt").read_text().splitlines()
    assert listed.names == [f"image_train/{row}" for row in rows]
    assert plain.names == sorted(listed.names) != listed.names and len(plain) == 10


def test_veri_damaged(tmp_path):
    top = trees.veri(tmp_path)
    listing = top / "name_test.txt"
    rows = listing.read_text().splitlines()
    trees.edit(listing, 3, rows[0])
    fails(
        f"name_test.txt line 3: image '{rows[0]}' is listed twice, first in line 1", "veri776", top, "gallery"
    )
    trees.edit(listing, 3, "0004_c05_00000001_0.jpg")
    trees.jpeg(top / "image_test" / "0004_c05_00000001_0.jpg")
    fails("name_test.txt line 3: the name of image 'image_test/0004_c05_.*has no identity and camera", "veri776", top,
          "gallery")  # fmt: skip
    trees.edit(listing, 3, rows[2])
    (top / "image_test" / rows[4]).unlink()
    fails(f"image .*{rows[4]} is missing; it is listed in name_test.txt", "veri776", top, "gallery")
    listing.write_text("\n")
    fails("name_test.txt is empty", "veri776", top, "gallery")
    shutil.rmtree(top / "image_query")
    (top / "name_query.txt").unlink()
    fails("image_query is missing", "veri776", top, "query")


# --- MSMT17


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_msmt_versions_and_splits(tmp_path, version):
    top = trees.msmt(tmp_path, version)
    found = {s: open_split("msmt17", top, s) for s in msmt17.LISTS}
    folders = {"V1": ("train/", "test/"), "V2": ("mask_train_v2/", "mask_test_v2/")}[version]
    for split, source in found.items():
        assert source.name == f"MSMT17 {version}"
        assert all(n.startswith(folders[split in ("query", "gallery")]) for n in source.names)
    assert found["trainval"].names == found["train"].names + found["val"].names
    assert found["val"].class_names == found["train"].class_names == ("0000", "0001", "0002")
    assert found["val"].labels.tolist() == [0, 2]
    assert found["query"].columns["identity"].tolist() == [0, 1]
    assert found["gallery"].columns["camera"].tolist() == [0, 1, 0, 1, 2]


def test_msmt_v2_with_the_other_spelling(tmp_path):
    top = trees.msmt(tmp_path, "V2")
    (top / "mask_test_v2").rename(top / "mask_test_V2")
    assert open_split("msmt17", top, "query").load(0)


def test_msmt_both_versions_or_none(tmp_path):
    trees.msmt(tmp_path, "V1")
    two = trees.msmt(tmp_path, "V2")
    fails(
        "holds more than one version of MSMT17: name the folder of V1 or of V2", "msmt17", tmp_path, "train"
    )
    assert open_split("msmt17", two, "train").name == "MSMT17 V2"
    (tmp_path / "empty").mkdir()
    fails("has neither train and test nor mask_train_v2", "msmt17", tmp_path / "empty", "train")


LINE = "0001/0001_000_01_0303morning_0008_0.jpg"
MSMT_DAMAGE = {
    "list_train.txt is missing": lambda t: (t / "list_train.txt").unlink(),
    "list_train.txt is empty": lambda t: (t / "list_train.txt").write_text("\n\n"),
    f"list_train.txt line 4: expected '<path> <identity>', found '{LINE}'": lambda t: trees.edit(
        t / "list_train.txt", 4, LINE
    ),
    f"list_train.txt line 4: expected '<path> <identity>', found '{LINE} x1'": lambda t: trees.edit(
        t / "list_train.txt", 4, f"{LINE} x1"
    ),
    r"list_train.txt line 4: expected '<path> <identity>', found '\.\./a_b_01_c.jpg 1'": lambda t: trees.edit(
        t / "list_train.txt", 4, "../a_b_01_c.jpg 1"
    ),
    "list_train.txt line 4: the name of image '0001/0001_a.jpg' has no camera as its third field": lambda t: trees.edit(
        t / "list_train.txt", 4, "0001/0001_a.jpg 1"
    ),
    "list_train.txt line 4: image '.*' is listed twice, first in list_train.txt line 1": lambda t: trees.edit(
        t / "list_train.txt", 4, (t / "list_train.txt").read_text().splitlines()[0]
    ),
    "list_train.txt: identity 1 is missing, the next is 2; they must be consecutive from 0": lambda t: trees.edit(
        t / "list_train.txt", 4, None
    ),
    LINE.replace("000_01", "000_02") + " is missing; it is listed in list_train.txt": lambda t: trees.edit(
        t / "list_train.txt", 4, f"{LINE.replace('000_01', '000_02')} 1"
    ),
    "train is missing: the data set is incomplete": lambda t: shutil.rmtree(t / "train"),
}  # fmt: skip


@pytest.mark.parametrize("match", MSMT_DAMAGE)
def test_msmt_damaged(tmp_path, match):
    top = trees.msmt(tmp_path)
    MSMT_DAMAGE[match](top)
    fails(match, "msmt17", top, "train")


def test_msmt_lists_that_do_not_fit_together(tmp_path):
    top = trees.msmt(tmp_path)
    whole = (top / "list_val.txt").read_text()
    trees.edit(top / "list_val.txt", 2, (top / "list_train.txt").read_text().splitlines()[1])
    for split in ("val", "trainval"):
        fails("line 2: image .* is listed twice, first in list_(val|train).txt line 2", "msmt17", top, split)
    (top / "list_val.txt").write_text(whole.replace(" 2\n", " 7\n"))
    for split in ("val", "trainval"):
        fails("list_val.txt: identity 7 of image .* is not one of list_train.txt", "msmt17", top, split)
