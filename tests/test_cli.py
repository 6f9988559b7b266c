"""Exit codes and one line."""

import os
import re
import subprocess
import sys

import pytest

PROGRAM = """
import errno, signal, sys, time
from fusionjax import cli
from fusionjax.arguments import Command
from fusionjax.errors import UserError

def full(rest):
    try:
        raise OSError(errno.ENOSPC, "No space left on device", "/runs/x")
    except OSError as e:
        raise ValueError("a library wrapped it") from e

def told(rest):
    raise ValueError("RESOURCE_EXHAUSTED: write failed: No space left on device")

def large(rest):
    raise MemoryError("Unable to allocate 3. TiB")

def device(rest):
    raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes.")

def mistake(rest):
    raise UserError("config.a=1 is\\n not possible")

def interrupted(rest):
    raise KeyboardInterrupt

def deaf(rest):
    cli._PATIENCE = 0.5
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:  # as a library's callback does
        time.sleep(60)

def twice(rest):
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.raise_signal(signal.SIGINT)
        time.sleep(60)

def backend(rest):
    import jax
    jax.devices()

def figure(rest):
    import matplotlib
    print(matplotlib.get_backend())

def bug(rest):
    raise ValueError("ours")

def prints(rest):
    for i in range(100_000):
        print("caf\\udce9 \\N{SNOWMAN} \\N{LATIN SMALL LETTER E WITH ACUTE}")

def once(rest):
    print("caf\\udce9 \\N{SNOWMAN} \\N{LATIN SMALL LETTER E WITH ACUTE}")

cli.run(Command("program", "", lambda parser: None, {name}), [])
"""


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        (
            "full",
            2,
            "fusionjax: error: the disk is full; free some space and start the same command again (/runs/x)\n",
        ),
        ("told", 2, "fusionjax: error: the disk is full; free some space and start the same command again\n"),
        (
            "large",
            2,
            "fusionjax: error: out of memory; lower config.train.batch_size or the size of the images or of the model "
            "(Unable to allocate 3. TiB)\n",
        ),
        (
            "device",
            2,
            "fusionjax: error: out of memory; lower config.train.batch_size or the size of the images or of the model "
            "(RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes.)\n",
        ),
        ("mistake", 2, "fusionjax: error: config.a=1 is not possible\n"),
        ("deaf", 130, "fusionjax: interrupted; start the same command again to resume\n"),
        ("twice", 130, "fusionjax: interrupted; start the same command again to resume\n"),
        ("interrupted", 130, "fusionjax: interrupted; start the same command again to resume\n"),
    ],
)
def test_one_line_and_an_exit_code(name, code, message):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{name}", name)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (code, message)


@pytest.mark.parametrize("name", ["prints", "once"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_gone_is_no_error(name, unbuffered):
    """As in `predict … | true`."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{name}", name)],
        stdout=writer, stderr=subprocess.PIPE, env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", b"caf\xe9 \xe2\x98\x83 \xc3\xa9\n"),
        ("iso-8859-1", b"caf\xe9 \\u2603 \xe9\n"),
        ("ascii", b"caf\xe9 \\u2603 \\xe9\n"),
    ],
)
def test_names_are_printed_in_any_locale(encoding, expected):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{name}", "once")],
        capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, b"")


def test_our_own_bugs_keep_their_traceback():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{name}", "bug")], capture_output=True, text=True
    )
    assert done.returncode == 1 and "Traceback" in done.stderr


def command(*arguments, code):
    done = subprocess.run(
        [sys.executable, "-m", "fusionjax.main", "--check", *arguments], capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    return done.stderr


def test_a_wrong_config_file_is_one_line_and_a_traceback_where_it_is_wanted(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("def get_config():\n    return 1 / 0\n")
    line = f"fusionjax: error: --config={path} fails in line 2: ZeroDivisionError: division by zero\n"
    assert command(f"--config={path}", code=2) == line
    long = command("-v", f"--config={path}", code=2)
    assert long.endswith(line) and long.startswith("Traceback") and "return 1 / 0" in long
    said = command("--config=/etc/passwd", code=2)
    assert said == (
        "fusionjax: error: --config=/etc/passwd is not a Python file: its name does not end in .py\n"
    )


@pytest.mark.parametrize(
    ("platform", "why"), [("wrong", ": Unable to initialize backend 'wrong': .*"), ("cuda", ".*")]
)
def test_a_device_that_is_not_there_is_one_line(platform, why):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{name}", "backend")],
        capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": platform},
    )  # fmt: skip
    line = f"fusionjax: error: JAX has no device for JAX_PLATFORMS={platform}{why}; unset the variable, or install"
    assert done.returncode == 2 and re.match(line, done.stderr.splitlines()[-1])
    assert "Traceback" not in done.stderr


def test_a_notebooks_backend_of_matplotlib_is_not_needed():
    """Its shell commands inherit it, and may run in an environment that does not have it."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{name}", "figure")],
        capture_output=True, text=True, env=os.environ | {"MPLBACKEND": "module://absent.backend"},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "agg\n", "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams(closed):
    """As of a program that a daemon starts."""
    command = ["bash", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, PROGRAM.replace("{name}", "once")]
    done = subprocess.run(command, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("argument", ["", " --help", " train --help", " models"])
def test_a_reader_that_has_gone_is_no_traceback(argument):
    line = f"{sys.executable} -m fusionjax{argument} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert done.stderr == "" and done.returncode in (0, 141)
