"""File locks of a sweep, which the kernel releases when their process ends, however it ends."""

import contextlib
import fcntl
import logging
import os
from pathlib import Path
from typing import IO

import xxhash

from fusionjax import disk_cache, files

log = logging.getLogger(__name__)


class JournalLock:
    """The journal's lock. The kernel releases it when its process ends; Optuna's own locks persist for half a minute.

    When it is released, the size and checksum of what was written are put into a file beside the journal, for `check`.

    Args:
        journal: path of the journal.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._path, self._sum = journal.with_name(".journal.lock"), journal.with_name(".journal.sum")
        self._size = -1
        self._file: IO[bytes] | None = None

    def acquire(self) -> bool:
        """Waits for the lock; returns True."""
        self._file = self._path.open("ab")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Releases the lock."""
        if self._file is not None:
            self._seal()
            self._file.close()

    def check(self) -> None:
        """Verifies the journal, while the lock is held, and removes an incomplete last line.

        What a worker wrote that was killed before it released the lock is after the part with the checksum.

        Raises:
            ValueError: it is damaged; the message is one line.
        """
        try:
            content = files.read_bytes(self._journal)
        except FileNotFoundError:
            content = b""
        except OSError as e:
            raise ValueError(f"it cannot be read: {e.strerror or e}") from None
        try:
            stored = disk_cache.read_json(self._sum)
            size, checksum = int(stored["size"]), str(stored["xxh3"])
        except FileNotFoundError:
            size, checksum = 0, xxhash.xxh3_128_hexdigest(b"")
        except (ValueError, KeyError, TypeError) as e:
            log.warning("%s is damaged (%s): the journal is read unverified", self._sum, e)
            size, checksum = 0, xxhash.xxh3_128_hexdigest(b"")
        if len(content) < size:
            raise ValueError(f"it has {len(content)} bytes instead of {size} or more")
        if xxhash.xxh3_128_hexdigest(content[:size]) != checksum:
            raise ValueError("its checksum differs")
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self._journal, whole)

    def _seal(self) -> None:
        # A disk that is full is named by the one who writes the journal.
        with contextlib.suppress(OSError):
            size = self._journal.stat().st_size
            if size != self._size:
                checksum = files.xxh3(self._journal)
                disk_cache.write_json(self._sum, {"size": size, "xxh3": checksum})
                self._size = size


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
