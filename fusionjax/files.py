"""Files that are whole or absent, safe reading of files that others brought, digests, JSON, CSV, locks, the cache folder."""

import contextlib
import csv
import hashlib
import io
import json
import logging
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import xxhash

log = logging.getLogger(__name__)

_FORMULA = ("=", "+", "-", "@", "\t")
"""First characters of text that spreadsheet programs evaluate as a formula (OWASP, CSV injection)."""

LARGEST = 4 * 2**30
"""Bytes of the largest file that is read as a whole."""
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_readable(path: str | os.PathLike[str], limit: int = LARGEST) -> int:
    """Checks that a path, or what it links to, is a regular file below a size limit, before it is opened.

    Opening a named pipe waits for a writer, and a device such as /dev/zero never ends.

    Args:
        path: the file.
        limit: allowed size, in bytes.

    Returns:
        The size of the file, in bytes.

    Raises:
        OSError: there is no such file (FileNotFoundError), it is not a regular file, or it is larger than `limit`.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"it is {_KINDS.get(stat.S_IFMT(found.st_mode), 'a special file')}, not a regular file")
    if found.st_size > limit:
        raise OSError(f"its {found.st_size:,} bytes are more than the {limit:,} that are read")
    return found.st_size


def read_bytes(path: str | os.PathLike[str], limit: int = LARGEST) -> bytes:
    """The content of a regular file; arguments and errors of `check_readable`."""
    check_readable(path, limit)
    with open(path, "rb") as file:
        return file.read()


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends.

    Readers see the old file or the whole new one. Every writer has a temporary file of its own, so processes, on other
    machines too, may write the same path at once. If the block raises, the temporary file is removed and `path` is as before.

    Args:
        path: the file to write; its folder is created.
        durable: flush the file to disk before it gets its name, and the folder after.

    Yields:
        The temporary path, which the block writes. It is hidden and ends in ".part", whatever the suffix of `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        if durable:
            sync(part)
        os.replace(part, path)
        if durable:
            sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def write_text(
    path: Path, text: str, *, encoding: str = "utf-8", errors: str = "strict", durable: bool = False
) -> None:
    """Writes a text file by `replacing`; `encoding` and `errors` as for `open`."""
    with replacing(path, durable=durable) as part:
        part.write_text(text, encoding=encoding, errors=errors)


def sync(path: Path) -> None:
    """Flushes a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def xxh3(path: Path) -> str:
    """XXH3 (128 bits) of a file's bytes, in hexadecimal: fast; it protects against damage, not against an attacker."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a regular file, cannot be read, is not UTF-8 or JSON, or is nested too deeply. The message is
            one line.
    """
    try:
        return json.loads(read_bytes(path).decode("utf-8"))
    except FileNotFoundError:
        raise
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except OSError as e:
        raise ValueError(f"it cannot be read: {e.strerror or e}") from None


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Formats rows as CSV; None is an empty cell.

    Text that a spreadsheet program would evaluate as a formula gets an apostrophe before it; numbers stay as they are.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for row in rows:
        writer.writerow([_as_text(cell) if isinstance(cell, str) else cell for cell in row])
    return out.getvalue()


def _as_text(cell: str) -> str:
    cell = cell.replace("\r", " ")  # the writer does not quote it, and readers end a row there
    return f"'{cell}" if cell.startswith(_FORMULA) and not _is_number(cell) else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@contextlib.contextmanager
def locked(path: Path, *, wait: str = "") -> Iterator[bool]:
    """Holds a lock that the kernel releases when the process ends, however it ends; its file is removed at the end.

    Args:
        path: the lock's file, made if absent.
        wait: warning to log before waiting for another holder; empty not to wait.

    Yields:
        Whether the lock is held; also True on a file system without locks.
    """
    import fcntl  # not on Windows, where the rest of this module works

    while True:
        with path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    yield False
                    return
                log.warning("%s", wait)
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:
                yield True
                return
            # The holder before may have removed this very file: then a new one is the lock.
            if not _is_at(file.fileno(), path):
                continue
            try:
                yield True
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def user_cache(name: str) -> Path:
    """fusionjax/`name` below $XDG_CACHE_HOME, or below ~/.cache where that is unset or empty; not created."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fusionjax" / name
