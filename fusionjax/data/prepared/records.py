"""A prepared data set on disk: encoded images in ArrayRecord files, and one JSON index that commits them.

The folder is complete if and only if it has an index: the files are written first, each under a name with its digest, and the
index replaces an older one atomically. Files that the index does not name were left by an interrupted writer, and the next
writer removes them.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NotRequired  # pydantic needs these below Python 3.12

import numpy as np
import pydantic
from array_record.python.array_record_module import ArrayRecordWriter
from typing_extensions import TypedDict

from fusionjax import files
from fusionjax._version import __version__
from fusionjax.data.source import FileSource
from fusionjax.errors import UserError, folder_errors

INDEX = "index.json"
VERSION = 1
_FORMAT = "fusionjax prepared data set"
_SUFFIX = ".arrayrecord"
_OURS = re.compile(r"\.lock|index\.json|\.[\w.-]+\.part|[\w-]+\.arrayrecord(\.part)?")
_ANEW = "prepare it again with --overwrite"
# One record per group, for random access. Encoded images are not compressed again.
_OPTIONS = "group_size:1,uncompressed"


class Column(TypedDict):
    """A column of a split; `type` is "int64" or "text"."""

    type: str
    values: list[int] | list[str]


class SplitEntry(TypedDict):
    """A split; see `Source`. `records` are the positions of its examples among the records of all files."""

    name: str
    class_names: list[str]
    names: list[str]
    labels: list[int]
    columns: dict[str, Column]
    records: list[int]


class FileEntry(TypedDict):
    """An ArrayRecord file: its name, size, digest, and number of records."""

    name: str
    bytes: int
    sha256: str
    records: int


class Made(TypedDict):
    """The request that a data set was prepared for: fields of `config.data`, the seed, and the number of files per split."""

    root: str
    source: str
    splits: list[str]
    seed: int
    fractions: list[float]
    check_counts: bool
    shards: NotRequired[int]


class Content(TypedDict):
    """What `commit` writes."""

    made: Made
    bottom_rows_removed: int
    unreadable: dict[str, str]
    files: list[FileEntry]
    splits: dict[str, SplitEntry]


class Index(Content):
    """The index as `read_index` returns it."""

    format: str
    version: int
    versions: dict[str, str]
    digest: str


_TYPES = pydantic.TypeAdapter(Index)


def read_index(folder: Path, asked: str) -> Index:
    """Reads the index of a prepared data set, and checks its digest and the presence and size of every file.

    Args:
        folder: a folder that `fusionjax.prepare` wrote.
        asked: how the user named it, for messages, e.g. "config.data.root='x'".

    Returns:
        The index.

    Raises:
        UserError: no index, a damaged one, one of another version, or a file that is missing or has another size.
    """
    path = folder / INDEX
    try:
        content: Index = json.loads(files.read_bytes(path).decode("ascii"))
        if content["format"] != _FORMAT:
            raise KeyError("format")
        version = content["version"]
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{asked} holds no prepared data set: {path} is missing (python -m fusionjax.prepare writes it)"
        ) from None
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror or e}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise UserError(f"{path} is damaged ({type(e).__name__}: {e}); {_ANEW}") from None
    if version != VERSION:
        raise UserError(f"{path} has version {version}, this fusionjax reads version {VERSION}; {_ANEW}")
    if content.get("digest") != _digest({k: v for k, v in content.items() if k != "digest"}):
        raise UserError(f"{path} is damaged: its content does not match its digest; {_ANEW}")
    try:
        _TYPES.validate_python(content, strict=True)
    except pydantic.ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path} is damaged: {where}: {first['msg']}; {_ANEW}") from None
    for file in content["files"]:
        if not _OURS.fullmatch(file["name"]):
            raise UserError(f"{path} names {file['name']!r}, which prepare does not write; {_ANEW}")
        found = (folder / file["name"]).stat().st_size if (folder / file["name"]).is_file() else None
        if found != file["bytes"]:
            size = "is missing" if found is None else f"has {found:,} bytes instead of {file['bytes']:,}"
            raise UserError(f"{folder / file['name']} {size}; {_ANEW}")
    wrong = _wrong(content)
    if wrong:
        raise UserError(f"{path} is damaged: {wrong}; {_ANEW}")
    return content


def _wrong(content: Index) -> str:
    """What an index of the right types holds that `commit` never writes: labels without a class, columns of other lengths."""
    total = sum(file["records"] for file in content["files"])
    for split, entry in content["splits"].items():
        size, where = len(entry["names"]), f"split {split!r}"
        numbers = {"labels": entry["labels"], "records": entry["records"]}
        lengths = {**numbers, **{f"column {k}": c["values"] for k, c in entry["columns"].items()}}
        for name, values in lengths.items():
            if len(values) != size:
                return f"{where} has {len(values)} values of {name} for {size} names"
        for name, limit in (("labels", len(entry["class_names"])), ("records", total)):
            beyond = [v for v in numbers[name] if not 0 <= v < limit]
            if beyond:
                return f"{where} has {beyond[0]} among its {name}, which count from 0 to {limit - 1}"
        for key, own in entry["columns"].items():
            if own["type"] == "int64":
                fits = all(type(v) is int and -(2**63) <= v < 2**63 for v in own["values"])
            else:
                fits = all(isinstance(v, str) for v in own["values"])
            if not fits:
                return f"{where} has values in column {key} that are not {own['type']}"
    return ""


def verify(folder: Path, content: Index) -> None:
    """Reads all files and compares their sha256 with the index.

    Args:
        folder: folder of the data set.
        content: its index.

    Raises:
        UserError: a file differs; the message names the first one.
    """
    for file in content["files"]:
        if files.sha256(folder / file["name"]) != file["sha256"]:
            raise UserError(
                f"{folder / file['name']} is damaged: its sha256 differs from that in the index; {_ANEW}"
            )


def summary(content: Index) -> str:
    """One line: the data set, the number of images per split and the number of files."""
    counts = ", ".join(f"{len(entry['names']):,} {split}" for split, entry in content["splits"].items())
    return f"{content['made']['source']}, images: {counts}, files: {len(content['files'])}"


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Creates and locks the folder; removes the files of interrupted writers before and after.

    Args:
        folder: of the data set.

    Raises:
        UserError: the folder is a file, cannot be written, holds other files, or is being written by another process.
    """
    with folder_errors(f"--out={folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        others = sorted(p.name for p in folder.iterdir() if not _OURS.fullmatch(p.name))
        if others:
            raise UserError(f"--out={folder} holds other files ({others[0]}); name an empty or a new folder")
        lock = (folder / ".lock").open("ab")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"--out={folder} is in use: another process prepares a data set there") from None
        _sweep(folder)
        try:
            yield
        finally:
            _sweep(folder)


