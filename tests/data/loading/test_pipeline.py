"""Batches: order, shares, resuming, padding and unreadable images."""

import errno
import json
import logging
import os

import numpy as np
import pytest
from PIL import Image

from fusionjax import config
from fusionjax.data import datasets
from fusionjax.data.loading import pipeline
from fusionjax.data.sampling import order
from fusionjax.data.source import FileSource
from fusionjax.data.unreadable import BadImages
from fusionjax.errors import UserError
from tests.support import trees
from tests.support.batches import joined, same, take

N = 22


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> FileSource:
    root = trees.folder(tmp_path_factory.mktemp("images") / "train", ("ash", "beech"), images=N // 2).parent
    return datasets.create(settings(root=str(root)), "train", seed=0)


def settings(**fields):
    data = config.default().data
    data.resize, data.image_size, data.threads, data.prefetch = 24, 16, 2, 8
    data.augment.jitter = 0.2
    data.update(fields)
    return data


def test_batch(source):
    (batch,) = take(pipeline.train_dataset(source, settings(), seed=0, batch_size=4), 1)
    assert batch["image"].shape == (4, 16, 16, 3) and batch["image"].dtype == np.uint8
    assert batch["label"].dtype == batch["index"].dtype == np.int32 and batch["valid"].dtype == np.float32
    np.testing.assert_array_equal(batch["label"], source.labels[batch["index"]])


@pytest.mark.parametrize("batch_size", [4, 32])
def test_every_example_once_an_epoch_in_a_new_order(source, batch_size):
    stream = pipeline.train_dataset(source, settings(), seed=0, batch_size=batch_size)
    indices = np.concatenate([b["index"] for b in take(stream, 66 // batch_size + 1)])
    epochs = indices[: 3 * N].reshape(3, N)
    assert (np.sort(epochs, axis=1) == np.arange(N)).all()
    assert len({tuple(e) for e in epochs}) == 3


def test_seed_decides_order_and_augmentation(source):
    a, b, c = (take(pipeline.train_dataset(source, settings(), seed=s, batch_size=4), 3) for s in (0, 0, 1))
    same(a, b)
    assert not np.array_equal(a[0]["index"], c[0]["index"])


def test_augmentation_is_new_every_epoch(source):
    batches = take(pipeline.train_dataset(source, settings(), seed=0, batch_size=N), 2)
    images = [b["image"][np.argsort(b["index"])] for b in batches]
    assert not np.array_equal(*images)


def test_threads_and_prefetching_change_nothing(source):
    variants = [settings(threads=1, prefetch=1), settings(threads=8, prefetch=64)]
    a, b = (take(pipeline.train_dataset(source, d, seed=0, batch_size=4), 12) for d in variants)
    same(a, b)


@pytest.mark.parametrize("count", [2, 4])
def test_processes_together_are_one(source, count):
    share = [{"batch_size": 8, "process_index": p, "process_count": c} for c in (1, count) for p in range(c)]
    parts = [take(pipeline.train_dataset(source, settings(), seed=0, **s), 6) for s in share]
    same(parts[0], joined(parts[1:]))
    parts = [list(pipeline.eval_batches(source, settings(), **s)) for s in share]
    same(parts[0], joined(parts[1:]))
    assert len(parts[0]) == len(pipeline.eval_batches(source, settings(), **share[0])) == 3


@pytest.mark.parametrize("at", [0, 1, 5, 6])
def test_resume_is_exact(source, at):
    whole = take(pipeline.train_dataset(source, settings(), seed=0, batch_size=4), 12)
    stream = pipeline.train_dataset(source, settings(), seed=0, batch_size=4)
    for _ in range(at):
        next(stream)
    state = json.loads(json.dumps(stream.get_state()))
    stream.close()
    resumed = pipeline.train_dataset(source, settings(threads=4), seed=0, batch_size=4)
    next(resumed)
    resumed.set_state(state)
    same(take(resumed, 12 - at), whole[at:])
    halves = [
        pipeline.train_dataset(source, settings(), seed=0, batch_size=4, process_index=p, process_count=2)
        for p in (0, 1)
    ]
    for h in halves:
        h.set_state(state)
    same(joined([take(h, 2) for h in halves]), whole[at : at + 2])


def test_state_of_another_run_is_refused(source):
    state = pipeline.train_dataset(source, settings(), seed=0, batch_size=4).get_state()
    with pytest.raises(UserError, match="batch_size=4, this run has 8"):
        pipeline.train_dataset(source, settings(), seed=0, batch_size=8).set_state(state)
    with pytest.raises(UserError, match="seed=0, this run has 1"):
        pipeline.train_dataset(source, settings(), seed=1, batch_size=4).set_state(state)


def test_eval_batches_are_padded_and_can_be_read_again(source):
    batches = pipeline.eval_batches(source, settings(), batch_size=8)
    first, second = list(batches), list(batches)
    same(first, second)
    assert np.concatenate([b["index"] for b in first]).tolist() == [*range(N), -1, -1]
    last = first[-1]
    assert last["valid"].tolist() == [1] * 6 + [0, 0]
    assert not last["image"][6:].any() and not last["label"][6:].any()
    for batch in batches:  # leaving early must not leave threads that raise later
        assert len(batch["label"]) == 8
        break


def test_augmented_batches_are_those_of_the_epoch(source):
    (batch,) = take(pipeline.train_dataset(source, settings(), seed=5, batch_size=N), 1)
    (plain,) = pipeline.augmented_batches(source, settings(), seed=5, epoch=0, batch_size=N)
    back = np.argsort(batch["index"])
    same([{k: v[back] for k, v in batch.items()}], [plain])


@pytest.mark.parametrize("size, share", [(5, (0, 2)), (4, (2, 2)), (4, (0, 0))])
def test_impossible_shares(source, size, share):
    index, count = share
    with pytest.raises(UserError):
        pipeline.eval_batches(source, settings(), batch_size=size, process_index=index, process_count=count)


def test_steps():
    assert order.steps_per_epoch(10, 4) == 2.5
    assert order.total_steps(10, 4, 3) == 8 and order.total_steps(10, 64, 1.0) == 1


# --- unreadable images


@pytest.fixture
def damaged(tmp_path) -> FileSource:
    root = trees.folder(tmp_path / "train", ("ash", "beech"), images=10).parent
    (root / "train/ash/03.jpg").write_bytes(b"not an image")
    (root / "train/beech/07.jpg").write_bytes((root / "train/beech/07.jpg").read_bytes()[:300])
    return datasets.create(settings(root=str(root)), "train", seed=0)


def test_unreadable_images_are_zeroed_counted_and_named_once(damaged, caplog):
    bad = BadImages()
    data = settings(max_bad_fraction=0.1)
    with caplog.at_level(logging.WARNING, logger="absl"):
        batches = take(pipeline.train_dataset(damaged, data, seed=0, batch_size=20, bad=bad), 3)
    assert bad.count == 2 and set(bad.names) == {"train/ash/03.jpg", "train/beech/07.jpg"}
    for batch in batches:
        gone = batch["valid"] == 0
        assert sorted(batch["index"][gone]) == [3, 17]
        assert not batch["image"][gone].any() and not batch["label"][gone].any()
    named = [r.getMessage() for r in caplog.records if "unreadable" in r.getMessage()]
    assert len(named) == 2


@pytest.mark.parametrize("kind", ["train", "eval"])
def test_too_many_unreadable_images_stop_the_run(damaged, kind):
    data = settings(max_bad_fraction=0.05)
    if kind == "train":
        stream = pipeline.train_dataset(damaged, data, seed=0, batch_size=4)
    else:
        stream = iter(pipeline.eval_batches(damaged, data, batch_size=4))
    with pytest.raises(
        UserError, match=r"2 of 20 images are unreadable.*ash/03.jpg \(.*max_bad_fraction|2 of 20"
    ):
        take(stream, 6)
    stream.close()


def test_a_file_that_vanishes_is_an_unreadable_image(damaged):
    (damaged.root / damaged.names[0]).unlink()
    batches = list(pipeline.eval_batches(damaged, settings(max_bad_fraction=1.0), batch_size=20))
    assert batches[0]["valid"].sum() == 17


def test_a_pipe_and_a_device_are_unreadable_images(damaged):
    (damaged.root / damaged.names[0]).unlink()
    os.mkfifo(damaged.root / damaged.names[0])
    (damaged.root / damaged.names[1]).unlink()
    (damaged.root / damaged.names[1]).symlink_to("/dev/zero")
    bad = BadImages()
    batches = list(pipeline.eval_batches(damaged, settings(max_bad_fraction=1.0), batch_size=20, bad=bad))
    assert batches[0]["valid"].sum() == 16
    assert "it is a named pipe, not a regular file" in bad.reasons[damaged.names[0]]
    assert "it is a device, not a regular file" in bad.reasons[damaged.names[1]]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "there is not enough memory to read train/.*: lower config.data.threads"),
        (OSError(errno.EMFILE, "Too many open files"), "train/.* cannot be read: too many files are open"),
        (UserError("a package is missing"), "a package is missing"),
    ],
)
def test_what_is_not_the_images_fault_is_no_unreadable_image(source, monkeypatch, error, message):
    def fails(*_):
        raise error

    monkeypatch.setattr(pipeline, "decode", fails)
    bad = BadImages()
    for batches in (
        pipeline.eval_batches(source, settings(max_bad_fraction=1.0), batch_size=4, bad=bad),
        pipeline.train_dataset(source, settings(max_bad_fraction=1.0), seed=0, batch_size=4, bad=bad),
    ):
        with pytest.raises(UserError, match=message):
            next(iter(batches))
    assert not bad.count


def test_the_range_of_floating_point_images_is_read(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((20, 20), 51, np.float32)).save(tmp_path / name / "x.tif")
    source = FileSource("made", "train", ("a", "b"), np.arange(2), ["a/x.tif", "b/x.tif"], tmp_path)
    with pytest.raises(UserError, match=r"51 to 51, not 0 to 1: set config.data.value_range"):
        list(pipeline.eval_batches(source, settings(), batch_size=2))
    (batch,) = pipeline.eval_batches(source, settings(value_range=(0, 255)), batch_size=2)
    assert set(np.unique(batch["image"])) == {51}


@pytest.mark.parametrize("value", [2**40 + 1, 2**31, -(2**31) - 1])
def test_a_carried_column_beyond_32_bits_is_refused(source, value):
    columns = {"camera": np.arange(N, dtype=np.int64)}
    columns["camera"][3] = value
    wide = FileSource("wide", "train", source.class_names, source.labels, source.names, source.root, columns)
    with pytest.raises(
        UserError, match=f"names 'camera', and .* has {value} there: a batch carries integers of 32 bits"
    ):
        pipeline.train_dataset(wide, settings(carry=("camera",)), seed=0, batch_size=4)


def test_no_examples(source):
    empty = FileSource("none", "train", ("a",), np.zeros(0, np.int32), [], source.root)
    with pytest.raises(UserError, match="without examples"):
        pipeline.train_dataset(empty, settings(), seed=0, batch_size=4)
    assert list(pipeline.eval_batches(empty, settings(), batch_size=4)) == []
