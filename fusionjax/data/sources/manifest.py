"""A table of images, CSV or Parquet: path, label, and where known split, caption, identity, camera, audio."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from fusionjax.data import splits
from fusionjax.data.source import FileSource
from fusionjax.data.sources import checks
from fusionjax.errors import UserError

REQUIRED = ("path", "label")
OPTIONAL = ("split", "caption", "identity", "camera", "audio")
_WHAT = "a .csv or .parquet file with the columns path and label, and as needed " + ", ".join(OPTIONAL)


def create(data: Any, split: str, *, seed: int) -> FileSource:
    """Reads a manifest; paths are relative to its folder.

    Labels become class names, sorted: as numbers if all are whole numbers, else as text. Classes are those
    of the whole manifest, whatever the split. Without a `split` column the split is drawn by
    `data.fractions`, stratified; rows with the same path stay together. Where `data.label` is "identity", whole
    identities are drawn.

    Args:
        data: `config.data`; `root` is the manifest file.
        split: a value of the column `split`, or "train", "val", "test".
        seed: draws the split.

    Returns:
        FileSource with a column for every optional one that the manifest has, other than `split`. identity
        and camera are int64 when all are whole numbers; audio is a path like `path`.

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
    for name in REQUIRED:
        if name not in table:
            raise UserError(f"{path} has no column {name!r}; its columns are {', '.join(table) or 'none'}")
        for row, value in zip(rows, table[name], strict=True):
            if not value:
                raise UserError(f"{path} {row}: {name!r} is empty")
    if not rows:
        raise UserError(f"{path} has no rows")
    class_names, labels = _classes(table["label"])
    by_identity = data.label == "identity" and "identity" in table
    chosen = _chosen(path, table, labels, data.fractions, split, seed, by_identity)
    names = [table["path"][i] for i in chosen]
    _files_exist(path.parent, [rows[i] for i in chosen], names, path)
    columns = {name: _column(name, table[name])[chosen] for name in OPTIONAL[1:] if name in table}
    if "audio" in columns:
        heard = [(rows[i], table["audio"][i]) for i in chosen if table["audio"][i]]
        _files_exist(path.parent, [r for r, _ in heard], [a for _, a in heard], path)
    return FileSource(path.stem, split, class_names, labels[chosen], names, path.parent, columns)


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
    table = {n: ["" if v is None else _plain(v) for v in content[n].to_pylist()] for n in known}
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
        parts = splits.stratified(labels, fractions, seed=seed, groups=np.asarray(table["path"]))
        return splits.pick(str(path), parts, split)
    chosen = np.flatnonzero(np.asarray(table["split"]) == split)
    if not len(chosen):
        found = ", ".join(sorted(set(table["split"])))
        raise UserError(f"{path} has no row with split {split!r}; its column 'split' holds {found}")
    return chosen


def _column(name: str, values: Sequence[str]) -> np.ndarray:
    if name in ("identity", "camera") and _all_whole(values):
        return np.asarray([int(v) for v in values], np.int64)
    return np.asarray(values, object)


def _files_exist(folder: Path, rows: Sequence[str], names: Sequence[str], manifest: Path) -> None:
    try:
        checks.files_exist(folder, names, manifest.name)
    except UserError as e:
        row = next(r for r, n in zip(rows, names, strict=True) if not (folder / n).is_file())
        raise UserError(f"{e}, {row}") from None
