"""Finds files with the same content under different labels, or in training and in evaluation."""

import hashlib
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from fusionjax import files
from fusionjax.data.source import Source, files_of, find_attribute

MOST = 100_000
"""Files above which `fusionjax.prepare` compares and a run does not: on a network each file takes a millisecond."""
_TAIL = 4096
"""Bytes at the end of a file that are compared first: files of one camera begin alike."""
_THREADS = 16


P = TypeVar("P", bound=Hashable)


class Use(NamedTuple, Generic[P]):
    """An example with what it is used for.

    Attributes:
        place: its file, or its index in the split.
        split: that it is in.
        names: the classes of the split.
        label: among them.
    """

    place: P
    split: str
    names: tuple[str, ...]
    label: int

    @property
    def shown(self) -> str:
        """The name of its label."""
        return self.names[self.label]


_File = Use[Path]


def notes(sources: Mapping[str, Source], train: str, *, most: int | None = MOST) -> tuple[str, ...]:
    """A line where files with the same content, or one file, have different labels; one where files in training and in
    evaluation have the same content.

    Sources whose examples are not image files, or questions, are left out.

    Args:
        sources: source by split.
        train: the split that trains.
        most: the number of files above which nothing is compared; None for no limit.
    """
    found = [file for split, source in sources.items() for file in _files(split, source)]
    if most is not None and len(found) > most:
        return ()
    groups = _alike(found)
    labels = [pair for group in groups if (pair := two_labels(group))]
    both = [pair for group in groups if (pair := trained_and_not(group, train))]
    lines = []
    if labels:
        a, b = labels[0]
        lines.append(
            f"files with the same content have different labels ({len(labels)}): {a.place} ({a.shown}) and "
            f"{b.place} ({b.shown})"
        )
    if both:
        a, b = both[0]
        lines.append(
            f"files with the same content are in training and in evaluation ({len(both)}): {a.place} ({a.split}) and "
            f"{b.place} ({b.split}): the score counts what was trained on"
        )
    return tuple(lines)


def _files(split: str, source: Source) -> Iterator[_File]:
    paths = [] if find_attribute(source, "questions") else files_of(source)
    names = tuple(source.class_names)
    labels = source.labels.tolist() if paths else []
    for path, label in zip(paths, labels, strict=True):
        if path is not None:
            yield Use(path, split, names, label)


def _alike(found: Iterable[_File]) -> list[list[_File]]:
    """Groups of examples whose files have the same content, or are the same file."""
    by_path: dict[Path, list[_File]] = {}
    for file in found:
        by_path.setdefault(file.place, []).append(file)
    groups = [list(by_path)]
    with ThreadPoolExecutor(_THREADS) as pool:
        for key in (_size, _tail, _content):
            groups = [part for group in groups for part in _split(group, key, pool)]
    equal = {path for group in groups for path in group}
    groups += [[path] for path, uses in by_path.items() if len(uses) > 1 and path not in equal]
    return [[file for path in group for file in by_path[path]] for group in groups]


def _split(group: list[Path], key: Callable[[Path], Hashable], pool: ThreadPoolExecutor) -> list[list[Path]]:
    """The parts of a group that have the same key, and more than one member."""
    parts: dict[Hashable, list[Path]] = {}
    for path, value in zip(group, pool.map(key, group), strict=True):
        if value is not None:
            parts.setdefault(value, []).append(path)
    return [part for part in parts.values() if len(part) > 1]


def _size(path: Path) -> int | None:
    try:
        return files.check_readable(path) or None
    except OSError:  # it is named as unreadable when it is read
        return None


def _tail(path: Path) -> bytes | None:
    try:
        with open(path, "rb") as file:
            file.seek(-min(_TAIL, os.fstat(file.fileno()).st_size), os.SEEK_END)
            return file.read()
    except OSError:
        return None


def _content(path: Path) -> str | None:
    try:
        return hashlib.sha256(files.read_bytes(path)).hexdigest()
    except OSError:
        return None


def two_labels(group: Sequence[Use[P]]) -> tuple[Use[P], Use[P]] | None:
    """Of a group with the same content, the first example and another one with another label; None where there is none."""
    first = group[0]
    for other in group:
        # Labels of splits with different classes are not comparable, as in re-identification.
        if other.names == first.names and other.label != first.label:
            return first, other
    return None


def trained_and_not(group: Sequence[Use[P]], train: str) -> tuple[Use[P], Use[P]] | None:
    """Of a group with the same content, an example that trains and one elsewhere that only evaluates; None where there are not
    both."""
    trained = {use.place: use for use in group if use.split == train}
    other = next((use for use in group if use.place not in trained), None)
    return (next(iter(trained.values())), other) if trained and other is not None else None
