"""Lists the folders and files of a data set: hidden entries are left out, links are followed, loops are refused."""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fusionjax.errors import UserError

_IGNORED = ("__MACOSX",)
"""Folders that programs leave beside the data."""
_FILE = re.compile(r"\.\w{1,5}$")
"""The name of a file rather than a folder."""


def folders(path: Path) -> list[Path]:
    """The visible folders directly in a folder, and links to folders, sorted by name.

    Raises:
        UserError: the folder cannot be listed.
    """
    return [path / e.name for e in _entries(path) if e.is_dir() and not e.name.startswith("__")]


def files(path: Path, suffixes: Sequence[str]) -> list[str]:
    """The sorted names of the visible files directly in a folder that have one of the suffixes, given in lower case."""
    return [e.name for e in _entries(path) if has_suffix(e.name, suffixes) and not e.is_dir()]


def files_below(root: Path, top: str, suffixes: Sequence[str]) -> list[str]:
    """The visible files with one of the suffixes below `root / top`, at any depth, as sorted paths relative to `root`.

    Raises:
        UserError: a folder cannot be listed, or a link leads to a folder that contains it.
    """
    return with_others(root, top, suffixes)[0]


def with_others(root: Path, top: str, suffixes: Sequence[str]) -> tuple[list[str], list[str]]:
    """What `files_below` returns, and the visible files that it leaves out."""
    found: tuple[list[str], list[str]] = ([], [])
    for name, entry in _walk(root, top):
        found[not has_suffix(entry.name, suffixes)].append(name)
    return sorted(found[0]), sorted(found[1])


def counted(names: Sequence[str]) -> str:
    """Files counted by their suffix, each with one of them: "12 .heic (a/1.heic …), 1 without suffix (b/2)"; "" for none."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(os.path.splitext(name)[1].lower(), []).append(name)
    ordered = sorted(kinds.items(), key=lambda kind: (-len(kind[1]), kind[0]))
    return ", ".join(
        f"{len(files)} {suffix or 'without suffix'} ({files[0]}{' …' if len(files) > 1 else ''})"
        for suffix, files in ordered
    )


def all_below(root: Path) -> list[str]:
    """As `files_below` for all visible files below `root`."""
    return sorted(name for name, _ in _walk(root, ""))


def has_suffix(name: str, suffixes: Sequence[str]) -> bool:
    """Whether a file has one of the suffixes, given in lower case; never true of a hidden file."""
    return name.lower().endswith(tuple(suffixes)) and not name.startswith(".")


def one_composition(names: Iterable[str], what: str) -> None:
    """Raises UserError where two different names look the same: their letters are composed differently (Unicode NFC, NFD).

    Args:
        names: the names.
        what: plural noun for them with their place, for the message.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            raise UserError(
                f"{what} {other!a} and {name!a} look the same and differ only in the composition of their letters "
                "(Unicode NFC and NFD): give both the same name"
            )


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            entries = [e for e in found if not e.name.startswith(".") and e.name not in _IGNORED]
    except OSError as e:
        raise UserError(f"the folder {folder} cannot be listed: {e.strerror or e}") from None
    for entry in entries:
        # Its pictures would vanish without a word. A link to a file is named when the file is read.
        if entry.is_symlink() and not _FILE.search(entry.name) and not os.path.exists(entry.path):
            raise UserError(
                f"{entry.path} links to {os.readlink(entry.path)}, which is not there: restore that folder, or remove the link"
            )
    return sorted(entries, key=lambda e: e.name)


def _walk(root: Path, top: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """(path relative to `root`, entry) of all files below `root / top`."""
    stack: list[tuple[str, frozenset[tuple[int, int]]]] = [(top, frozenset())]
    while stack:
        relative, above = stack.pop()
        folder = root / relative
        found = os.stat(folder)
        identity = found.st_dev, found.st_ino
        if identity in above:
            raise UserError(f"{folder} is a link to a folder that contains it: remove the link")
        for entry in _entries(folder):
            path = f"{relative}/{entry.name}" if relative else entry.name
            if entry.is_dir():
                stack.append((path, above | {identity}))
            else:
                yield path, entry
