"""Checks shared by all readers. Every failure is a UserError that names the file and the line."""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from fusionjax import files
from fusionjax.data.source import Source
from fusionjax.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_URL = "; it is a URL, and nothing is downloaded: download the files, and write their paths"


def root_folder(root: str, name: str, get: str) -> Path:
    """`data.root` as an existing folder.

    Args:
        root: value of `config.data.root`.
        name: name of the data set.
        get: where to get the data set, for messages.

    Raises:
        UserError: the value is empty or not a folder.
    """
    if not root:
        raise UserError(f"config.data.root is empty: set it to the folder of {name} ({get})")
    path = Path(root).expanduser()
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else f"does not exist{seen_from(path)}"
        raise UserError(f"config.data.root={root!r} {what}: it must be the folder of {name} ({get})")
    return path


def seen_from(path: Path) -> str:
    """ " (seen from <the current folder>)" for a relative path, which may be right elsewhere."""
    return "" if path.is_absolute() else f" (seen from {Path.cwd()})"


def inside(root: Path, marker: str, *names: str) -> Path:
    """The first of `root` and its subfolders `names` that holds the entry `marker`; `root` if none does."""
    for folder in (root, *(root / n for n in names)):
        if (folder / marker).exists():
            return folder
    return root


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, stripped text) of every line that is not empty.

    Raises:
        UserError: the file is missing or not UTF-8.
    """
    if not path.is_file():
        raise UserError(
            f"{path} is missing: the data set is incomplete, or config.data.root names another folder"
        )
    # Only line breaks end a line: `splitlines` would also split a name at U+0085 or U+2028.
    for number, line in enumerate(re.split("\r\n|\r|\n", text(path)), 1):
        if line.strip():
            yield number, line.strip()


def text(path: Path) -> str:
    """The content of a text file in UTF-8, without the byte order mark that some editors write.

    Raises:
        UserError: the file cannot be read, is not a regular file or not UTF-8.
    """
    try:
        return files.read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise UserError(f"{path} cannot be read: byte {e.start} is not UTF-8; save it as UTF-8") from None
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror or e}") from None


def pairs(path: Path, fields: str) -> Iterator[tuple[int, str, str]]:
    """(line number, first word, remaining text) of every line.

    Args:
        path: a text file.
        fields: the expected form of a line, for messages.

    Raises:
        UserError: as `lines`; also a line of one word.
    """
    for number, line in lines(path):
        first, _, rest = line.partition(" ")
        if not rest.strip():
            raise UserError(f"{path} line {number}: expected {fields!r}, found {line!r}")
        yield number, first, rest.strip()


def by_id(path: Path, fields: str) -> dict[str, tuple[int, str]]:
    """id → (line number, value) of a list file with unique ids.

    Args:
        path, fields: as for `pairs`.

    Raises:
        UserError: as `pairs`; also a repeated id or an empty file.
    """
    out: dict[str, tuple[int, str]] = {}
    for number, key, value in pairs(path, fields):
        if key in out:
            raise UserError(f"{path} line {number}: id {key} is listed twice, first in line {out[key][0]}")
        out[key] = number, value
    if not out:
        raise UserError(f"{path} is empty")
    return out


def split_is_one_of(name: str, split: str, allowed: Iterable[str]) -> None:
    """Raises UserError where a data set has no such split; `name` is that of the data set."""
    allowed = tuple(allowed)
    if split not in allowed:
        raise UserError(f"{name} has no split {split!r}; allowed are {', '.join(allowed)}")


def files_exist(
    root: Path, names: Sequence[str], listed_in: str, *, what: str = "image", rows: Sequence[str] = ()
) -> None:
    """Raises UserError unless every `root / name` exists.

    Folders are listed, as checking each file would be slow on a network.

    Args:
        root: folder of the names.
        names: paths relative to `root`.
        listed_in: name of the list that the names come from, for the message.
        what: noun for a file, for the message.
        rows: position of each name in the list, for the message; () for none.
    """
    listing: dict[str, set[str]] = {}
    missing: list[int] = []
    for i, name in enumerate(names):
        folder, base = os.path.split(os.path.join(root, name))
        if folder not in listing:
            listing[folder] = _names(folder)
        if base not in listing[folder]:
            missing.append(i)
    if missing:
        name, more = names[missing[0]], f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        folder, base = os.path.split(os.path.join(root, name))
        where = f"{listed_in}, {rows[missing[0]]}" if rows else listed_in
        hint = _URL if re.match(r"[A-Za-z][\w+.-]+:/", name) else _alike(base, listing[folder])
        path = name if hint == _URL else root / name
        raise UserError(f"{what} {path} is missing{more}; it is listed in {where}{hint}")


def _names(folder: str) -> set[str]:
    """The names in a folder; empty where there is no such folder."""
    if not os.path.isdir(folder):
        return set()
    try:
        return set(os.listdir(folder))
    except OSError as e:
        raise UserError(f"the folder {folder} cannot be listed: {e.strerror or e}") from None


def _alike(base: str, present: Iterable[str]) -> str:
    """A hint where a folder holds a file whose name differs in case or Unicode composition only, or paths have backslashes."""
    if "\\" in base:
        return "; write the folders of a path with /"

    def folded(name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold()

    found = sorted(name for name in present if folded(name) == folded(base))
    return f"; the folder has {found[0]!a}" if found else ""


def two_classes(source: Source) -> None:
    """Raises UserError where a data set has one class: every accuracy would be 1."""
    names = source.class_names
    if len(names) < 2:
        have = f"one class, {names[0]!r}" if names else "no class"
        raise UserError(
            f"{source.name} has {have}, and two or more are needed: check config.data.root, and the labels"
        )


def trains_two_classes(source: Source) -> None:
    """As `two_classes` for the training split, whose examples must be of two classes or more."""
    two_classes(source)
    if len(source) and len(used := np.unique(source.labels)) < 2:
        raise UserError(
            f"every example of split {source.split!r} of {source.name} is of class {source.class_names[used[0]]!r}, and "
            "training needs two classes or more: check the labels of this split"
        )


def count(what: str, found: int, expected: int, enabled: bool) -> None:
    """Raises UserError where a number differs from the published one.

    Args:
        what: what is counted, for the message.
        found: the number.
        expected: the published number.
        enabled: `data.check_counts`; False skips the check.
    """
    if enabled and found != expected:
        raise UserError(
            f"{what}: expected {expected:,}, found {found:,}; the data set is incomplete or another version "
            "(config.data.check_counts=False accepts it)"
        )
