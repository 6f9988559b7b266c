"""How every command runs and ends: one-line messages for user errors, signals, exit codes."""

import codecs
import errno
import io
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NoReturn

import absl.logging

from fusionjax import arguments, interruption
from fusionjax.arguments import Command
from fusionjax.errors import UserError


def run(command: Command, argv: Sequence[str] | None = None) -> NoReturn:
    """Parses the arguments, runs a command and leaves the process.

    Exit codes: 0 done, 1 done in part (the command says which), 2 a mistake of the user (one line on stderr, after a
    traceback with -v), 141 the reader of the output has gone (`| head`), 130 interrupted, 75 terminated by the
    system and to be started again.

    Args:
        command: to run.
        argv: its arguments, without the program's name; those of the process by default.
    """
    argv = sys.argv[1:] if argv is None else argv
    verbose = not {"-v", "--verbose"}.isdisjoint(argv)
    interruption.install()
    _open_streams()
    # Figures are only written to files; a notebook's own backend, which its shell commands inherit, may not be installed here.
    os.environ["MPLBACKEND"] = "agg"
    _quiet()
    try:
        with interruption.raising():
            code = printed(lambda: command.main(arguments.parse(command, argv)) or 0)
    except UserError as e:
        if hosts := _hosts():
            hosts.explain(e)
        if verbose:
            traceback.print_exc()
        fail(str(e))
    except KeyboardInterrupt:
        interruption.leave()
    except Exception as e:
        if hosts := _hosts():
            hosts.explain(e)
        told = _disk(e) or _memory(e) or _device(e)
        if told is None:
            if _hosts() is None:
                raise
            traceback.print_exc()
            os._exit(1)  # as in `fail`
        if verbose:
            traceback.print_exc()
        print(f"fusionjax: error: {told}", file=sys.stderr, flush=True)
        os._exit(2)  # what the libraries would still try to write at exit fails too, at length
    sys.exit(code)


def printed(work: Callable[[], int]) -> int:
    """The exit code of `work`, whose output is written before the interpreter ends; 141, as of SIGPIPE, if nobody reads it.

    Names of files are printed as the bytes that they are, in any locale; characters that it lacks, as their number.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        codecs.register_error("fusionjax", _encoded)
        sys.stdout.reconfigure(errors="fusionjax")
    try:
        try:
            return work()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer would be written again at exit, and fail with a message.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _encoded(error: UnicodeError) -> tuple[str | bytes, int]:
    """A handler of encoding errors: see `printed`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":  # Python's form of a byte that is not of the file system's encoding
        return bytes([ord(character) - 0xDC00]), error.start + 1
    return character.encode("ascii", "backslashreplace"), error.start + 1


def _open_streams() -> None:
    """Opens what the process was started without (`>&-`), so that no file of a run gets the number of a standard stream."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115


def _quiet() -> None:
    """Shows warnings of fusionjax on one line each, and hides those of the libraries below."""
    absl.logging.set_verbosity(absl.logging.FATAL)
    threading.excepthook = _in_thread
    sys.unraisablehook = _in_callback
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("fusionjax: %(levelname)s: %(message)s"))
    ours = logging.getLogger("fusionjax")
    ours.handlers[:] = [handler]
    ours.propagate = False


def fail(message: str) -> NoReturn:
    """Prints one line and leaves with exit code 2."""
    sys.stdout.flush()
    print("fusionjax: error: " + " ".join(message.split()), file=sys.stderr, flush=True)
    if _hosts() is not None:
        os._exit(2)  # at exit JAX would wait for the other processes
    sys.exit(2)


def _hosts() -> ModuleType | None:
    """The module of the run's other processes, if there are any."""
    hosts = sys.modules.get("fusionjax.distributed.hosts")
    return hosts if hosts is not None and hosts.connected() else None


def _in_thread(arguments: threading.ExceptHookArgs) -> None:
    """Ignores disk errors in a writer's thread, because the main thread reports the same error once."""
    if _disk(arguments.exc_value) is None:
        threading.__excepthook__(arguments)


def _in_callback(arguments: "sys.UnraisableHookArgs") -> None:
    """Ignores writes that end after an error, which is reported itself, has closed their writer."""
    error = arguments.exc_value
    if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
        sys.__unraisablehook__(arguments)


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


def _device(error: BaseException) -> str | None:
    """Returns a one-line message where JAX has none of the devices that JAX_PLATFORMS names; None for other errors."""
    asked, frames = os.environ.get("JAX_PLATFORMS"), traceback.extract_tb(error.__traceback__)
    if not asked or not frames or os.path.basename(frames[-1].filename) != "xla_bridge.py":
        return None
    why = f": {' '.join(str(error).split())}" if str(error) else ""
    return f"JAX has no device for JAX_PLATFORMS={asked}{why}; unset the variable, or install JAX for that device"


def _memory(error: BaseException | None) -> str | None:
    """Returns a one-line message where memory ran out, of the machine or of a device; None for other errors."""
    while error is not None:
        text = " ".join(str(error).split())
        if isinstance(error, MemoryError) or re.search(r"RESOURCE_EXHAUSTED|Out of memory", text):
            return f"out of memory; lower config.train.batch_size or the size of the images or of the model ({text[:200]})"
        error = error.__cause__ or error.__context__
    return None
