"""What is kept between runs: written whole, verified, and computed again where it is damaged."""

import json
import multiprocessing
import os
import shutil
import time

import numpy as np
import pytest

from fusionjax import disk_cache, files
from fusionjax.errors import UserError


class Cache:
    """An entry of two files, and how often it was computed."""

    def __init__(self, folder, **depends_on):
        self.entry, self.computed = disk_cache.Entry(folder, "train", depends_on), 0

    def compute(self, part):
        self.computed += 1
        np.save(part / "a.npy", np.arange(2000))
        np.save(part / "b.npy", np.ones(2000, np.int64))

    def sum(self):
        path = self.entry.open(self.compute)
        return int(np.load(path / "a.npy").sum() + 10_000_000 * np.load(path / "b.npy").sum())


RIGHT = 1_999_000 + 10_000_000 * 2000


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


def swap(folder):
    (folder / "a.npy").rename(folder / "c")
    (folder / "b.npy").rename(folder / "a.npy")
    (folder / "c").rename(folder / "b.npy")


def in_its_place(kind):
    def damage(folder):
        shutil.rmtree(folder)
        if kind == "file":
            folder.write_text("in the way")
        elif kind == "link":
            folder.symlink_to(folder.parent / "nowhere")
        elif kind == "loop":
            folder.symlink_to(folder)
        else:
            folder.mkdir()

    return damage


def replaced(name, make):
    def damage(folder):
        (folder / name).unlink()
        make(folder / name)

    return damage


