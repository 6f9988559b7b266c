"""Results of a finished run: what is written is read, and damage is one line."""

import os

import numpy as np
import pytest

from fusionjax.errors import UserError
from fusionjax.evaluation import per_example
from fusionjax.experiment import results

SCORES = {"test/accuracy": 0.8, "test/nll": 1.25, "step": 12, "seconds": 75.0}


@pytest.fixture
def run(tmp_path):
    correct = (np.arange(300) % 5 > 0).astype(np.uint8)
    names = [f"{i}.png" for i in range(300)]
    arrays = {"name": names, "split": np.array("test"), "read": np.array(["test"]), "correct": correct}
    results.write(tmp_path, SCORES, {**arrays, "label": np.arange(300)})
    return tmp_path


def test_what_is_written_is_read(run):
    scores, found = results.read(run)
    assert scores == SCORES and len(found.names) == 300 and found.values["label"].sum() == 299 * 150
    (run / "sums.json").unlink()  # a run of an earlier version
    assert results.read(run)[0] == SCORES


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def folder_instead(path):
    path.unlink()
    path.mkdir()


def pipe_instead(path):
    path.unlink()
    os.mkfifo(path)


def link_instead(path):
    path.unlink()
    path.symlink_to(path)


DAMAGE = {
    "cut": lambda p: os.truncate(p, p.stat().st_size // 2),
    "empty": lambda p: os.truncate(p, 0),
    "zeros": lambda p: p.write_bytes(bytes(p.stat().st_size)),
    "nested": lambda p: p.write_text("[" * 200_000),
    "other": lambda p: p.write_text("[1, 2]"),
    "no text": lambda p: p.write_bytes(b"\xff\xfe\x00"),
    "folder": folder_instead,
    "pipe": pipe_instead,
    "link to itself": link_instead,
}


FILES = [
    ("results.json", True),
    ("outcomes.npz", True),
    ("sums.json", True),
    ("results.json", False),
    ("outcomes.npz", False),
]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(("name", "sums"), FILES)
def test_damage_is_one_line(run, name, damage, sums):
    if not sums:
        (run / "sums.json").unlink()
    DAMAGE[damage](run / name)
    with pytest.raises(UserError, match="damaged|do not belong together") as e:
        results.read(run)
    assert "\n" not in str(e.value) and "training command" in str(e.value)


def test_every_byte_is_verified(run):
    """Also of a score that no array is the mean of, and of bytes that no reader of archives looks at."""
    for name in ("results.json", "outcomes.npz"):
        whole = (run / name).read_bytes()
        for at in range(0, len(whole), max(1, len(whole) // 60)):
            flip(run / name, at)
            with pytest.raises(UserError):
                results.read(run)
            (run / name).write_bytes(whole)
    assert results.read(run)[0] == SCORES


def test_the_archive_alone_never_gives_a_traceback(run):
    """Runs of an earlier version have no checksums: each byte flipped is harmless or one line."""
    whole = (run / per_example.FILE).read_bytes()
    (run / "sums.json").unlink()
    for at in range(0, len(whole), max(1, len(whole) // 150)):
        (run / per_example.FILE).write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            results.read(run)
        except UserError as e:
            assert "\n" not in str(e)
