"""Fingerprints of the examples of a source: what must be equal for two runs, or a run and a cache, to have read the same data.

Reading every byte of a data set at each start would take as long as an epoch. A sample is read instead: of `FILES` files,
evenly spaced, three blocks each; or `LOADED` examples of a source without files, as `load` returns them. Images that are
replaced under the same names are thus noticed, unless only few of a large data set are.
"""

import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import xxhash

from fusionjax import disk_cache
from fusionjax.data.source import ByIdentity, Source, Subset

FILES, LOADED = 4_096, 256
_BLOCK = 1 << 14
_THREADS = 16

Stamp = tuple[int, int] | None


def contents(source: Source) -> str:
    """A digest of the sampled contents, which does not depend on where the files are nor on their times.

    It begins with how they were sampled, since only digests that were made in the same way can be compared.

    A source with the attribute `digest` is represented by that, one with the method `file` (index → path, or None) by its
    files.
    """
    base, rows = _unwrapped(source)
    whole = getattr(base, "digest", None)
    if whole is not None:
        return f"digest:{disk_cache.digest([whole, len(rows)])}"
    of_file = _file_of(base)
    rows = np.unique(rows)
    if of_file is not None:
        return "files:" + of_files([path for path in map(of_file, rows.tolist()) if path is not None])
    with ThreadPoolExecutor(_THREADS) as pool:
        read = pool.map(lambda i: _of_loaded(base, i), _spread(rows, LOADED).tolist())
        return f"loaded:{disk_cache.digest(list(read))}"


def of_files(paths: Sequence[Path]) -> str:
    """A digest of a sample of files, as `contents`."""
    chosen = [paths[i] for i in _spread(np.arange(len(paths)), FILES)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return disk_cache.digest(list(pool.map(_of_file, chosen)))


def state(source: Source) -> str:
    """A digest of `contents` and of the names, sizes and times of all files, for what is computed from the examples."""
    return disk_cache.digest([contents(source), list(map(str, source.names)), stamps(source)])


def stamps(source: Source) -> Sequence[Stamp]:
    """Size in bytes and modification time in ns of the file of each example; empty for a source without files.

    Returns:
        N entries; None for an example without a file.
    """
    base, rows = _unwrapped(source)
    of_file = _file_of(base)
    return [] if of_file is None else [_stamp(of_file(i)) for i in rows.tolist()]


def _unwrapped(source: Source) -> tuple[Source, np.ndarray]:
    """The source below `Subset` and `ByIdentity`, and the index in it of each example."""
    rows = np.arange(len(source))
    while isinstance(source, Subset | ByIdentity):
        if isinstance(source, Subset):
            rows = source.indices[rows]
        source = source.source
    return source, rows


def _spread(rows: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the rows, evenly spaced, the first and the last included."""
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(int)] if len(rows) > most else rows


def _file_of(source: Source) -> Callable[[int], Path | None] | None:
    """The method `file` of a source that has one, such as `FileSource`."""
    found = getattr(source, "file", None)
    return found if callable(found) else None


def _stamp(path: Path | None) -> Stamp:
    try:
        found = None if path is None else path.stat()
    except OSError:  # a missing image is an unreadable one, which is named when it is read
        found = None
    return None if found is None else (found.st_size, found.st_mtime_ns)


def _of_file(path: Path) -> str:
    """Of the size of a file and of blocks at its beginning, middle and end; "" where it cannot be read."""
    try:
        # Without blocking on what is no file, such as a named pipe.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            return ""
        size = found.st_size
        total = xxhash.xxh3_64(str(size).encode())
        for at in sorted({0, max(0, size // 2 - _BLOCK // 2), max(0, size - _BLOCK)}):
            total.update(os.pread(handle, _BLOCK, at))
        return total.hexdigest()
    except OSError:
        return ""
    finally:
        os.close(handle)


def _of_loaded(source: Source, i: int) -> str:
    try:
        example = source.load(i)
    except (
        Exception
    ):  # a source of the user's own may raise anything; the input pipeline names what cannot be read
        return ""
    if isinstance(example, bytes):
        return xxhash.xxh3_64(example).hexdigest()
    array = np.ascontiguousarray(example)
    return xxhash.xxh3_64(f"{array.dtype} {array.shape}".encode() + array.tobytes()).hexdigest()
