"""The one exception that is shown to the user without a traceback."""

import contextlib
from collections.abc import Iterator


class UserError(Exception):
    """A problem that the user can fix: a wrong config value, a missing folder, a damaged file.

    The message is one line: what is wrong, where (file, line or config field, with its value) and what to do. Commands
    print it and exit with code 2.
    """


@contextlib.contextmanager
def folder_errors(place: str) -> Iterator[None]:
    """What goes wrong while a folder, or the first file in it, is made becomes a UserError that begins with `place`.

    Args:
        place: as the user named the folder: "--out=runs/x".
    """
    try:
        yield
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{place} is a file; name a folder") from None
    except OSError as e:
        raise UserError(f"{place} cannot be written: {e.strerror}") from None