DAMAGE = {
    "one bit": lambda f: flip(f / "a.npy", -1),
    "one bit of the header": lambda f: flip(f / "a.npy", 20),
    "one bit of the manifest": lambda f: flip(f / "entry.json", 40),
    "a page of zeros": lambda f: (f / "a.npy").write_bytes((f / "a.npy").read_bytes()[:4096] + bytes(12032)),
    "swapped arrays": swap,
    "another value": lambda f: np.save(f / "b.npy", np.zeros(2000, np.int64)),
    "another type": lambda f: np.save(f / "b.npy", np.ones(2000, np.float64)),
    "truncated": lambda f: os.truncate(f / "a.npy", 5000),
    "empty": lambda f: os.truncate(f / "a.npy", 0),
    "missing": lambda f: (f / "b.npy").unlink(),
    "manifest cut": lambda f: os.truncate(f / "entry.json", 30),
    "manifest missing": lambda f: (f / "entry.json").unlink(),
    "manifest nested": lambda f: (f / "entry.json").write_text("[" * 200_000),
    "manifest of no object": lambda f: (f / "entry.json").write_text("[]"),
    "manifest empty object": lambda f: (f / "entry.json").write_text("{}"),
    "manifest not UTF-8": lambda f: (f / "entry.json").write_bytes(b"\xff\xfe{}"),
    "manifest is a folder": replaced("entry.json", lambda p: p.mkdir()),
    "a folder": replaced("a.npy", lambda p: p.mkdir()),
    "a dangling link": replaced("a.npy", lambda p: p.symlink_to("nowhere")),
    "a pipe": replaced("a.npy", os.mkfifo),
    "a file in its place": in_its_place("file"),
    "a dangling link in its place": in_its_place("link"),
    "a link to itself in its place": in_its_place("loop"),
    "an empty folder in its place": in_its_place("folder"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_and_computed_again(tmp_path, damage, caplog):
    cache = Cache(tmp_path, weights="w")
    assert cache.sum() == RIGHT and cache.sum() == RIGHT and cache.computed == 1 and not caplog.messages
    DAMAGE[damage](cache.entry.path)
    assert cache.sum() == RIGHT and cache.computed == 2
    (message,) = caplog.messages
    assert message.startswith(f"{cache.entry.path} is damaged (") and message.endswith("it is computed again")
    assert cache.sum() == RIGHT and cache.computed == 2, "the new entry is whole"
    assert [p.name for p in tmp_path.iterdir()] == [cache.entry.path.name], "nothing else is left"


def test_every_byte_is_verified(tmp_path):
    cache = Cache(tmp_path)
    cache.sum()
    for name, step in (("a.npy", 997), ("entry.json", 13)):
        size = (cache.entry.path / name).stat().st_size
        for at in range(0, size, step):
            before = cache.computed
            flip(cache.entry.path / name, at)
            assert cache.sum() == RIGHT and cache.computed == before + 1, (name, at)


def test_an_entry_belongs_to_what_it_depends_on(tmp_path, monkeypatch):
    caches = [Cache(tmp_path, **d) for d in ({}, {"a": 1}, {"a": 2}, {"a": [1]}, {"b": {"a": 1}})]
    assert all(c.sum() == RIGHT for c in caches)
    monkeypatch.setattr(disk_cache, "__version__", "9.9.9")  # another version may compute another value
    caches.append(Cache(tmp_path))
    caches[-1].sum()
    assert len(list(tmp_path.iterdir())) == len(caches) and {c.computed for c in caches} == {1}
    # Copied over another entry, it is that entry's damage.
    shutil.rmtree(caches[1].entry.path)
    shutil.copytree(caches[2].entry.path, caches[1].entry.path)
    assert caches[1].sum() == RIGHT and caches[1].computed == 2


def test_a_computation_that_fails_leaves_nothing(tmp_path):
    cache = Cache(tmp_path)

    def fail(part):
        (part / "a.npy").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.entry.open(fail)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed(tmp_path):
    """Also of another entry, by a start that computes nothing; not what another process is writing."""
    cache, other, busy = Cache(tmp_path, a=1), Cache(tmp_path, a=2), Cache(tmp_path, a=3)
    cache.sum()
    for entry in (other.entry, busy.entry):
        entry._part.mkdir()
        (entry._part / "a.npy").write_bytes(b"half")
    (tmp_path / ".train-0123.npy.abcd.part").write_bytes(b"of an earlier version")
    with files.locked(tmp_path / f"{busy.entry._part.stem}.lock"):
        cache.sum()
        assert [p.name for p in tmp_path.glob(".*.part")] == [busy.entry._part.name]
    cache.sum()
    assert [p.name for p in tmp_path.iterdir()] == [cache.entry.path.name] and cache.computed == 1


def _work(folder, gate):
    def compute(part):
        (folder / f"by_{os.getpid()}").touch()
        time.sleep(0.3)
        np.save(part / "a.npy", np.arange(10))

    gate.wait()
    path = disk_cache.Entry(folder / "cache", "train", {}).open(compute)
    assert np.load(path / "a.npy").sum() == 45


def test_processes_that_start_together_compute_once(tmp_path):
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    gate = context.Barrier(3)
    workers = [context.Process(target=_work, args=(tmp_path, gate)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(180)
    assert [w.exitcode for w in workers] == [0, 0, 0]
    assert len(list(tmp_path.glob("by_*"))) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1, "no lock is left"


def test_processes_of_one_run_do_not_wait_for_each_other(tmp_path):
    """Each needs the others to compute. Whoever ends later finds the entry."""
    outer, inner = (disk_cache.Entry(tmp_path, "train", {}, shared=False) for _ in range(2))

    def write(part):
        (part / "a").write_text("x")

    def both(part):
        inner.open(write)
        write(part)

    assert (outer.open(both) / "a").read_text() == "x"
    assert [p.name for p in tmp_path.iterdir()] == [outer.path.name]


def test_arrays_in_memory(tmp_path, caplog):
    made = []

    def compute():
        made.append(1)
        return {"x": np.arange(3), "text": np.frombuffer(b"abc", np.uint8)}

    for _ in range(2):
        found = disk_cache.Entry(tmp_path, "arrays", {}).arrays(compute)
        assert found["x"].tolist() == [0, 1, 2] and found["text"].tobytes() == b"abc"
    assert len(made) == 1
    disk_cache.Entry(tmp_path, "temporary", {}).arrays(compute, keep=lambda found: False)
    assert len(made) == 2 and len(list(tmp_path.iterdir())) == 1
    # A folder that cannot be written costs time, not the run.
    (tmp_path / "file").write_text("")
    found = disk_cache.Entry(tmp_path / "file", "arrays", {}).arrays(compute)
    assert found["x"].tolist() == [0, 1, 2] and "cannot be kept" in caplog.text

    def fail():
        made.append(1)
        raise UserError("its own")

    made.clear()
    with pytest.raises(UserError, match="its own"):
        disk_cache.Entry(tmp_path, "fails", {}).arrays(fail)
    assert len(made) == 1


def test_a_folder_that_cannot_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="is a file; name a folder") as e:
            Cache(folder).sum()
        assert "\n" not in str(e.value)


def test_json_with_its_checksum(tmp_path):
    path = tmp_path / "a.json"
    content = {"name": "\udcff=1", "values": [1, 2.5, None], "n": {"b": 1, "a": True}}
    disk_cache.write_json(path, content)
    assert disk_cache.read_json(path) == content
    path.write_text(path.read_text().replace("2.5", "2.6"))
    with pytest.raises(ValueError, match="the checksum of a.json differs"):
        disk_cache.read_json(path)
    path.write_text(json.dumps(content))  # of an earlier version
    assert disk_cache.read_json(path) == content
