"""What all commands share: parsing of flags, one-line messages for user errors, exit codes."""

import errno
import importlib
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import absl.logging
from absl import flags
from ml_collections import ConfigDict

from fusionjax import config
from fusionjax.config.user_file import UserFile
from fusionjax.errors import UserError

flags.DEFINE_multi_string(
    "import",
    [],
    "Module of your own, or its .py file, that registers a task, a data set, a backbone or a fusion head.",
)
_PATIENCE = 20.0
"""Seconds that an interrupted command may take to close what is open."""


def run(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> None:
    """Parses absl flags, calls `main(positional arguments)` and leaves the process.

    Exit codes: 0 done, 2 a mistake of the user (one line on stderr, after a traceback with -v), 130 interrupted.
    """
    argv = list(sys.argv if argv is None else argv)
    verbose = "-v" in argv[1:]
    argv = [*argv[:1], *(word for word in argv[1:] if word != "-v")]
    _quiet()
    signal.signal(signal.SIGINT, _interrupt)
    try:
        code = main(_parse(argv)) or 0
    except UserError as e:
        if verbose:
            traceback.print_exc()
        fail(str(e))
    except KeyboardInterrupt:
        _interrupted()
    except Exception as e:
        disk = _disk(e)
        if disk is None:
            raise
        print(f"fusionjax: error: {disk}", file=sys.stderr, flush=True)
        os._exit(2)  # what the libraries would still try to write at exit fails too, at length
    sys.exit(code)


def config_of(flag: flags.FlagHolder) -> ConfigDict:
    """The config of a `DEFINE_config_file` flag.

    Raises:
        UserError: the flag is missing.
    """
    if flag.value is None:
        raise UserError("--config is missing: name a config file, e.g. --config=configs/quickstart.py")
    return flag.value


def config_flag() -> Any:
    """Returns the parsed --config flag, whose class ml_collections does not publish: its file name and overrides."""
    return flags.FLAGS["config"]


def _parse(argv: list[str]) -> list[str]:
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, value = argument.lstrip("-").partition("=")
        value = value if equals else following
        if not argument.startswith("-") or not value:
            continue
        if name == "config":
            _make_importable(Path(value.split(":")[0]))
        elif name == "import":
            _import(value)
    if "config" in flags.FLAGS and config_flag().flag_type() == "config object":
        config_flag().parser = _ConfigParser()
    try:
        return flags.FLAGS(argv)[1:]
    except (
        KeyError,
        AttributeError,
    ):  # a field that is not there; the config file may have registered sections
        for argument in argv:
            name = argument.lstrip("-").partition("=")[0]
            if name.startswith("config."):
                config.check_key(name)
        raise
    except flags.Error as e:
        text = str(e).splitlines()[0]
        found = re.match(r"flag --(config\.[\w.]+)=(.*?): (.*)", text)
        if found:
            raise UserError(f"{found[1]}={found[2]!r} is of the wrong type: {found[3]}") from None
        raise UserError(f"{text} (--help lists the flags)") from None


class _ConfigParser(flags.ArgumentParser):
    """Reads <file>.py:<argument>; what is wrong with the file is a `UserError`."""

    def flag_type(self) -> str:
        return "config object"

    def parse(self, path: str) -> ConfigDict:
        file, colon, argument = path.partition(":")
        config = UserFile(file).config(*([argument] if colon else []))
        config.lock()
        return config


def _make_importable(path: Path) -> None:
    """Lets a file import what lies beside it; files in a folder configs/ import each other as configs.<name>."""
    folder = path.absolute().parent
    for place in (folder.parent, folder) if folder.name == "configs" else (folder,):
        if str(place) in sys.path:
            sys.path.remove(str(place))
        sys.path.insert(0, str(place))  # before modules of the same names elsewhere, as for a script


def _import(name: str) -> None:
    """Imports a module of the user's own, by its name or its file."""
    if name.endswith(".py"):
        _make_importable(Path(name))
        UserFile(name, "--import", Path(name).stem)
        return
    try:
        importlib.import_module(name)
    except Exception as e:
        raise UserError(f"--import={name} cannot be imported: {type(e).__name__}: {e}") from e


def _interrupt(*_: object) -> None:
    """Handles Ctrl-C: open files are closed as after any error. A second Ctrl-C, or a timeout, ends the process at once.

    The timeout is needed because an interrupt inside a library's callback may be swallowed, and training would continue.
    """
    signal.signal(signal.SIGINT, lambda *_: _interrupted())
    watch = threading.Timer(_PATIENCE, _interrupted)
    watch.daemon = True
    watch.start()
    raise KeyboardInterrupt


def _interrupted() -> None:
    sys.stdout.flush()
    print("fusionjax: interrupted; start the same command again to resume", file=sys.stderr, flush=True)
    os._exit(130)  # a writer whose event loop the interrupt has closed would fail at exit, at length


def _quiet() -> None:
    """Shows warnings of fusionjax on one line each, and hides those of the libraries below."""
    absl.logging.set_verbosity(absl.logging.FATAL)
    threading.excepthook = _in_thread
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("fusionjax: %(levelname)s: %(message)s"))
    ours = logging.getLogger("fusionjax")
    ours.handlers[:] = [handler]
    ours.propagate = False


def fail(message: str) -> None:
    """Prints one line and leaves with exit code 2."""
    sys.stdout.flush()
    print("fusionjax: error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


def _in_thread(arguments: threading.ExceptHookArgs) -> None:
    """Ignores disk errors in a writer's thread, because the main thread reports the same error once."""
    if _disk(arguments.exc_value) is None:
        threading.__excepthook__(arguments)


_DISK = {
    errno.ENOSPC: "the disk is full; free some space and start the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and start the same command again",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
}


def _disk(error: BaseException | None) -> str | None:
    """Returns a one-line message for a disk error, however deeply a library wrapped it; None for other errors."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK:
            return f"{_DISK[error.errno]}{f' ({error.filename})' if error.filename else ''}"
        if re.search(r"No space left on device|ENOSPC|Disk quota exceeded", str(error)):
            return _DISK[errno.ENOSPC]
        error = error.__cause__ or error.__context__
    return None
