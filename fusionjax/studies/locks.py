"""File locks of a sweep, which the kernel releases when their process ends, however it ends."""

import fcntl
import os
from pathlib import Path
from typing import IO


class JournalLock:
    """The journal's lock. The kernel releases it when its process ends; Optuna's own locks persist for half a minute."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def acquire(self) -> bool:
        """Waits for the lock; returns True."""
        self._file = self._path.open("ab")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Releases the lock."""
        if self._file is not None:
            self._file.close()


def hold(folder: Path) -> IO[bytes] | None:
    """Locks a trial until the file is closed or the process ends; None if another worker holds the lock."""
    folder.mkdir(parents=True, exist_ok=True)
    claim = (folder / ".claim").open("ab")
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        claim.close()
        return None
    return claim


def drop_half_a_line(path: Path) -> None:
    """Removes an incomplete last line, left by a worker that died while writing, which would corrupt the next line."""
    content = path.read_bytes() if path.exists() else b""
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
