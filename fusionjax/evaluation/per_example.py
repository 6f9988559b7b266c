"""Per-example results of a run on its test split: outcomes.npz in its workdir, for the paired comparison of runs.

It contains arrays by name. `name`: (N,) text, the examples' names in the order of the data set; `split`: the prefix of their
scores in results.json, e.g. "test"; `read`: the splits that are used, e.g. query and gallery; every other array is (N,), one
value per example: those of `MEASURES`, and whatever else a task stores. `prior_<array>` is that array of a predictor that does
not see the image.
"""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusionjax import files
from fusionjax.data.source import Source
from fusionjax.errors import UserError

FILE = "outcomes.npz"
MEASURES = {"correct": "accuracy", "average_precision": "mAP", "rank1": "rank1"}
"""Array → score in results.json that is its mean."""
BINARY = ("correct", "rank1")
"""Arrays of 0 and 1. Arrays named recall@… are binary too, and have the name of their score."""
_AGAIN = "start the run's training command again: it evaluates the trained weights anew"
_TOLERANCE = 1e-6


def score_of(array: str) -> str | None:
    """Returns the score in results.json that is the mean of an array, without its split; None if it is no measure."""
    return array if array.startswith("recall@") else MEASURES.get(array)


def is_binary(array: str) -> bool:
    """Returns whether an array contains only 0 and 1."""
    return array in BINARY or array.startswith("recall@")


@dataclass(frozen=True, eq=False)
class PerExample:
    """Per-example results of a run.

    Attributes:
        names: of the examples, in the order of the data set.
        split: prefix of the scores, e.g. "test".
        read: the splits that are used.
        values: name → (N,), one value per example; those of `MEASURES` are float64 in 0 … 1.
    """

    names: tuple[str, ...]
    split: str
    read: tuple[str, ...]
    values: Mapping[str, np.ndarray]

    @property
    def measures(self) -> dict[str, np.ndarray]:
        """The arrays whose mean is a score: array name → (N,) float64."""
        known = dict.fromkeys((*MEASURES, *filter(score_of, self.values)))
        return {name: self.values[name] for name in known if name in self.values}


def names_of(source: Source, rows: np.ndarray) -> np.ndarray:
    """Returns the names of examples as an array of text.

    Args:
        source: the split.
        rows: (N,) int, indices in it.
    """
    names = source.names
    return np.array([str(names[int(i)]) for i in rows], np.str_)


def write(folder: Path, arrays: Mapping[str, np.ndarray | Sequence[str] | str]) -> Path:
    """Writes outcomes.npz atomically.

    Args:
        folder: the workdir.
        arrays: see the module. Text is stored as UTF-8 bytes and the end of each string; nothing is pickled.

    Returns:
        The path.

    Raises:
        ValueError: an array contains objects, or does not have one value per example.
    """
    stored: dict[str, Any] = dict(arrays)
    # Lone surrogates represent undecodable bytes of a file name.
    raw = [str(name).encode("utf-8", "surrogatepass") for name in stored.pop("name")]
    for name, values in stored.items():
        if np.asarray(values).dtype.hasobject:
            raise ValueError(f"per-example results: {name} holds objects")
        if name not in ("split", "read") and np.shape(values) != (len(raw),):
            raise ValueError(
                f"per-example results: {name} {np.shape(values)} is not a value for each of {len(raw)} examples"
            )
    stored["name_bytes"] = np.frombuffer(b"".join(raw), np.uint8)
    stored["name_ends"] = np.cumsum([len(r) for r in raw], dtype=np.int64)
    path = Path(folder) / FILE
    with files.replacing(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **stored)
    return path


def read(folder: Path, results: Mapping[str, object]) -> PerExample:
    """Reads and checks what `write` wrote.

    Args:
        folder: the workdir.
        results: the content of its results.json, whose scores must be the means of the arrays.

    Returns:
        PerExample.

    Raises:
        UserError: the file is missing or damaged, or belongs to other results.
    """
    path = Path(folder) / FILE
    try:
        files.check_readable(path)
        with path.open("rb") as raw:
            if not zipfile.is_zipfile(raw):
                raise ValueError("it is not an npz archive")
            with np.load(raw, allow_pickle=False) as file:
                found = _checked({name: file[name] for name in file.files})
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing, its run is older than the comparison of runs; {_AGAIN}"
        ) from None
    except (
        Exception
    ) as e:  # on a damaged archive zipfile, zlib and NumPy raise many types, MemoryError included
        raise UserError(f"{path} is damaged ({_line(e)}); {_AGAIN}") from None
    for name, values in found.measures.items():
        score = f"{found.split}/{score_of(name)}"
        there = results.get(score)
        if not (isinstance(there, int | float) and abs(there - values.mean()) < _TOLERANCE):
            raise UserError(
                f"{path} and results.json do not belong together: {score} is {there} there and "
                f"{values.mean():.6f} here; {_AGAIN}"
            )
    return found


def _checked(stored: dict[str, np.ndarray]) -> PerExample:
    raw, ends = stored.pop("name_bytes").tobytes(), stored.pop("name_ends")
    split, entered = str(stored.pop("split")), tuple(map(str, np.atleast_1d(stored.pop("read"))))
    n = len(ends)
    starts = np.concatenate([[0], ends[:-1]])
    if not n or ends[-1] != len(raw) or (ends < starts).any():
        raise ValueError("the names do not fit their lengths")
    names = tuple(raw[a:b].decode("utf-8", "surrogatepass") for a, b in zip(starts, ends, strict=True))
    for name, values in stored.items():
        if values.shape != (n,):
            raise ValueError(f"{name} {values.shape} is not a value for each of {n} examples")
        if score_of(name):
            if values.dtype.kind not in "biuf":
                raise ValueError(f"{name} holds no numbers")
            stored[name] = values = values.astype(np.float64)
            if not ((values >= 0) & (values <= 1)).all() or (
                is_binary(name) and not np.isin(values, (0, 1)).all()
            ):
                raise ValueError(f"{name} is out of range")
    if not any(map(score_of, stored)):
        raise ValueError(f"it holds none of {', '.join(MEASURES)}")
    return PerExample(names, split, entered, stored)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
