"""Files that are whole or absent, their digests, and the user's cache folder."""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


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


def user_cache(name: str) -> Path:
    """fusionjax/`name` below $XDG_CACHE_HOME, or below ~/.cache where that is unset or empty; not created."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fusionjax" / name
