"""Checks that all readers share. Every failure is a UserError that names the file and the line."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fusionjax.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def root_folder(root: str, name: str, get: str) -> Path:
    """`data.root` as a folder that exists.

    Args:
        root: value of `config.data.root`.
        name: of the data set.
        get: where the data set comes from, in words.
    """
    if not root:
        raise UserError(f"config.data.root is empty: set it to the folder of {name} ({get})")
    path = Path(root).expanduser()
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "does not exist"
        raise UserError(f"config.data.root={root!r} {what}: it must be the folder of {name} ({get})")
    return path


def inside(root: Path, marker: str, *names: str) -> Path:
    """`root`, or the folder `names` within it, whichever holds `marker`; `root` if neither does."""
    for folder in (root, *(root / n for n in names)):
        if (folder / marker).exists():
            return folder
    return root


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, stripped text) of every line that is not empty."""
    if not path.is_file():
        raise UserError(
            f"{path} is missing: the data set is incomplete, or config.data.root names another folder"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{path} cannot be read: {e}") from None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, line.strip()


def pairs(path: Path, fields: str) -> Iterator[tuple[int, str, str]]:
    """(line number, first word, the rest) of every line; `fields` says in the error what a line should be."""
    for number, line in lines(path):
        first, _, rest = line.partition(" ")
        if not rest.strip():
            raise UserError(f"{path} line {number}: expected {fields!r}, found {line!r}")
        yield number, first, rest.strip()


def by_id(path: Path, fields: str) -> dict[str, tuple[int, str]]:
    """id → (line number, value) of a list file whose ids must not repeat."""
    out: dict[str, tuple[int, str]] = {}
    for number, key, value in pairs(path, fields):
        if key in out:
            raise UserError(f"{path} line {number}: id {key} was already given in line {out[key][0]}")
        out[key] = number, value
    if not out:
        raise UserError(f"{path} is empty")
    return out


def split_is_one_of(name: str, split: str, allowed: Iterable[str]) -> None:
    allowed = tuple(allowed)
    if split not in allowed:
        raise UserError(f"{name} has no split {split!r}; allowed are {', '.join(allowed)}")


def files_exist(root: Path, names: Sequence[str], listed_in: str, *, what: str = "image") -> None:
    """Every `root / name` is a file, `what` it is for the error. Lists folders: a look at each file is slow on a network."""
    listing: dict[str, set[str]] = {}
    missing = []
    for name in names:
        folder, base = os.path.split(os.path.join(root, name))
        if folder not in listing:
            listing[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if base not in listing[folder]:
            missing.append(name)
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(f"{what} {root / missing[0]} is missing{more}; it is listed in {listed_in}")


def count(what: str, found: int, expected: int, enabled: bool) -> None:
    """Compares with the published number, unless `data.check_counts` is off."""
    if enabled and found != expected:
        raise UserError(
            f"{what}: expected {expected:,}, found {found:,}; the data set is incomplete or another version "
            "(config.data.check_counts=False accepts it)"
        )
