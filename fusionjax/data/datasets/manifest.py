"""A manifest: a table of examples, CSV or Parquet, with image, label and optional columns such as split, caption and audio."""

import dataclasses
import functools
import logging
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from fusionjax.data.datasets import checks, listing, tables
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
_WHAT = "a .csv, .tsv or .parquet file with the columns path and label, and as needed " + ", ".join(OPTIONAL)
COLUMNS = tables.Known(
    (*REQUIRED, *OPTIONAL),
    lists=("audio", "answer", "answers"),
    prose=("caption", "question", "question_type"),
)
_DIGITS = 4000  # Python converts no more
_SHOWN = 8
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

    The labels are the class names, sorted as numbers if all are integers (and then as text: 01 before 1), else as text; the
    classes are those of the whole manifest. Without a column `label`, the first answer of a row is its label, else its
    identity. Without a column `split`, the split is drawn by `data.fractions`, stratified by class; rows with the same image
    or audio file stay together. Where `data.label` is "identity", whole identities are drawn. A file that is in two splits of
    a column `split` causes a warning.

    **Missing modalities**: captions and audio may be empty. An image may be missing only where `data.carry` names has_image,
    so that the batch marks it; the row then needs an audio file or a caption.

    Args:
        data: `config.data`; `root` (the manifest file), `fractions`, `label`, `carry` and the names of the splits are read.
        split: a value of the column `split`, in any usual spelling (`splits.standard`), or "train", "val", "test".
        seed: seed of the split.

    Returns:
        FileSource with all optional columns of the manifest other than `split`, and has_image where `data.carry` names it.
        Cameras with names are numbered in the order of the names where the run reads them: `data.label` is "identity", or
        `data.carry` has camera. identity and camera are int64 if all values are integers of 64 bits, else
        text. audio holds paths separated by "|", answers likewise; a column answer is renamed to answers.

    Raises:
        UserError: see `datasets.create`; also a missing column, an empty path or label, or a missing file, with its row.
    """
    if not data.root:
        raise UserError(f"config.data.root is empty: set it to the manifest, {_WHAT}")
    path = Path(data.root).expanduser()
    if not path.is_file():
        where = f"is not a file{checks.seen_from(path)}"
        raise UserError(f"config.data.root={data.root!r} {where}: it must be the manifest, {_WHAT}")
    content = tables.read(path, COLUMNS)
    rows, table = content.rows, dict(content.columns)
    # Paths are normalised, so that examples that share a file are recognised.
    table |= {
        n: [_normalised(cell, n == "audio") for cell in table[n]] for n in ("path", "audio") if n in table
    }
    table = _with_answers(path, rows, table)
    by_identity = data.label == "identity" and "identity" in table
    if "label" not in table and "identity" in table:
        table["label"] = table["identity"]
    partial = HAS_IMAGE in data.carry
    for name in (*REQUIRED, "identity") if by_identity else REQUIRED:
        if name not in table:
            present = ", ".join(map(repr, content.present)) or "none"
            raise UserError(f"{path} has no column {name!r}; its columns are {present}")
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
    listing.one_composition(class_names, f"{path}: the labels")
    chosen, notes = _chosen(path, table, labels, data, split, seed, by_identity)
    names = [table["path"][i] or f"{path.name} {rows[i]}" for i in chosen]
    seen = [(rows[i], table["path"][i]) for i in chosen if table["path"][i]]
    _files_exist(path, seen, "image")
    if "camera" in table and (data.label == "identity" or "camera" in data.carry):
        table["camera"], more = _numbered_cameras(path, rows, table["camera"])
        notes += more
    columns = {name: _column(name, table[name])[chosen] for name in OPTIONAL[1:] if name in table}
    if "audio" in columns:
        listed = [(rows[i], part) for i in chosen for part in table["audio"][i].split("|") if part]
        _files_exist(path, listed, "audio file")
    kind = ManifestSource if partial else FileSource
    if partial:
        columns[HAS_IMAGE] = np.asarray([bool(table["path"][i]) for i in chosen], np.int64)
    return kind(
        path.stem, split, class_names, labels[chosen], names, path.parent, columns, notes, content.present
    )


def split_names(path: Path) -> tuple[str, ...]:
    """The values of the column `split` of a manifest, sorted; () where it has no such column."""
    return tuple(sorted(set(filter(None, tables.read(path, COLUMNS).columns.get("split", ())))))


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


def _classes(values: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    # By value, and then as text, as 01 and 1 are two names of one value.
    names = sorted(set(values), key=(lambda v: (int(v), v)) if _all_whole(values) else None)
    label_of = {name: i for i, name in enumerate(names)}
    return tuple(names), np.asarray([label_of[v] for v in values], np.int32)


def _all_whole(values: Sequence[str]) -> bool:
    return all(v.isascii() and v.removeprefix("-").isdigit() and len(v) < _DIGITS for v in values)


def _chosen(
    path: Path,
    table: dict[str, list[str]],
    labels: np.ndarray,
    data: ConfigDict,
    split: str,
    seed: int,
    by_identity: bool,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The rows of a split, and notes."""
    if "split" not in table and by_identity:
        _, groups = np.unique(table["identity"], return_inverse=True)
        parts = splits.stratified(np.zeros_like(groups), data.fractions, seed=seed, groups=groups)
        return splits.pick(str(path), parts, split), ()
    if "split" not in table:
        groups = splits.linked(len(labels), _shared(table))
        parts = splits.stratified(labels, data.fractions, seed=seed, groups=groups)
        return splits.pick(str(path), parts, split), ()
    found = set(table["split"])
    named = {data.train_split, *data.eval_splits, split}
    value = splits.spelt(split, found, named, f"the column 'split' of {path}")
    if value is None:
        raise UserError(
            f"{path} has no row with split {split!r}; its column 'split' holds {', '.join(sorted(found))}"
        )
    notes = []
    if value != split:
        notes.append(f"split {split!r} is the rows of {path} with split {value!r}")
    empty = table["split"].count("")
    if empty:
        notes.append(f"not read, as their column 'split' is empty: {empty} of {len(labels)} rows of {path}")
    _warn_of_shared_files(path, table)
    return np.flatnonzero(np.asarray(table["split"]) == value), tuple(notes)


