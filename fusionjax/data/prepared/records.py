"""A prepared data set on disk: encoded images in ArrayRecord files, and one JSON index that commits them.

The folder is whole when, and only when, it has an index: the files are written first, each under a name that holds its
digest, and the index replaces an older one in a single step. Files that no index names are remains of an interrupted
writer, and the next one removes them.
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
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from fusionjax import files
from fusionjax._version import __version__
from fusionjax.data.source import FileSource
from fusionjax.errors import UserError

INDEX = "index.json"
VERSION = 1
_FORMAT = "fusionjax prepared data set"
_SUFFIX = ".arrayrecord"
_OURS = re.compile(r"\.lock|index\.json|\.[\w.-]+\.part|[\w-]+\.arrayrecord(\.part)?")
_ANEW = "prepare it anew with --overwrite"
# A group a record: random access reads what it needs. Encoded images do not shrink, so nothing is compressed again.
_OPTIONS = "group_size:1,uncompressed"


def read_index(folder: Path, asked: str) -> dict[str, Any]:
    """The index of a prepared data set, checked: its own digest, and every file's presence and size.

    Args:
        folder: that `fusionjax.prepare` wrote.
        asked: how the user named it, for errors, e.g. "config.data.root='x'".

    Raises:
        UserError: no index, a damaged one, one of another version, or a file that is missing or of another size.
    """
    path = folder / INDEX
    try:
        content = json.loads(path.read_text(encoding="ascii"))
        if content["format"] != _FORMAT:
            raise KeyError("format")
        version = content["version"]
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{asked} holds no prepared data set: {path} is missing (python -m fusionjax.prepare writes it)"
        ) from None
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(f"{path} is damaged ({type(e).__name__}: {e}); {_ANEW}") from None
    if version != VERSION:
        raise UserError(f"{path} is of version {version}, this fusionjax reads version {VERSION}; {_ANEW}")
    digest = content.pop("digest", None)
    if digest != _digest(content):
        raise UserError(f"{path} is damaged: its content does not match its digest; {_ANEW}")
    for file in content["files"]:
        if not _OURS.fullmatch(file["name"]):
            raise UserError(f"{path} names {file['name']!r}, which prepare does not write; {_ANEW}")
        found = (folder / file["name"]).stat().st_size if (folder / file["name"]).is_file() else None
        if found != file["bytes"]:
            size = "is missing" if found is None else f"has {found:,} bytes instead of {file['bytes']:,}"
            raise UserError(f"{folder / file['name']} {size}; {_ANEW}")
    return {**content, "digest": digest}


def verify(folder: Path, content: Mapping[str, Any]) -> None:
    """Compares the sha256 of every file with the index, which reads all of them.

    Raises:
        UserError: the first file that differs.
    """
    for file in content["files"]:
        if files.sha256(folder / file["name"]) != file["sha256"]:
            raise UserError(f"{folder / file['name']} is damaged: its sha256 is not the index's; {_ANEW}")


def summary(content: Mapping[str, Any]) -> str:
    """What an index holds, in a few words."""
    counts = ", ".join(f"{len(entry['names']):,} {split}" for split, entry in content["splits"].items())
    return f"{content['made']['source']}, images: {counts}, files: {len(content['files'])}"


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Makes the folder and keeps other writers out; takes the remains of an interrupted one away, before and after.

    Raises:
        UserError: the folder is a file, cannot be written, holds files of others, or is being written by another process.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = sorted(p.name for p in folder.iterdir() if not _OURS.fullmatch(p.name))
        if others:
            raise UserError(
                f"--out={folder} holds other files ({others[0]}); name an empty folder or one not there yet"
            )
        lock = (folder / ".lock").open("ab")
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"--out={folder} is a file; name a folder") from None
    except OSError as e:
        raise UserError(f"--out={folder} cannot be written: {e.strerror}") from None
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


def write_file(folder: Path, stem: str, records: Iterable[bytes]) -> dict[str, Any]:
    """Writes an ArrayRecord file.

    Args:
        folder: that `writing` holds.
        stem: beginning of its name; the digest follows.
        records: encoded images.

    Returns:
        The file's entry in the index: name, bytes, sha256, records.

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


def commit(folder: Path, content: dict[str, Any]) -> None:
    """Makes what was written the folder's data set, in one step; an older one is gone with it.

    Args:
        folder: that `writing` holds.
        content: name, made, bottom_rows_removed, unreadable, files, and splits with an entry as `split_entry` makes it.
    """
    content = {
        "format": _FORMAT,
        "version": VERSION,
        "versions": {
            "fusionjax": __version__,
            "python": platform.python_version(),
            "array_record": importlib.metadata.version("array_record"),
        },
        **content,
    }
    content["digest"] = _digest(content)
    # ASCII: a file name need not be text, and JSON's escapes carry it all the same.
    files.write_text(folder / INDEX, json.dumps(content), encoding="ascii", durable=True)


def split_entry(source: FileSource, positions: list[int]) -> dict[str, Any]:
    """What the index holds of a split.

    Args:
        source: the split.
        positions: of its examples among the records of all files.

    Raises:
        UserError: a column that is neither of whole numbers nor of text.
    """
    return {
        "name": source.name,
        "class_names": list(source.class_names),
        "names": list(source.names),
        "labels": np.asarray(source.labels).tolist(),
        "columns": {key: _column(key, np.asarray(value)) for key, value in source.columns.items()},
        "records": positions,
    }


def column(entry: Mapping[str, Any]) -> np.ndarray:
    """A column of an index's split, as its source had it."""
    return np.asarray(entry["values"], np.int64 if entry["type"] == "int64" else object)


def _column(key: str, values: np.ndarray) -> dict[str, Any]:
    if values.dtype == np.int64:
        return {"type": "int64", "values": values.tolist()}
    if values.dtype == object and all(isinstance(v, str) for v in values):
        return {"type": "text", "values": values.tolist()}
    raise UserError(f"column {key!r} of type {values.dtype} cannot be prepared: it is neither int64 nor text")


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sweep(folder: Path) -> None:
    """Removes the files that the index does not name; all of them where there is none."""
    try:
        kept = {f["name"] for f in json.loads((folder / INDEX).read_text(encoding="ascii"))["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        kept = set()
    for path in folder.iterdir():
        if path.name.endswith(".part") or (path.suffix == _SUFFIX and path.name not in kept):
            path.unlink()
