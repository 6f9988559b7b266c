"""A manifest: a table of examples, CSV or Parquet, with image, label and optional columns such as split, caption and audio."""

import csv
import dataclasses
import functools
import logging
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from ml_collections import ConfigDict

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
"""The column that is 1 where a row has an image, else 0; `data.carry` must name it where images may be missing."""
_WHAT = "a .csv or .parquet file with the columns path and label, and as needed " + ", ".join(OPTIONAL)
_LISTS = ("audio", "answers")
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class ManifestSource(FileSource):
    """A manifest some of whose examples may have no image; `load` returns a white pixel for these.

    The name of such an example is the file name of the manifest and the row.
    """

    def file(self, i: int) -> Path | None:
        """The file of example `i`; None for an example without an image."""
        return super().file(i) if self.columns[HAS_IMAGE][i] else None

    def load(self, i: int) -> bytes | np.ndarray:
        """The encoded bytes of the file; a white pixel, uint8 (1, 1, 3), for an example without an image."""
        return super().load(i) if self.columns[HAS_IMAGE][i] else np.full((1, 1, 3), 255, np.uint8)


def create(data: ConfigDict, split: str, *, seed: int) -> FileSource:
    """Opens one split of a manifest; paths are relative to its folder.

    The labels are the class names, sorted as numbers if all are integers, else as text; the classes are those of the whole
    manifest. Without a column `label`, the first answer of a row is its label. Without a column `split`, the split is drawn by
    `data.fractions`, stratified by class; rows with the same image or audio file stay together. Where `data.label` is
    "identity", whole identities are drawn. A file that is in two splits of a column `split` causes a warning.

    **Missing modalities**: captions and audio may be empty. An image may be missing only where `data.carry` names has_image,
        so
    that the batch marks it; the row then needs an audio file or a caption.

    Args:
        data: `config.data`; `root` (the manifest file), `fractions`, `label` and `carry` are read.
        split: a value of the column `split`, or "train", "val", "test".
        seed: seed of the split.

    Returns:
        FileSource with all optional columns of the manifest other than `split`, and has_image where `data.carry` names it.
        identity and camera are int64 if all values are integers. audio holds paths separated by "|", answers likewise; a
        column answer is renamed to answers.

    Raises:
        UserError: see `datasets.create`; also a missing column, an empty path or label, or a missing file, with its row.
    """
    if not data.root:
        raise UserError(f"config.data.root is empty: set it to the manifest, {_WHAT}")
    path = Path(data.root).expanduser()
    if not path.is_file():
        raise UserError(f"config.data.root={data.root!r} is not a file: it must be the manifest, {_WHAT}")
    rows, table = _read(path)
    # Paths are normalised, so that examples that share a file are recognised.
    table |= {
        n: [_normalised(cell, n == "audio") for cell in table[n]] for n in ("path", "audio") if n in table
    }
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
        listed = [(rows[i], part) for i in chosen for part in table["audio"][i].split("|") if part]
        _files_exist(path, listed, "audio file")
    kind = ManifestSource if partial else FileSource
    if partial:
        columns[HAS_IMAGE] = np.asarray([bool(table["path"][i]) for i in chosen], np.int64)
    return kind(path.stem, split, class_names, labels[chosen], names, path.parent, columns)


def _normalised(cell: str, several: bool) -> str:
    """A path, or several separated by "|", without leading ./ and surrounding spaces."""
    parts = [part.strip() for part in (cell.split("|") if several else [cell])]
    return "|".join(posixpath.normpath(part) for part in parts if part)


def _others(table: dict[str, list[str]], i: int) -> bool:
    """Whether a row has audio or a caption."""
    return any(table[name][i] for name in ("audio", "caption") if name in table)


def _allow(table: dict[str, list[str]], i: int) -> str:
    return f" (a run that may lack images has {HAS_IMAGE} in config.data.carry)" if _others(table, i) else ""


def _with_answers(path: Path, rows: Sequence[str], table: dict[str, list[str]]) -> dict[str, list[str]]:
    """The table with the column answer renamed to answers, and with a label where there is none."""
    if "answer" in table and "answers" in table:
        raise UserError(
            f"{path} has a column answer and a column answers: keep one, with several answers separated by |"
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
    """The position of each row, for messages, and the known columns as text; a missing value is ""."""
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


def _cell(path: Path, name: str, row: int, value: object) -> str:
    """A Parquet cell as text; a list of audio files or of answers is joined by "|"."""
    if value is None:
        return ""
    if isinstance(value, list) and name in _LISTS:
        parts = [_plain(v) for v in value if v is not None]
        if any("|" in part for part in parts):
            raise UserError(f"{path} row {row}: {name!r} contains |, which separates the values")
        return "|".join(parts)
    return _plain(value)


def _plain(value: object) -> str:
    """A Parquet value as the text that a CSV file would hold; 3.0 in a float column becomes "3"."""
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
    several = {file: names for file, names in splits_of.items() if len(names) > 1}
    if several:
        (_, name), where = next(iter(several.items()))
        _warn_once(
            f"{path.name}: files are in more than one split ({len(several)}), first {name} in"
            f" {' and '.join(sorted(where))}: evaluation data may have been trained on"
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
    """(row, (column, file)) of every image and audio file."""
    for name in ("path", "audio"):
        for i, cell in enumerate(table.get(name, ())):
            yield from (
                (i, (name, part)) for part in (cell.split("|") if name == "audio" else [cell]) if part
            )


def _files_exist(manifest: Path, listed: Sequence[tuple[str, str]], what: str) -> None:
    """Raises UserError unless all files of (row, file) pairs exist; the message names the row."""
    folder = manifest.parent
    try:
        checks.files_exist(folder, [name for _, name in listed], manifest.name, what=what)
    except UserError as e:
        row = next(r for r, n in listed if not (folder / n).is_file())
        raise UserError(f"{e}, {row}") from None


RECORD = DatasetRecord("manifest", create, reads=("root", "fractions"))
