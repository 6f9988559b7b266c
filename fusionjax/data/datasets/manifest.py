"""A table of examples, CSV or Parquet: image, label, and where known split, caption, identity, camera, sound, question."""

import csv
import dataclasses
import functools
import logging
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from fusionjax.data.datasets import checks
from fusionjax.data.sampling import splits
from fusionjax.data.source import FileSource
from fusionjax.errors import UserError
from fusionjax.register import DatasetRecord

REQUIRED = ("path", "label")
OPTIONAL = (
    "split",
    "caption",
    "identity",
    "camera",
    "audio",
    "question",
    "question_type",
    "answer",
    "answers",
)
HAS_IMAGE = "has_image"
"""The column that says 1 where a row has an image and 0 where not; `data.carry` names it where images may be missing."""
_WHAT = "a .csv or .parquet file with the columns path and label, and as needed " + ", ".join(OPTIONAL)
_LISTS = ("audio", "answers")
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class ManifestSource(FileSource):
    """A manifest's examples, some of which may have no image: `load` gives a white pixel for these.

    `names` of such examples are the manifest's name and the row.
    """

    def file(self, i: int) -> Path | None:
        """See `FileSource`."""
        return super().file(i) if self.columns[HAS_IMAGE][i] else None

    def load(self, i: int) -> bytes | np.ndarray:
        """The file's bytes, undecoded."""
        return super().load(i) if self.columns[HAS_IMAGE][i] else np.full((1, 1, 3), 255, np.uint8)


def create(data: Any, split: str, *, seed: int) -> FileSource:
    """Reads a manifest; paths are relative to its folder.

    Labels become class names, sorted: as numbers if all are whole numbers, else as text. Classes are those
    of the whole manifest, whatever the split. Without a `label` column the first of a row's answers is its label. Without a
    `split` column the split is drawn by `data.fractions`, stratified; rows with the same image or sound stay together. Where
    `data.label` is "identity", whole identities are drawn. A file that a `split` column puts into two splits is warned of.

    **Missing modalities**: captions and sounds may be empty. An image may be only where `data.carry` names has_image, so that
    the batch says which are; then a row needs an image, a sound or a caption.

    Args:
        data: `config.data`; `root` is the manifest file.
        split: a value of the column `split`, or "train", "val", "test".
        seed: draws the split.

    Returns:
        FileSource with a column for every optional one that the manifest has, other than `split`, and has_image where
        `data.carry` names it. identity and camera are int64 when all are whole numbers; audio is a path like `path`, or
        several with "|" between, and answers likewise; a column answer becomes answers.

    Raises:
        UserError: see `sources.create`; a missing column, an empty path or label and a missing file name
            their row.
    """
    if not data.root:
        raise UserError(f"config.data.root is empty: set it to the manifest, {_WHAT}")
    path = Path(data.root).expanduser()
    if not path.is_file():
        raise UserError(f"config.data.root={data.root!r} is not a file: it must be the manifest, {_WHAT}")
    rows, table = _read(path)
    # A file has one spelling: examples that share it are told by it.
    table |= {n: [_spelt(cell, n == "audio") for cell in table[n]] for n in ("path", "audio") if n in table}
    table = _with_answers(path, rows, table)
    partial = HAS_IMAGE in data.carry
    for name in REQUIRED:
        if name not in table:
            raise UserError(f"{path} has no column {name!r}; its columns are {', '.join(table) or 'none'}")
        for i, value in enumerate(table[name]):
            if value or (partial and name == "path" and _others(table, i)):
                continue
            hint = ""
            if name == "path":
                hint = ", and so are audio and caption" if partial else _allow(table, i)
            raise UserError(f"{path} {rows[i]}: {name!r} is empty{hint}")
    if not rows:
        raise UserError(f"{path} has no rows")
    class_names, labels = _classes(table["label"])
    by_identity = data.label == "identity" and "identity" in table
    chosen = _chosen(path, table, labels, data.fractions, split, seed, by_identity)
    names = [table["path"][i] or f"{path.name} {rows[i]}" for i in chosen]
    seen = [(rows[i], table["path"][i]) for i in chosen if table["path"][i]]
    _files_exist(path, seen, "image")
    columns = {name: _column(name, table[name])[chosen] for name in OPTIONAL[1:] if name in table}
    if "audio" in columns:
        heard = [(rows[i], part) for i in chosen for part in table["audio"][i].split("|") if part]
        _files_exist(path, heard, "sound")
    kind: type[FileSource] = FileSource
    if partial:
        kind, columns[HAS_IMAGE] = (
            ManifestSource,
            np.asarray([bool(table["path"][i]) for i in chosen], np.int64),
        )
    return kind(path.stem, split, class_names, labels[chosen], names, path.parent, columns)


def _spelt(cell: str, several: bool) -> str:
    """A path, or several with "|" between, without a ./ and the spaces around them."""
    parts = [part.strip() for part in (cell.split("|") if several else [cell])]
    return "|".join(posixpath.normpath(part) for part in parts if part)


def _others(table: dict[str, list[str]], i: int) -> bool:
    """Whether a row has something beside an image."""
    return any(table[name][i] for name in ("audio", "caption") if name in table)


def _allow(table: dict[str, list[str]], i: int) -> str:
    return f" (a run that may lack images has {HAS_IMAGE} in config.data.carry)" if _others(table, i) else ""


