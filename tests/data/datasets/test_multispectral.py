"""Multispectral files, their channel maps and statistics: what a whole tree gives, and what each damage says."""

import csv
import logging
import os
import shutil

import numpy as np
import pytest
import tifffile

from fusionjax import config
from fusionjax.data import datasets, fingerprint
from fusionjax.data.loading import pipeline
from fusionjax.data.multispectral import channels, files, statistics
from fusionjax.data.source import ByIdentity, Source, Subset
from fusionjax.data.unreadable import BadImages, DecodeError
from fusionjax.errors import UserError

NAMES = ("red", "green", "blue", "uv_1", "uv_2", "uv_3")
SPLIT = (("rgb", (0, 1, 2)), ("uv", (3, 4, 5)))


def settings(root, *, names=NAMES, modalities=SPLIT, **fields):
    data = config.default().data
    with data.unlocked():
        data.channels, data.modalities = names, modalities
    data.source, data.root, data.fractions = "multispectral", str(root), (0.6, 0.2, 0.2)
    data.update(fields)
    return data


def open_split(root, split="train", *, seed=0, **fields):
    return datasets.create(settings(root, **fields), split, seed=seed)


def fails(match, *args, **kwargs):
    with pytest.raises(UserError, match=match) as e:
        open_split(*args, **kwargs)
    assert "\n" not in str(e.value)


