"""What a command shows of its work."""

import os
import pty
import re
import subprocess
import sys

import pytest

from fusionjax import progress


@pytest.fixture
def now(monkeypatch):
    """A clock that the test moves."""
    time = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: time[0])
    return time


def test_without_a_command_nothing_is_shown_but_lines(capsys):
    with progress.phase("training", 10, "steps") as phase:
        assert list(phase.track("abc")) == ["a", "b", "c"] and phase.done == 3
        progress.line("a line")
    assert capsys.readouterr().err == "a line\n"


def test_lines_where_there_is_no_terminal(capsys, now):
    with progress.showing():
        with progress.phase("starting", log=False), progress.phase("inner", 5, "images", log=False) as inner:
            now[0] += 100
            inner.advance(5)
        with progress.phase("training", 100, "steps", done=20) as phase:
            phase.advance(note="loss 2.000")  # may compile: it says nothing of the time left
            now[0] += 10
            phase.advance(9)
            now[0] += 10
            phase.advance(10, note="loss 1.000")
        progress.line("done")
    assert capsys.readouterr().err.splitlines() == [
        "[1:40] training 20 of 100 steps",
        "[2:00] training 40 of 100 steps, loss 1.000, 1:03 left",
        "done",
    ]


def test_the_last_piece_may_be_padded():
    with progress.phase("evaluating", 10, "images") as phase:
        list(phase.track(range(3), 4))
        assert phase.done == 10 and phase.text() == "evaluating 10 of 10 images"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (65, "1:05"), (3599.6, "1:00:00"), (36000, "10:00:00")]
)
def test_clock(seconds, text):
    assert progress.clock(seconds) == text


PROGRAM = """
import time
from fusionjax import progress
with progress.showing():
    with progress.phase("training", 3, "steps") as phase:
        time.sleep(0.6)
        phase.advance(note="loss [1.5]")
        with progress.phase("evaluating"):
            time.sleep(0.6)
        progress.line("val/accuracy [0.5]")
        time.sleep(0.4)
raise SystemExit(3)
"""


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}, {"COLUMNS": "20"}])
def test_a_live_line_on_a_terminal(variables):
    """It changes while the program sleeps, gives its place to a phase within, and leaves the cursor alone."""
    main, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stderr=child,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", **variables},
    )
    os.close(child)
    said = b""
    while True:
        try:
            part = os.read(main, 4096)
        except OSError:
            break
        if not part:
            break
        said += part
    os.close(main)
    assert process.wait() == 3
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode())
    assert "val/accuracy [0.5]" in text and b"\x1b[?25l" not in said
    if variables.get("TERM") != "dumb":
        assert "training 0 of 3" in text or "COLUMNS" in variables
        assert "COLUMNS" in variables or (
            "training 1 of 3 steps, loss [1.5]" in text and "evaluating" in text
        )
    if "NO_COLOR" in variables:
        assert not re.search(rb"\x1b\[[0-9;]*3[0-9]m", said)
