"""Features of a frozen trunk on disk: damage changes no feature, replaced images are noticed; a whole run."""

import dataclasses
import errno
import json
import os
import shutil

import cv2
import numpy as np
import pytest

import fusionjax
from configs import quickstart
from fusionjax import config as config_lib
from fusionjax.data.feature_cache import store
from fusionjax.data.source import FileSource, Subset
from fusionjax.data.unreadable import BadImages
from fusionjax.experiment import trainer

pytestmark = pytest.mark.usefixtures("libraries_warn")


@pytest.fixture
def source(tmp_path, rng):
    root = tmp_path / "images"
    root.mkdir()
    names = [f"{i}.bmp" for i in range(5)]
    for name in names:
        cv2.imwrite(str(root / name), rng.integers(0, 256, (16, 16, 3), np.uint8))
    (root / names[2]).write_bytes(b"no image")
    return FileSource("s", "train", ("a",), np.zeros(5, np.int32), names, root)


@pytest.fixture
def opened(tmp_path):
    """Opens the features of a source: (features, valid, names of unreadable images, lines of progress)."""
    data = config_lib.default().data
    with data.unlocked():
        data.resize = data.image_size = 16
        data.threads, data.max_bad_fraction, data.cache.passes = 1, 0.5, 2

    def make(source):
        said, bad = [], BadImages()

        def encode(batch):
            return batch["image"].astype(np.float32).mean((1, 2), keepdims=True) / 255

        cache = store.FeatureCache(
            tmp_path / "cache", encode, weights="w", data=data, seed=0, bad=bad, say=said.append
        )
        found = cache.train(source)
        return np.array(found.features), found.valid, bad.names, said

    return make


def same(a, b):
    assert all(np.array_equal(x, y) for x, y in zip(a[:2], b[:2], strict=True)) and a[2] == b[2]


def test_features_are_computed_once(source, opened):
    first = opened(source)
    assert first[0].shape == (2, 5, 1, 1, 3) and first[0].dtype == np.float16
    assert first[1].tolist() == [[1, 1, 0, 1, 1]] * 2 and first[2] == ("2.bmp",) and len(first[3]) == 1
    again = opened(source)
    same(first, again)
    assert not again[3]


@pytest.mark.parametrize("name", ["features.npy", "valid.npy", "unreadable.json"])
def test_damage_changes_nothing(source, opened, tmp_path, name, caplog):
    first = opened(source)
    (entry,) = (tmp_path / "cache").iterdir()
    content = bytearray((entry / name).read_bytes())
    content[-2] ^= 0x3C
    (entry / name).write_bytes(content)
    again = opened(source)
    same(first, again)
    assert f"the checksum of {name} differs" in caplog.text and len(again[3]) == 1


class Flaky(FileSource):
    """A source on a disk that fails once."""

    fails = (1, errno.EIO)

    def load(self, i):
        if i == self.fails[0]:
            raise OSError(self.fails[1], os.strerror(self.fails[1]), self.names[i])
        return super().load(i)


def test_an_error_of_the_disk_is_not_kept(source, opened, tmp_path, caplog):
    """The run that met it goes on without the image; the next one has it. A file that is damaged stays so."""
    flaky = Flaky(**{f.name: getattr(source, f.name) for f in dataclasses.fields(source)})
    first = opened(flaky)
    assert set(first[2]) == {"1.bmp", "2.bmp"} and not first[1][:, 1].any()
    assert (
        "1 images of train could not be read because of the system, not of the file, first 1.bmp"
        in caplog.text
    )
    again = opened(source)
    assert again[2] == ("2.bmp",) and again[1].tolist() == [[1, 1, 0, 1, 1]] * 2 and len(again[3]) == 1
    assert not opened(source)[3] and len(list((tmp_path / "cache").iterdir())) == 1
    gone = Flaky(**{f.name: getattr(source, f.name) for f in dataclasses.fields(source)})
    object.__setattr__(gone, "fails", (1, errno.ELOOP))  # the same at every try
    (entry,) = (tmp_path / "cache").iterdir()
    shutil.rmtree(entry)
    opened(gone)
    assert not opened(gone)[3]


def test_valid_set_to_zero_is_damage(source, opened, tmp_path, caplog):
    first = opened(source)
    np.save(next((tmp_path / "cache").glob("*/valid.npy")), np.zeros((2, 5), np.float32))
    same(first, opened(source))
    assert "is damaged" in caplog.text


def test_replaced_images_are_noticed(source, opened):
    """Under the same names, sizes and times."""
    first = opened(source)
    for name in ("0.bmp", "1.bmp"):
        path = source.root / name
        times = path.stat()
        image = cv2.imread(str(path))
        cv2.imwrite(str(path), 255 - image)
        assert path.stat().st_size == times.st_size
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    changed = opened(source)
    assert len(changed[3]) == 1 and not np.array_equal(first[0][0, :2], changed[0][0, :2])
    np.testing.assert_array_equal(first[0][0, 2:], changed[0][0, 2:])


def test_questions_share_the_features_of_their_image(source, opened):
    whole, part = opened(source), opened(Subset(source, np.asarray([3, 0, 3, 2])))
    np.testing.assert_array_equal(part[0][0], whole[0][0, [3, 0, 3, 2]])
    assert part[1][0].tolist() == [1, 1, 1, 0]


def test_cached_features_give_the_run_that_images_give(tmp_path):
    """The small quick start; its scores again from the images; started again, the cache is used and nothing changes."""
    config = quickstart.get_config("runlocal")
    summary = trainer.Experiment(config, tmp_path).train()
    assert len(list((tmp_path / "features").iterdir())) == 2, "an entry of each split, and nothing else"
    run = fusionjax.load(tmp_path)
    scores = run.task.scorer.scalars(run.evaluate())
    # The cache holds float16.
    assert summary["test/nll"] == pytest.approx(float(scores["test/nll"]), rel=2e-3)
    assert summary["test/accuracy"] == pytest.approx(float(scores["test/accuracy"]), abs=0.011)
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "features").glob("*/*")}
    again = trainer.Experiment(quickstart.get_config("runlocal"), tmp_path).train()
    assert again["test/nll"] == summary["test/nll"]
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "features").glob("*/*")} == stamps
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Logistic regression, frozen features" in page and "most frequent class of this split" in page
    assert json.loads((tmp_path / "config.json").read_text())["images"] == {"train": 1518, "test": 380}