def image(seed, shape=(8, 10, 6), dtype=np.uint8):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.random(shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def tree(root, classes=("ash", "beech"), images=10, **kwargs):
    """root/<class>/<n>.npy"""
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(images):
            np.save(root / name / f"{i:02d}.npy", image(100 * c + i, **kwargs))
    return root


# --- channel maps


def test_channel_map_by_numbers_and_names():
    split = channels.channel_map((("rgb", ("red", 1, "blue")), ("uv", [4])), NAMES)
    assert split.modalities == (("rgb", (0, 1, 2)), ("uv", (4,))) and split.count == 6
    assert split["uv"] == (4,) and split.modality_names == ("rgb", "uv") and hash(split)
    assert channels.channel_map((("a", (1,)), ("b", (4,)))).names == ("0", "1", "2", "3", "4")


@pytest.mark.parametrize(
    ("modalities", "names", "match"),
    [
        ((), NAMES, "must be .name, channels. for each modality"),
        ((("rgb", ()),), NAMES, "must be .name, channels. for each modality"),
        (("rgb",), NAMES, "must be .name, channels. for each modality"),
        ((("rgb", (0, 1)), ("uv", (1, 2))), NAMES, "'green' is in 'rgb' and again in 'uv'"),
        ((("rgb", (0, 0)),), NAMES, "'red' is in 'rgb' and again in 'rgb'"),
        ((("rgb", (0, 6)),), NAMES, "'rgb' has channel 6, which is not one of the 6: 0 to 5, or red, green"),
        ((("rgb", (-1,)),), NAMES, "has channel -1"),
        ((("rgb", ("read",)),), NAMES, "has channel 'read'"),
        ((("rgb", (True,)),), NAMES, "has channel True"),
        (
            (("rgb", ("red",)),),
            (),
            "must give channels as numbers from 0 where config.data.channels is empty",
        ),
        ((("a", (0,)), ("a", (1,))), NAMES, "config.data.modalities names 'a' twice"),
        ((("a", (0,)),), ("red", "red"), "config.data.channels names 'red' twice"),
    ],
)
def test_channel_map_mistakes(modalities, names, match):
    with pytest.raises(UserError, match=match) as e:
        channels.channel_map(modalities, names)
    assert "\n" not in str(e.value)


def test_channel_map_of_a_wrapped_source(tmp_path):
    source = open_split(tree(tmp_path / "d"))
    for wrapped in (source, Subset(source, [0]), ByIdentity(source), Subset(ByIdentity(source), [1])):
        assert channels.of(wrapped) is source.channels
    for name in ("ash", "beech"):
        (tmp_path / "p" / name).mkdir(parents=True)
        (tmp_path / "p" / name / "0.jpg").write_bytes(b"x")
    plain = config.default().data
    plain.root = str(tmp_path / "p")
    with pytest.raises(UserError, match="p has no channel map; config.data.source must be"):
        channels.of(Subset(datasets.create(plain, "train", seed=0), [0]))


# --- layouts


def test_class_folders_are_split_by_fractions(tmp_path):
    root = tree(tmp_path / "d")
    parts = {s: open_split(root, s) for s in ("train", "val", "test")}
    names = [n for p in parts.values() for n in p.names]
    assert len(names) == len(set(names)) == 20
    train = parts["train"]
    assert isinstance(train, Source) and train.class_names == ("ash", "beech")
    assert np.bincount(train.labels).tolist() == [6, 6] and train.labels.dtype == np.int32
    assert train.image_shape == (8, 10, 6) and train.dtype == np.uint8
    for i in (0, 11):
        np.testing.assert_array_equal(train.load(i), np.load(root / train.names[i]))
    assert parts["test"].names != open_split(root, "test", seed=1).names


def test_split_folders_with_classes(tmp_path):
    tree(tmp_path / "train", images=3)
    tree(tmp_path / "test", ("beech",), images=2)
    test = open_split(tmp_path, "test")
    assert test.labels.tolist() == [1, 1] and test.class_names == ("ash", "beech")
    fails("no folder 'val'", tmp_path, "val")


def test_flat_files(tmp_path):
    tree(tmp_path, ("d",))
    parts = [open_split(tmp_path / "d", s) for s in ("train", "val", "test")]
    assert [len(p) for p in parts] == [6, 2, 2] and len({n for p in parts for n in p.names}) == 10
    assert parts[0].class_names == ("unlabelled",) and not parts[0].labels.any()


def test_flat_files_in_split_folders(tmp_path):
    tree(tmp_path, ("train", "test"), images=3)
    assert open_split(tmp_path, "test").names == ["test/00.npy", "test/01.npy", "test/02.npy"]
    fails("no folder 'val' with images; it has test, train", tmp_path, "val")
    tree(tmp_path, ("bus",), images=10)  # classes of unlucky names, or splits?
    fails("has the folders test and train without class folders in them", tmp_path, "train")


def test_loose_files_beside_class_folders(tmp_path):
    tree(tmp_path)
    np.save(tmp_path / "mean.npy", image(0))
    fails("holds mean.npy and also folders with images: put all images into class folders, or none", tmp_path)


def test_nothing_to_read(tmp_path):
    fails(r"config\.data\.root is empty", "")
    fails("does not exist", tmp_path / "no")
    fails("has no class folders", tmp_path)
    (tmp_path / "ash").mkdir()
    (tmp_path / "ash" / "0.jpg").write_bytes(b"x")
    fails(r"has no multispectral images \(.npy, .tif, .tiff\)", tmp_path)


def test_manifest(tmp_path):
    tree(tmp_path, images=3)
    rows = [
        {"path": f"{c}/{i:02d}.npy", "label": c, "split": "test" if i == 2 else "train", "identity": i}
        for c in ("ash", "beech")
        for i in range(3)
    ]

    def write(rows):
        with open(tmp_path / "list.csv", "w", newline="") as f:
            writer = csv.DictWriter(f, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)

    write(rows)
    test = open_split(tmp_path / "list.csv", "test")
    assert test.labels.tolist() == [0, 1] and test.columns["identity"].tolist() == [2, 2]
    np.testing.assert_array_equal(test.load(1), image(102))
    assert open_split(tmp_path / "list.csv", "test", label="identity").class_names == ("2",)
    (tmp_path / "ash" / "0.jpg").write_bytes(b"x")
    write([*rows, {"path": "ash/0.jpg", "label": "ash", "split": "train", "identity": 0}])
    fails("lists ash/0.jpg, which does not end in .npy, .tif, .tiff", tmp_path / "list.csv")


# --- TIFF


TIFFS = {
    "samples": lambda p, x: tifffile.imwrite(p, x, photometric="minisblack", planarconfig="contig"),
    "planes": lambda p, x: tifffile.imwrite(
        p, x.transpose(2, 0, 1), photometric="minisblack", planarconfig="separate"
    ),
    "pages": lambda p, x: tifffile.imwrite(p, x.transpose(2, 0, 1), photometric="minisblack"),
    "pages alone": lambda p, x: tifffile.imwrite(
        p, x.transpose(2, 0, 1), photometric="minisblack", metadata=None
    ),
    "as NumPy has it": lambda p, x: tifffile.imwrite(p, x, photometric="minisblack"),
    "rgb and more": lambda p, x: tifffile.imwrite(p, x, photometric="rgb", planarconfig="contig"),
    "ImageJ": lambda p, x: tifffile.imwrite(p, x.transpose(2, 0, 1), imagej=True, metadata={"axes": "CYX"}),
    "big endian": lambda p, x: tifffile.imwrite(
        p, x, photometric="minisblack", planarconfig="contig", byteorder=">"
    ),
    "compressed": lambda p, x: tifffile.imwrite(
        p, x, photometric="minisblack", planarconfig="contig", compression="zlib"
    ),
}


@pytest.mark.parametrize("how", TIFFS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_tiff(tmp_path, how, dtype):
    expected = image(1, dtype=dtype)
    path = tmp_path / "a.TIFF"
    TIFFS[how](path, expected)
    assert files.header(path, 6) == files.Format((8, 10, 6), np.dtype(dtype).name)
    read = files.read(path, 6)
    assert read.dtype == dtype and read.dtype.isnative and read.flags.c_contiguous
    np.testing.assert_array_equal(read, expected)


def test_tiff_of_one_band_and_of_too_many_axes(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", image(0, (8, 10)))
    assert files.header(tmp_path / "a.tif", 1).shape == files.read(tmp_path / "a.tif", 1).shape == (8, 10, 1)
    tifffile.imwrite(tmp_path / "b.tif", image(0, (2, 6, 8, 10)), photometric="minisblack")
    assert len(files.header(tmp_path / "b.tif", 6).shape) == 4
    with tifffile.TiffWriter(tmp_path / "c.tif") as writer:
        writer.write(image(0, (8, 10)), metadata=None)
        writer.write(image(0, (9, 9)), metadata=None)
    with pytest.raises(DecodeError, match="holds 2 series"):
        files.header(tmp_path / "c.tif", 6)


def test_tiff_without_the_package(tmp_path, monkeypatch):
    (tmp_path / "d").mkdir()
    tifffile.imwrite(tmp_path / "d" / "a.tif", image(0), photometric="minisblack", planarconfig="contig")
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    fails(r'reading a.tif needs the package tifffile: pip install "fusionjax\[spectral\]"', tmp_path / "d")


def test_both_kinds_of_file_are_one_data_set(tmp_path):
    tree(tmp_path, ("d",), images=9)
    TIFFS["planes"](tmp_path / "d" / "10.tif", image(7))
    whole = open_split(tmp_path / "d", fractions=(1.0, 0.0, 0.0))
    np.testing.assert_array_equal(whole.load(9), image(7))


def test_fortran_order_is_read_as_it_stands(tmp_path):
    np.save(tmp_path / "a.npy", np.asfortranarray(image(3)))
    read = files.read(tmp_path / "a.npy", 6)
    np.testing.assert_array_equal(read, image(3))
    assert read.flags.c_contiguous


# --- mistakes


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (
            image(0, (8, 10, 5)),
            r"ash.03\.npy has 5 channels, \(8, 10, 5\) uint8, and 6 are named \(red, green",
        ),
        (
            image(0, (8, 12, 6)),
            r"ash.03\.npy is \(8, 12, 6\) uint8, .* is \(8, 10, 6\) uint8: all images must have the same size",
        ),
        (image(0, dtype=np.uint16), r"ash.03\.npy is \(8, 10, 6\) uint16, .* is \(8, 10, 6\) uint8"),
        (image(0, (8, 10)), r"ash.03\.npy is \(8, 10\) uint8, not \(H, W, C\)"),
        (
            image(0, dtype=np.float64),
            r"ash.03\.npy is .* float64: convert it to one of uint8, uint16, float32",
        ),
    ],
)
def test_formats_that_do_not_fit(tmp_path, bad, match):
    root = tree(tmp_path / "d", images=5)
    np.save(root / "ash" / "03.npy", bad)
    fails(match, root, fractions=(1.0, 0.0, 0.0))


def test_too_many_pixels(tmp_path):
    root = tree(tmp_path / "d")
    assert len(open_split(root, max_pixels=80)) == 12
    fails("has 8 × 10 pixels, config.data.max_pixels=79 allows fewer", root, max_pixels=79)


def test_a_test_split_of_another_size_than_training(tmp_path):
    tree(tmp_path / "train", images=2)
    tree(tmp_path / "test", images=2, shape=(9, 10, 6))
    assert open_split(tmp_path, "train").image_shape == (8, 10, 6)
    fails(
        r"test.ash.00\.npy is \(9, 10, 6\) uint8, train/ash/00\.npy is \(8, 10, 6\) uint8", tmp_path, "test"
    )
    shutil.rmtree(tmp_path / "train")
    assert open_split(tmp_path, "test").image_shape == (9, 10, 6)


def test_headers_are_read_without_pixels(tmp_path, monkeypatch):
    root = tree(tmp_path / "d", images=3)
    for i in range(3):
        TIFFS["samples"](root / "ash" / f"t{i}.tif", image(i))

    def refused(*args, **kwargs):
        raise AssertionError("pixels were read")

    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", refused)
    loaded = []
    original = np.load
    monkeypatch.setattr(np, "load", lambda *a, **k: loaded.append(k["mmap_mode"]) or original(*a, **k))
    assert len(open_split(root, fractions=(1.0, 0.0, 0.0))) == 9
    assert set(loaded) == {"r"}


def not_finite(root, value):
    bad = image(5, dtype=np.float32)
    bad[2, 7, 4] = bad[3, 0, 0] = value
    np.save(root / "ash" / "05.npy", bad)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(tmp_path, value):
    root = tree(tmp_path / "d", dtype=np.float32)
    not_finite(root, value)
    source = open_split(root, fractions=(1.0, 0.0, 0.0))
    with pytest.raises(
        DecodeError, match=rf"^{value} in channel 4 at row 2, column 7; 2 of 480 values are not finite$"
    ):
        source.load(list(source.names).index("ash/05.npy"))


def pickled(path):
    with path.open("wb") as file:
        np.save(file, np.asarray([{}], object), allow_pickle=True)


DAMAGE = {
    "cut off": lambda p: p.write_bytes(p.read_bytes()[:300]),
    "empty": lambda p: p.write_bytes(b""),
    "other": lambda p: p.write_bytes(b"GIF89a" * 30),
    "pickle": pickled,
    "archive": lambda p: p.write_bytes(archive(p)),
}


def archive(path):
    np.savez(path.with_suffix(".npz"), a=image(0))
    return path.with_suffix(".npz").read_bytes()


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_damaged_files_are_met_when_they_are_read(tmp_path, how, suffix):
    root = tree(tmp_path / "d", images=5)
    path = root / "ash" / f"05{suffix}"
    (TIFFS["samples"] if suffix == ".tif" else np.save)(path, image(5))
    DAMAGE[how](path)
    source = open_split(root, fractions=(1.0, 0.0, 0.0))
    with pytest.raises(DecodeError) as e:
        source.load(list(source.names).index(f"ash/05{suffix}"))
    assert "\n" not in str(e.value)


def test_all_files_damaged(tmp_path):
    root = tree(tmp_path / "d", ("ash",), images=5)
    for path in (root / "ash").iterdir():
        DAMAGE["pickle"](path)
    fails(r"none of the 3 images of split 'train' .* can be read: ash/0\d.npy: ValueError", root)


def test_a_file_that_changed_since(tmp_path):
    source = open_split(tree(tmp_path / "d"))
    np.save(source.root / source.names[0], image(0, (4, 4, 6)))
    with pytest.raises(DecodeError, match=r"it is \(4, 4, 6\) uint8, the others are \(8, 10, 6\) uint8"):
        source.load(0)


# --- statistics


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_statistics_are_those_of_all_pixels(tmp_path, dtype):
    source = open_split(tree(tmp_path / "d", dtype=dtype))
    pixels = np.concatenate([source.load(i).reshape(-1, 6) for i in range(len(source))]).astype(np.longdouble)
    found = statistics.channel_statistics(source, tmp_path / "cache")
    np.testing.assert_allclose(found.mean, pixels.mean(0).astype(float), rtol=1e-13)
    np.testing.assert_allclose(found.std, pixels.std(0).astype(float), rtol=1e-13)
    assert found.minimum == tuple(pixels.min(0)) and found.maximum == tuple(pixels.max(0))
    assert found.images == 12 and found.pixels == 12 * 80


class Arrays:
    """A source of arrays at hand."""

    name, split, class_names, columns = "arrays", "train", ("x",), {}

    def __init__(self, *images):
        self.images, self.names = images, [f"{i}.npy" for i in range(len(images))]
        self.labels = np.zeros(len(images), np.int32)

    def __len__(self):
        return len(self.images)

    def load(self, i):
        if isinstance(self.images[i], Exception):
            raise self.images[i]
        return self.images[i]


def test_statistics_keep_their_digits_beside_a_large_mean(tmp_path, rng):
    images = [1e6 + rng.normal(0, 1e-2, (40, 30, 2)) for _ in range(5)]
    images.append(1e6 + rng.normal(3, 1e-2, (11, 7, 2)))  # another mean and another size
    found = statistics.channel_statistics(Arrays(*images), tmp_path)
    pixels = np.concatenate([i.reshape(-1, 2) for i in images]) - 1e6
    np.testing.assert_allclose(found.std, pixels.std(0), rtol=1e-8)
    naive = np.concatenate([i.reshape(-1, 2) for i in images])
    naive = np.sqrt(np.maximum((naive**2).mean(0) - naive.mean(0) ** 2, 0))
    assert np.abs(naive / pixels.std(0) - 1).max() > 1e-4  # what the formula is for


def holes(tmp_path, dtype=np.float32, hole=-10_000.0):
    """The same images without and with values that are no data."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(("healthy", "rust")):
        for i in range(10):
            whole = np.clip(rng.normal(0.2 + 0.1 * k, 0.05, (32, 32, 4)), 0, 1)
            whole = (whole if np.dtype(dtype).kind == "f" else 200 * whole).astype(dtype)
            for folder in ("without", "with"):
                image, tags = whole.copy(), []
                if folder == "with" and i % 4 == 0:
                    image[:6, :6], tags = hole, [(42113, "s", 0, f"{hole:g}", True)]
                path = tmp_path / folder / name / f"{i}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(path, np.moveaxis(image, -1, 0), photometric="minisblack",
                                 planarconfig="separate", metadata=None, extratags=tags)  # fmt: skip
    options = {"names": (), "modalities": (("a", (0, 1)), ("b", (2, 3))), "fractions": (1.0, 0.0, 0.0)}
    return [open_split(tmp_path / folder, **options) for folder in ("without", "with")]


@pytest.mark.parametrize(("dtype", "hole"), [(np.float32, -10_000.0), (np.float32, np.nan), (np.uint8, 255)])
def test_no_data_is_in_no_statistic_and_filled(tmp_path, dtype, hole):
    sources = holes(tmp_path, dtype, hole)
    want, found = (statistics.channel_statistics(s, tmp_path / "cache") for s in sources)
    for name in ("mean", "std", "minimum", "maximum"):
        np.testing.assert_allclose(getattr(found, name), getattr(want, name), rtol=0.01)
    without, with_holes = (np.stack([s.load(i) for i in range(len(s))]) for s in sources)
    assert with_holes.shape == without.shape and with_holes.dtype == dtype
    assert np.abs(with_holes.mean(axis=(0, 1, 2)) / without.mean(axis=(0, 1, 2)) - 1).max() < 0.01
    images, share = sources[1].filled.count()
    assert images == 6 and np.isclose(share, 36 / 1024) and sources[0].filled.count() == (0, 0.0)
    i = next(i for i in range(len(sources[1])) if isinstance(sources[1].load(i), np.ma.MaskedArray))
    image = sources[1].load(i)
    assert image.mask[:6, :6].all() and image.mask.sum() == 36 * 4
    rest = np.asarray(image)[~image.mask].reshape(-1, 4).mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(
        np.asarray(image)[0, 0], np.round(rest) if dtype == np.uint8 else rest, rtol=1e-5
    )


def test_no_data_through_wrapped_sources_and_batches(tmp_path):
    _, source = holes(tmp_path)
    want = statistics.channel_statistics(source, tmp_path / "cache")
    for wrapped in (Subset(source, np.arange(len(source))), ByIdentity(source)):
        assert statistics.channel_statistics(wrapped, tmp_path / "other").maximum == want.maximum
    data = settings(
        tmp_path / "with", names=(), modalities=(("a", (0, 1)), ("b", (2, 3))), resize=8, image_size=8
    )
    batches = list(pipeline.eval_batches(source, data, batch_size=5))
    image = np.concatenate([b["image"] for b in batches])
    assert type(image) is np.ndarray and image.min() > 0 and sum(b["valid"].sum() for b in batches) == 20


def test_what_fills_no_data_is_a_field(tmp_path):
    holes(tmp_path)
    source = open_split(
        tmp_path / "with",
        names=(),
        modalities=(("a", (0, 1, 2, 3)),),
        nodata="-0.5",
        fractions=(1.0, 0.0, 0.0),
    )
    assert {float(np.asarray(source.load(i)).min()) < 0 for i in range(20)} == {True, False}
    assert np.asarray(source.load(0))[0, 0, 0] == -0.5
    c = config.default()
    c.data.modalities, c.data.mean, c.data.std, c.data.nodata = (("a", (0, 1)),), (), (), "median"
    with pytest.raises(UserError, match="config.data.nodata='median' is not possible: mean, or a number"):
        config.validate(c)


def test_pipes_and_huge_compressed_files_are_not_read(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "a.tif")
    with pytest.raises(DecodeError, match="it is a named pipe"):
        files.read(tmp_path / "a.tif", 3)
    tifffile.imwrite(
        tmp_path / "b.tif", np.zeros((64, 64, 3), np.uint8), photometric="rgb", compression="zlib"
    )
    monkeypatch.setattr(files, "LARGEST", 12_000)
    with pytest.raises(DecodeError, match="its pixels take 12,288 bytes, more than the 12,000"):
        files.read(tmp_path / "b.tif", 3)


def test_statistics_do_not_depend_on_threads(tmp_path, rng):
    source = Arrays(*(rng.normal(size=(9, 9, 3)) for _ in range(30)))
    one, many = (statistics.channel_statistics(source, tmp_path / str(n), threads=n) for n in (1, 8))
    assert one == many


def test_statistics_are_computed_once(tmp_path, monkeypatch):
    root = tree(tmp_path / "d")
    source, folder = open_split(root), tmp_path / "cache"
    first = statistics.channel_statistics(source, folder)
    reads = []
    original = files.read
    monkeypatch.setattr(files, "read", lambda *a: reads.append(1) or original(*a))
    assert statistics.channel_statistics(open_split(root), folder) == first and not reads
    (kept,) = folder.iterdir()
    assert np.load(kept / "mean.npy").tolist() == list(first.mean)

    path = root / source.names[0]
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))  # touched: read again
    statistics.channel_statistics(open_split(root), folder)
    assert len(reads) == len(source) and len(list(folder.iterdir())) == 2
    statistics.channel_statistics(open_split(root, "test"), folder)  # another split, other files
    assert len(list(folder.iterdir())) == 3


def test_damaged_statistics_are_computed_again(tmp_path, rng, caplog):
    source = Arrays(rng.random((5, 5, 2)))
    first = statistics.channel_statistics(source, tmp_path)
    (kept,) = tmp_path.iterdir()
    np.save(kept / "mean.npy", np.zeros(2))
    with caplog.at_level(logging.WARNING):
        assert statistics.channel_statistics(source, tmp_path) == first
    assert "damaged" in caplog.text and list(tmp_path.iterdir()) == [kept]


def test_statistics_name_what_they_cannot_read(tmp_path):
    root = tree(tmp_path / "d", dtype=np.float32)
    not_finite(root, np.nan)
    source = open_split(root, fractions=(1.0, 0.0, 0.0))
    for _ in range(2):  # computed, kept
        bad = BadImages()
        found = statistics.channel_statistics(source, tmp_path / "cache", bad=bad, max_bad_fraction=0.1)
        assert found.images == 19 and np.isfinite(found.mean).all()
        assert bad.names == ("ash/05.npy",) and "nan in channel 4" in bad.reasons["ash/05.npy"]
        with pytest.raises(
            UserError, match=r"1 of 20 images are unreadable, .*ash/05.npy \(nan in channel 4"
        ):
            statistics.channel_statistics(source, tmp_path / "cache")


def test_statistics_are_not_kept_when_the_disk_failed(tmp_path, rng):
    source = Arrays(rng.random((5, 5, 2)), OSError(5, "Input/output error"))
    assert statistics.channel_statistics(source, tmp_path, max_bad_fraction=1).images == 1
    assert not list(tmp_path.iterdir())


def test_statistics_of_nothing_and_of_constants(tmp_path, caplog):
    with pytest.raises(
        UserError, match=r"split 'train' of arrays has no image that can be read: 0.npy \(broken\)"
    ):
        statistics.channel_statistics(Arrays(DecodeError("broken")), tmp_path, max_bad_fraction=1)
    constant = np.dstack([np.full((4, 4), 7), np.arange(16).reshape(4, 4)])
    with caplog.at_level(logging.WARNING):
        assert statistics.channel_statistics(Arrays(constant, constant), tmp_path).std[0] == 0
    assert "constant over all pixels: channels 0" in caplog.text
    with pytest.raises(UserError, match="1.npy has 2 channels, those before it have 3"):
        statistics.channel_statistics(Arrays(np.ones((4, 4, 3)), np.ones((4, 4, 2))), tmp_path / "other")


# --- OpenMoji pairs and look-alikes


def pairs(split, size=24, seed=0):
    data = config.default().data
    data.source, data.resize, data.fractions = "openmoji_pair", size, (0.7, 0.1, 0.2)
    return datasets.create(data, split, seed=seed)


def test_openmoji_pairs():
    parts = {s: pairs(s) for s in ("train", "train_base", "val", "test")}
    assert {s: len(p) for s, p in parts.items()} == {
        "train": 2573,
        "train_base": 1328,
        "val": 190,
        "test": 380,
    }
    identities = {s: set(p.columns["identity"].tolist()) for s, p in parts.items()}
    assert [len(identities[s]) for s in ("train", "val", "test")] == [1328, 190, 380]
    assert not identities["train"] & identities["test"] and not identities["val"] & identities["test"]
    test, data = parts["test"], config.default().data
    assert isinstance(test, Source) and len(set(test.names)) == 380 and set(test.columns["tone"]) == {""}
    data.source, data.resize, data.fractions, data.renderings = (
        "openmoji",
        24,
        (0.7, 0.1, 0.2),
        ("color", "line"),
    )
    single = datasets.create(data, "test", seed=0)
    for i in (0, 200):
        pair = test.load(i)
        assert pair.shape == test.image_shape == (24, 24, 6) and pair.dtype == test.dtype
        assert single.names[2 * i : 2 * i + 2] == [f"{test.names[i]}:color", f"{test.names[i]}:line"]
        np.testing.assert_array_equal(pair[..., test.channels["color"]], single.load(2 * i))
        np.testing.assert_array_equal(pair[..., test.channels["line"]], single.load(2 * i + 1))
        assert test.labels[i] == single.labels[2 * i]
        assert test.columns["caption"][i] == single.columns["caption"][2 * i]


def test_contents_of_drawings_do_not_depend_on_their_size():
    val, larger, test = (fingerprint.contents(pairs(*of)) for of in (("val", 16), ("val", 24), ("test", 16)))
    assert val == larger != test, "the files, at whatever size they are drawn"


def test_look_alikes_of_openmoji():
    test = pairs("test", 128)
    ids = channels.duplicate_groups(test)
    captions = test.columns["caption"]
    together = [
        ids[np.flatnonzero(captions == name)[0]] for name in ("blue heart", "green heart", "keycap 7")
    ]
    assert together[0] == together[1] != together[2]
    assert len(np.unique(ids)) == 321 and np.bincount(ids).max() == 50


def test_look_alikes_are_linked_through_either_modality(tmp_path):
    a, b, c, d = (image(k, (4, 4, 3)) for k in range(4))
    root = tmp_path / "d"
    root.mkdir()
    for i, (rgb, uv) in enumerate([(a, b), (c, b), (c, d), (d, a), (a[::-1], d[::-1])]):
        np.save(root / f"{i}.npy", np.dstack([rgb, uv]))
    (root / "5.npy").write_bytes(b"")
    source = open_split(root, fractions=(1.0, 0.0, 0.0))
    assert channels.duplicate_groups(source).tolist() == [0, 0, 0, 3, 4, 5]  # `a` as uv is not `a` as rgb
    assert channels.duplicate_groups(source, ("rgb",)).tolist() == [0, 1, 1, 3, 4, 5]
