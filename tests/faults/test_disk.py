"""A disk that is full while a checkpoint is written: one line, and nothing of what was saved is lost."""

import sys

from fusionjax import cli
from tests.faults import smallest
from tests.support import tiny

FULL = """
import errno
from fusionjax import files
whole = files.sha256
def full(path):
    if "/10." in str(path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))
    return whole(path)
files.sha256 = full
"""
"""The background writer of the checkpoint of step 10 finds no space."""


def test_a_full_disk_is_one_line_and_the_run_resumes(tmp_path):
    data = tiny.pictures(tmp_path / "root")
    process = smallest.start(data, tmp_path / "run", patch=FULL)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2 and "Traceback" not in err
    assert err.splitlines()[-1].startswith(
        "fusionjax: error: the disk is full; free some space and start the same command"
    )
    assert smallest.newest(tmp_path / "run") == 5
    process = smallest.start(data, tmp_path / "run")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0 and "resuming from step 5 of 12" in err


def test_writes_that_end_after_their_writer_are_not_reported(capfd, monkeypatch):
    """A library completes them with a callback into an event loop that the first error has closed."""

    class Fails:
        def __init__(self, text):
            self.text = text

        def __del__(self):
            raise RuntimeError(self.text)

    monkeypatch.setattr(sys, "unraisablehook", cli._in_callback)
    for text in ("Event loop is closed", "another"):
        Fails(text)
    assert "another" in (found := capfd.readouterr().err) and "Event loop" not in found
