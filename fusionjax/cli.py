"""What the commands share: flags, one line for a user's mistake, exit codes."""

import os
import sys
from collections.abc import Callable, Sequence

from absl import flags

from fusionjax.errors import UserError


def run(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> None:
    """Parses absl flags, calls `main(positional arguments)` and leaves the process.

    Exit codes: 0 done, 2 a mistake of the user (one line on stderr, no traceback), 130 interrupted.
    """
    argv = list(sys.argv if argv is None else argv)
    try:
        rest = flags.FLAGS(argv)[1:]
        code = main(rest) or 0
    except UserError as e:
        fail(str(e))
    except flags.Error as e:
        fail(_flag_message(e))
    except KeyboardInterrupt:
        print("fusionjax: interrupted; start the same command again to go on", file=sys.stderr)
        code = 130
    except OSError as e:
        if e.errno not in _DISK:
            raise
        fail(f"{_DISK[e.errno]}: {e.filename or ''} {e.strerror}".replace("  ", " "))
    sys.exit(code)


def fail(message: str) -> None:
    """Prints one line and leaves with exit code 2."""
    sys.stdout.flush()
    print("fusionjax: error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


_DISK = {
    28: "the disk is full; free some space and start the same command again",
    13: "permission denied",
    30: "read-only file system",
    122: "disk quota exceeded",
}


def _flag_message(error: flags.Error) -> str:
    return str(error).splitlines()[0] + f" (python -m fusionjax.{_command()} --help lists the flags)"


def _command() -> str:
    return os.path.splitext(os.path.basename(sys.argv[0]))[0]
