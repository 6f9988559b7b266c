"""Fingerprints of a source: what replaces an image changes them, what moves it does not."""

import os
import shutil

import numpy as np
import pytest

from fusionjax.data import fingerprint
from fusionjax.data.image.decode import DecodeError
from fusionjax.data.source import ByIdentity, FileSource, Subset


def source(root, count=6, size=100_000):
    root.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        (root / f"{i}.png").write_bytes(rng.bytes(size))
    return opened(root, count)


def opened(root, count=6):
    names = [f"{i}.png" for i in range(count)]
    return FileSource("s", "train", ("a", "b"), np.arange(count, dtype=np.int32) % 2, names, root)


def replace(path, at):
    """Changes a byte and nothing else: name, size and times stay."""
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("at", [0, 50_000, -1])
def test_images_replaced_under_the_same_names_sizes_and_times(tmp_path, at):
    made = source(tmp_path)
    before = fingerprint.contents(made), fingerprint.state(made)
    replace(tmp_path / "3.png", at)
    assert fingerprint.contents(made) != before[0] and fingerprint.state(made) != before[1]


def test_a_copy_elsewhere_has_the_same_contents(tmp_path):
    made = source(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    assert fingerprint.contents(made) == fingerprint.contents(opened(tmp_path / "b"))
    os.utime(tmp_path / "b" / "0.png", ns=(1, 1))
    assert fingerprint.state(made) != fingerprint.state(opened(tmp_path / "b")), "a cache looks at times too"


def test_subsets_are_of_their_own_examples(tmp_path):
    made = source(tmp_path)
    part = Subset(ByIdentity(made), np.asarray([4, 1, 1]))
    before = fingerprint.state(part)
    assert len(fingerprint.stamps(part)) == 3 and fingerprint.stamps(part)[1] == fingerprint.stamps(made)[1]
    replace(tmp_path / "3.png", 7)
    assert fingerprint.state(part) == before
    replace(tmp_path / "4.png", 7)
    assert fingerprint.state(part) != before


def test_a_large_source_is_sampled(tmp_path, monkeypatch):
    made = source(tmp_path, 60, size=100)
    monkeypatch.setattr(fingerprint, "FILES", 20)
    read = []
    monkeypatch.setattr(fingerprint, "_of_file", lambda path: read.append(int(path.stem)) or str(path))
    fingerprint.contents(made)
    assert len(read) == 20 and {0, 59} < set(read)


def test_missing_files_and_pipes_neither_raise_nor_block(tmp_path):
    made = source(tmp_path)
    (tmp_path / "1.png").unlink()
    (tmp_path / "2.png").unlink()
    os.mkfifo(tmp_path / "2.png")
    assert fingerprint.state(made) and fingerprint.stamps(made)[1] is None


class Drawn:
    """A source without files."""

    name, split, class_names, columns, names = "drawn", "train", ("a",), {}, list("abc")
    labels = np.zeros(3, np.int32)

    def __init__(self, *examples):
        self.examples = examples

    def __len__(self):
        return len(self.examples)

    def load(self, i):
        if isinstance(self.examples[i], Exception):
            raise self.examples[i]
        return self.examples[i]


def test_a_source_without_files_is_loaded():
    image = np.zeros((4, 4, 3), np.uint8)
    one = fingerprint.state(Drawn(image, b"png", DecodeError("x")))
    assert one == fingerprint.state(Drawn(image.copy(), b"png", DecodeError("y")))
    others = [
        (image + 1, b"png"),
        (image, b"pnG"),
        (image.reshape(4, 3, 4), b"png"),
        (image.astype(int), b"png"),
    ]
    assert len({one, *(fingerprint.state(Drawn(*o, DecodeError("x"))) for o in others)}) == 5
