"""Embeddings as files that other programs read: .npz for NumPy, .parquet for data frames. Nothing in them is pickled.

One row is one example in one modality:

    name       text      tells one example from another, e.g. its path; the same in both modalities
    label      int32     class index
    class      text      its name (.npz: `class_names`[label])
    modality   text
    embedding  float32   (D,)

Text is UTF-8; a lone surrogate, which stands for a byte of a file name that is no text, is written as \\udcNN.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

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
        names: N strings, different from each other.
        labels: (N,) int, class indices.
        class_names: of all classes.
        modalities: name → (N, D) float32, D the same for all.

    Raises:
        ValueError: sizes that do not agree, names that repeat, no modality.
    """

    names: Sequence[str]
    labels: np.ndarray
    class_names: Sequence[str]
    modalities: Mapping[str, np.ndarray]

    def __post_init__(self):
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
    """Writes a file in one step: it is whole or absent. Rows are by modality, then in the order of the names.

    Args:
        path: ends in .npz or .parquet; its folder is made.
        embeddings: to write.

    Returns:
        The path.

    Raises:
        UserError: another ending.
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
    """What `write` wrote.

    Raises:
        UserError: the file is missing, is damaged, or is not such a file.
    """
    path = Path(path)
    suffix = _suffix(path)
    if not path.is_file():
        raise UserError(f"{path} is missing or is not a file")
    try:
        return _read_npz(path) if suffix == ".npz" else _read_parquet(path)
    except Exception as e:  # the libraries raise many types on damaged data
        reason = " ".join(f"{type(e).__name__}: {e}".split())[:300]
        raise UserError(f"{path} is damaged or holds no exported embeddings ({reason}): {_AGAIN}") from None


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
                raise ValueError(f"modality {name!r} has another column {column!r} than {found[0]!r}")
    return Embeddings(
        columns["name"][first].tolist(),
        columns["label"][first],
        class_names,
        {name: columns["embedding"][rows[name]] for name in found},
    )


def _write_npz(path: Path, embeddings: Embeddings) -> None:
    with path.open("wb") as file:
        np.savez_compressed(
            file, **_columns(embeddings), class_names=np.asarray(embeddings.class_names, np.str_)
        )


def _read_npz(path: Path) -> Embeddings:
    # Opened here: np.load leaves the file of a damaged archive open.
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        columns = {name: file[name] for name in ("name", "label", "modality", "embedding")}
        return _from_columns(columns, file["class_names"].tolist())


def _table(e: Embeddings) -> pyarrow.Table:
    columns = _columns(e)
    width = columns["embedding"].shape[1]
    vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(columns["embedding"].ravel()), width)
    of_class = np.asarray(e.class_names, np.str_)[columns["label"]] if len(e.names) else []
    # The whole list of classes too: some may have no example.
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
            f"embeddings are written to a file that ends in {' or '.join(SUFFIXES)}, not {path.name!r}"
        )
    return path.suffix.lower()