def _with_answers(path: Path, rows: Sequence[str], table: dict[str, list[str]]) -> dict[str, list[str]]:
    """The column answers in place of answer, and the label where there is none."""
    if "answer" in table and "answers" in table:
        raise UserError(
            f"{path} has a column answer and a column answers: keep one, several answers with | between them"
        )
    out = {"answers" if name == "answer" else name: values for name, values in table.items()}
    if "question" in out:
        if "answers" not in out:
            raise UserError(f"{path} has a column question and no column answer")
        for row, question, answers in zip(rows, out["question"], out["answers"], strict=True):
            if not question or not answers:
                raise UserError(f"{path} {row}: {'answer' if question else 'question'!r} is empty")
        if "label" not in out:
            out["label"] = [answers.split("|")[0] for answers in out["answers"]]
    return out


def _read(path: Path) -> tuple[list[str], dict[str, list[str]]]:
    """Where each row stands, for messages, and the known columns as text; a missing value is ""."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return _read_csv(path)
    if suffix not in (".parquet", ".pq"):
        raise UserError(f"config.data.root={str(path)!r}: a manifest ends in .csv or .parquet")
    try:
        content = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as e:
        raise UserError(f"{path} cannot be read as Parquet: {str(e).splitlines()[0]}") from None
    known = [n for n in (*REQUIRED, *OPTIONAL) if n in content.column_names]
    table = {n: [_cell(path, n, i, v) for i, v in enumerate(content[n].to_pylist(), 1)] for n in known}
    return [f"row {i}" for i in range(1, content.num_rows + 1)], table


def _read_csv(path: Path) -> tuple[list[str], dict[str, list[str]]]:
    rows: list[str] = []
    table: dict[str, list[str]] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as f:
            reader = csv.reader(f, strict=True)
            header = [h.strip() for h in next(reader, [])]
            known = [(i, n) for i, n in enumerate(header) if n in (*REQUIRED, *OPTIONAL)]
            table = {n: [] for _, n in known}
            for record in reader:
                if not record:
                    continue
                if len(record) != len(header):
                    raise UserError(
                        f"{path} line {reader.line_num}: {len(record)} fields, the header has {len(header)}"
                    )
                rows.append(f"line {reader.line_num}")
                for i, n in known:
                    table[n].append(record[i].strip())
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"{path} cannot be read as CSV: {e}") from None
    return rows, table


def _cell(path: Path, name: str, row: int, value: Any) -> str:
    """A Parquet cell; a list of sounds or of answers becomes one text with "|" between."""
    if value is None:
        return ""
    if isinstance(value, list) and name in _LISTS:
        parts = [_plain(v) for v in value if v is not None]
        if any("|" in part for part in parts):
            raise UserError(f"{path} row {row}: {name!r} has a | within, which parts them")
        return "|".join(parts)
    return _plain(value)


def _plain(value: Any) -> str:
    """A Parquet value as the text that a CSV file would hold; 3.0 in a float column is the number 3."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value.decode() if isinstance(value, bytes) else str(value).strip()


def _classes(values: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    names = sorted(set(values), key=int if _all_whole(values) else None)
    label_of = {name: i for i, name in enumerate(names)}
    return tuple(names), np.asarray([label_of[v] for v in values], np.int32)


def _all_whole(values: Sequence[str]) -> bool:
    return all(v.isascii() and v.removeprefix("-").isdigit() for v in values)


def _chosen(
    path: Path,
    table: dict[str, list[str]],
    labels: np.ndarray,
    fractions: Sequence[float],
    split: str,
    seed: int,
    by_identity: bool,
) -> np.ndarray:
    if "split" not in table and by_identity:
        _, groups = np.unique(table["identity"], return_inverse=True)
        parts = splits.stratified(np.zeros_like(groups), fractions, seed=seed, groups=groups)
        return splits.pick(str(path), parts, split)
    if "split" not in table:
        groups = splits.linked(len(labels), _shared(table))
        parts = splits.stratified(labels, fractions, seed=seed, groups=groups)
        return splits.pick(str(path), parts, split)
    chosen = np.flatnonzero(np.asarray(table["split"]) == split)
    if not len(chosen):
        found = ", ".join(sorted(set(table["split"])))
        raise UserError(f"{path} has no row with split {split!r}; its column 'split' holds {found}")
    splits_of: dict[tuple[str, str], set[str]] = {}
    for row, file in _shared(table):
        splits_of.setdefault(file, set()).add(table["split"][row])
    several = {file: found for file, found in splits_of.items() if len(found) > 1}
    if several:
        (_, name), found = next(iter(several.items()))
        _warn_once(
            f"{path.name}: files are in more than one split ({len(several)}), first {name} in"
            f" {' and '.join(sorted(found))}: what is scored there may have been trained on"
        )
    return chosen


@functools.cache
def _warn_once(message: str) -> None:
    log.warning(message)


def _column(name: str, values: Sequence[str]) -> np.ndarray:
    if name in ("identity", "camera") and _all_whole(values):
        return np.asarray([int(v) for v in values], np.int64)
    return np.asarray(values, object)


def _shared(table: dict[str, list[str]]) -> Iterator[tuple[int, tuple[str, str]]]:
    """(row, file) of every image and sound."""
    for name in ("path", "audio"):
        for i, cell in enumerate(table.get(name, ())):
            yield from (
                (i, (name, part)) for part in (cell.split("|") if name == "audio" else [cell]) if part
            )


def _files_exist(manifest: Path, listed: Sequence[tuple[str, str]], what: str) -> None:
    """Of (row, file) pairs; the error names the row."""
    folder = manifest.parent
    try:
        checks.files_exist(folder, [name for _, name in listed], manifest.name, what=what)
    except UserError as e:
        row = next(r for r, n in listed if not (folder / n).is_file())
        raise UserError(f"{e}, {row}") from None


RECORD = DatasetRecord("manifest", create, reads=("root", "fractions"))
