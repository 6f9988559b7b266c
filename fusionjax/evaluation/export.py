"""Embeddings as files for other programs: .npz for NumPy, .parquet for data frames. Nothing in them is pickled.

One row is one example in one modality:

    name       text      unique identifier of the example, e.g. its path; the same in all modalities
    label      int32     class index
    class      text      name of the class (.npz: `class_names`[label])
    modality   text
    embedding  float32   (D,)

Text is UTF-8; a lone surrogate, which represents an undecodable byte of a file name, is written as \\udcNN.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from fusionjax import files
from fusionjax.errors import UserError

SUFFIXES = (".npz", ".parquet")
_AGAIN = "write it again"


@dataclasses.dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of the same N examples in one or more modalities.

    Attributes:
        names: N distinct strings.
        labels: (N,) int, class indices.
        class_names: names of all classes.
        modalities: name → (N, D) float32, with the same D.

    Raises:
        ValueError: sizes do not agree, names are repeated, or there is no modality.
    """

    names: Sequence[str]
    labels: np.ndarray
    class_names: Sequence[str]
    modalities: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "names", tuple(map(_text, self.names)))
        set_(self, "class_names", tuple(map(_text, self.class_names)))
        set_(self, "labels", np.asarray(self.labels, np.int32))
        set_(self, "modalities", {_text(k): np.asarray(v, np.float32) for k, v in self.modalities.items()})
        n, shapes = len(self.names), {v.shape for v in self.modalities.values()}
        if len(shapes) != 1 or len(shape := shapes.pop()) != 2 or shape[0] != n or self.labels.shape != (n,):
            found = ", ".join(f"{k} {v.shape}" for k, v in self.modalities.items()) or "none"
            raise ValueError(f"modalities ({found}) and labels {self.labels.shape} do not fit {n} names")
        if n and not 0 <= self.labels.min() <= self.labels.max() < len(self.class_names):
            raise ValueError(f"labels do not fit {len(self.class_names)} class names")
        if len(set(self.names)) != n:
            raise ValueError("two examples have the same name")


def write(path: Path, embeddings: Embeddings) -> Path:
    """Writes embeddings to a file atomically. Rows are ordered by modality, then as the names.

    Args:
        path: ends in .npz or .parquet; its folder is created.
        embeddings: to write.

    Returns:
        The path.

    Raises:
        UserError: the path has another extension.
    """
    path = Path(path)
    suffix = _suffix(path)
    with files.replacing(path) as part:
        if suffix == ".npz":
            _write_npz(part, embeddings)
        else:
            pyarrow.parquet.write_table(_table(embeddings), part)
    return path


def read(path: Path) -> Embeddings:
    """Reads a file that `write` wrote.

    Raises:
        UserError: the file is missing or damaged, or is no file of embeddings.
    """
    path = Path(path)
    suffix = _suffix(path)
    if not path.is_file():
        raise UserError(f"{path} is missing or is not a file")
    try:
        return _read_npz(path) if suffix == ".npz" else _read_parquet(path)
    except Exception as e:  # the libraries raise many types on damaged data
        reason = " ".join(f"{type(e).__name__}: {e}".split())[:300]
        raise UserError(
            f"{path} is damaged or contains no exported embeddings ({reason}): {_AGAIN}"
        ) from None


def _columns(e: Embeddings) -> dict[str, np.ndarray]:
    repeats = len(e.modalities)
    return {
        "name": np.tile(np.asarray(e.names, np.str_), repeats),
        "label": np.tile(e.labels, repeats),
        "modality": np.repeat(np.asarray(list(e.modalities), np.str_), len(e.names)),
        "embedding": np.concatenate(list(e.modalities.values())),
    }


def _from_columns(columns: Mapping[str, np.ndarray], class_names: Sequence[str]) -> Embeddings:
    modality = columns["modality"]
    found = list(dict.fromkeys(modality.tolist()))
    rows = {name: np.flatnonzero(modality == name) for name in found}
    first = rows[found[0]] if found else np.zeros(0, int)
    for name in found[1:]:
        for column in ("name", "label"):
            if not np.array_equal(columns[column][first], columns[column][rows[name]]):
                raise ValueError(
                    f"column {column!r} differs between the modalities {name!r} and {found[0]!r}"
                )
    return Embeddings(
        columns["name"][first].tolist(),
        columns["label"][first],
        class_names,
        {name: columns["embedding"][rows[name]] for name in found},
    )


def _write_npz(path: Path, embeddings: Embeddings) -> None:
    columns: dict[str, Any] = _columns(embeddings)
    with path.open("wb") as file:
        np.savez_compressed(file, class_names=np.asarray(embeddings.class_names, np.str_), **columns)


def _read_npz(path: Path) -> Embeddings:
    # Opened here, because np.load does not close the file of a damaged archive.
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        columns = {name: file[name] for name in ("name", "label", "modality", "embedding")}
        return _from_columns(columns, file["class_names"].tolist())


def _table(e: Embeddings) -> pyarrow.Table:
    columns = _columns(e)
    width = columns["embedding"].shape[1]
    vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(columns["embedding"].ravel()), width)
    of_class = np.asarray(e.class_names, np.str_)[columns["label"]] if len(e.names) else []
    # The list of all classes, because some may have no example.
    schema = {"class_names": json.dumps(e.class_names)}
    return pyarrow.table(
        {
            "name": pyarrow.array(columns["name"].tolist(), pyarrow.string()),
            "label": columns["label"],
            "class": pyarrow.array(list(map(str, of_class)), pyarrow.string()),
            "modality": pyarrow.array(columns["modality"].tolist(), pyarrow.string()),
            "embedding": vectors,
        }
    ).replace_schema_metadata(schema)


def _read_parquet(path: Path) -> Embeddings:
    table = pyarrow.parquet.read_table(path)
    vectors = table["embedding"].combine_chunks()
    columns = {name: table[name].to_numpy() for name in ("name", "label", "modality")}
    columns["embedding"] = vectors.flatten().to_numpy().reshape(len(table), vectors.type.list_size)
    return _from_columns(columns, json.loads(table.schema.metadata[b"class_names"]))


def _text(value: str) -> str:
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def _suffix(path: Path) -> str:
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"a file of embeddings must end in {' or '.join(SUFFIXES)}, which {path.name!r} does not"
        )
    return path.suffix.lower()