def _warn_of_shared_files(path: Path, table: dict[str, list[str]]) -> None:
    """Warns of files that are in more than one split."""
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


@functools.cache
def _warn_once(message: str) -> None:
    log.warning(message)


def _numbered_cameras(
    path: Path, rows: Sequence[str], cameras: list[str]
) -> tuple[list[str], tuple[str, ...]]:
    """Names of cameras as their numbers in sorted order, the same in every split, and a note; numbers as they are."""
    if _all_whole(cameras):
        return cameras, ()
    for row, camera in zip(rows, cameras, strict=True):
        if not camera:
            raise UserError(f"{path} {row}: 'camera' is empty")
    names = sorted(set(cameras))
    number = {name: str(i) for i, name in enumerate(names)}
    shown = ", ".join(f"{name!r} is {i}" for i, name in enumerate(names[:_SHOWN]))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    note = f"cameras of {path} are numbered in the order of their names: {shown}{more}"
    return [number[camera] for camera in cameras], (note,)


def _column(name: str, values: Sequence[str]) -> np.ndarray:
    if name in ("identity", "camera") and _all_whole(values):
        numbers = [int(v) for v in values]
        if min(numbers) >= -(2**63) and max(numbers) < 2**63:
            return np.asarray(numbers, np.int64)
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
    rows, names = [row for row, _ in listed], [name for _, name in listed]
    checks.files_exist(manifest.parent, names, manifest.name, what=what, rows=rows)


RECORD = DatasetRecord("manifest", create, reads=("root", "fractions"))