def write_file(folder: Path, stem: str, records: Iterable[bytes]) -> FileEntry:
    """Writes an ArrayRecord file.

    Args:
        folder: a folder locked by `writing`.
        stem: beginning of the file name; the digest follows.
        records: encoded images.

    Returns:
        The entry of the file in the index.

    Raises:
        OSError, RuntimeError: the file cannot be written, e.g. because the disk is full.
    """
    part = folder / f"{stem}{_SUFFIX}.part"
    writer, count = ArrayRecordWriter(str(part), _OPTIONS), 0
    try:
        for record in records:
            writer.write(record)
            count += 1
    finally:
        writer.close()
    digest = files.sha256(part)
    name = f"{stem}-{digest[:12]}{_SUFFIX}"
    files.sync(part)
    os.replace(part, folder / name)  # its name is known only now, so not by `files.replacing`
    return {
        "name": name,
        "bytes": (folder / name).stat().st_size,
        "sha256": digest,
        "records": count,
    }


def commit(folder: Path, content: Content) -> None:
    """Writes the index atomically, which makes the written files the data set of the folder and replaces an older one.

    Args:
        folder: a folder locked by `writing`.
        content: the content of the index.
    """
    index: dict[str, object] = {
        "format": _FORMAT,
        "version": VERSION,
        "versions": {
            "fusionjax": __version__,
            "python": platform.python_version(),
            "array_record": importlib.metadata.version("array_record"),
        },
        **content,
    }
    index["digest"] = _digest(index)
    # ASCII: a file name need not be valid UTF-8, and JSON can escape it.
    files.write_text(folder / INDEX, json.dumps(index), encoding="ascii", durable=True)


def split_entry(source: FileSource, positions: list[int]) -> SplitEntry:
    """The entry of a split in the index.

    Args:
        source: the split.
        positions: positions of its examples among the records of all files.

    Raises:
        UserError: a column that holds neither integers nor text.
    """
    return {
        "name": source.name,
        "class_names": list(source.class_names),
        "names": list(source.names),
        "labels": np.asarray(source.labels).tolist(),
        "columns": {key: _column(key, np.asarray(value)) for key, value in source.columns.items()},
        "records": positions,
    }


def column(entry: Column) -> np.ndarray:
    """A column of a split, (N,) int64 or objects (str), as its source had it."""
    return np.asarray(entry["values"], np.int64 if entry["type"] == "int64" else object)


def _column(key: str, values: np.ndarray) -> Column:
    if values.dtype == np.int64:
        return {"type": "int64", "values": values.tolist()}
    if values.dtype == object and all(isinstance(v, str) for v in values):
        return {"type": "text", "values": values.tolist()}
    raise UserError(f"column {key!r} of type {values.dtype} cannot be prepared: it is neither int64 nor text")


def _digest(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sweep(folder: Path) -> None:
    """Removes the files that the index does not name; all files where there is no index."""
    try:
        kept = {f["name"] for f in json.loads((folder / INDEX).read_text(encoding="ascii"))["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        kept = set()
    for path in folder.iterdir():
        if path.name.endswith(".part") or (path.suffix == _SUFFIX and path.name not in kept):
            path.unlink()
