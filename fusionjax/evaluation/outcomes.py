"""What happened to every test example of a run: outcomes.npz in its workdir, for the paired comparison of runs.

Arrays by name. `name`: the examples', (N,) text, in the order of the data set; `split`: the name under which results.json has
their scores, e.g. "test"; `read`: the splits that enter, e.g. query and gallery; every other array is (N,), a value an
example: those of `MEASURES`, and whatever else a task finds worth keeping.
"""

import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusionjax.data.source import Source
from fusionjax.errors import UserError

FILE = "outcomes.npz"
MEASURES = {"correct": "accuracy", "average_precision": "mAP", "rank1": "rank1"}
"""Array → the score in results.json that is its mean."""
BINARY = ("correct", "rank1")
"""Arrays of 0 and 1; those whose name begins with recall@ are too, and have the name of their score."""
_AGAIN = "start the run's training command again: it evaluates the trained weights anew"
_TOLERANCE = 1e-6


def score_of(array: str) -> str | None:
    """The score in results.json that is an array's mean, without its split; None of an array that is no measure."""
    return array if array.startswith("recall@") else MEASURES.get(array)


def is_binary(array: str) -> bool:
    """Whether an array is of 0 and 1."""
    return array in BINARY or array.startswith("recall@")


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What `read` found.

    Attributes:
        names: of the examples, in the order of the data set.
        split: prefix of the scores, e.g. "test".
        read: splits that enter.
        values: name → (N,), a value an example; those of `MEASURES` float64, 0 … 1.
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
    """Names of some examples of a source, as an array of text.

    Args:
        source: the split.
        rows: (N,) int, indices in it.
    """
    names = source.names
    return np.array([str(names[int(i)]) for i in rows], np.str_)


def write(folder: Path, arrays: Mapping[str, np.ndarray | Sequence[str] | str]) -> Path:
    """Writes outcomes.npz in one step: it is whole or absent. Returns its path.

    Args:
        folder: the workdir.
        arrays: as the module says. Text is stored as bytes of UTF-8 and where each string ends; nothing is pickled.

    Raises:
        ValueError: an array of objects, or one that does not have a value an example.
    """
    stored: dict[str, Any] = dict(arrays)
    # Lone surrogates stand for the bytes of a file name that is no text.
    raw = [str(name).encode("utf-8", "surrogatepass") for name in stored.pop("name")]
    for name, values in stored.items():
        if np.asarray(values).dtype.hasobject:
            raise ValueError(f"outcomes: {name} holds objects")
        if name not in ("split", "read") and np.shape(values) != (len(raw),):
            raise ValueError(
                f"outcomes: {name} {np.shape(values)} is not a value for each of {len(raw)} examples"
            )
    stored["name_bytes"] = np.frombuffer(b"".join(raw), np.uint8)
    stored["name_ends"] = np.cumsum([len(r) for r in raw], dtype=np.int64)
    path = Path(folder) / FILE
    part = path.with_name(f".{FILE}.part")
    with part.open("wb") as file:
        np.savez_compressed(file, **stored)
    os.replace(part, path)
    return path


def read(folder: Path, results: Mapping[str, object]) -> Outcomes:
    """What `write` wrote, checked.

    Args:
        folder: the workdir.
        results: the content of its results.json, which must be the mean of what is read.

    Raises:
        UserError: the file is missing or damaged, or belongs to other results.
    """
    path = Path(folder) / FILE
    try:
        with path.open("rb") as raw:
            if not zipfile.is_zipfile(raw):
                raise ValueError("it is no npz archive")
            with np.load(raw, allow_pickle=False) as file:
                found = _checked({name: file[name] for name in file.files})
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing, its run is older than the comparison of runs; {_AGAIN}"
        ) from None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as e:
        raise UserError(f"{path} is damaged ({e}); {_AGAIN}") from None
    for name, values in found.measures.items():
        score = f"{found.split}/{score_of(name)}"
        there = results.get(score)
        if not (isinstance(there, int | float) and abs(there - values.mean()) < _TOLERANCE):
            raise UserError(
                f"{path} and results.json do not belong together: {score} is {there} there and "
                f"{values.mean():.6f} here; {_AGAIN}"
            )
    return found


def _checked(stored: dict[str, np.ndarray]) -> Outcomes:
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
            stored[name] = values = values.astype(np.float64)
            if not ((values >= 0) & (values <= 1)).all() or (
                is_binary(name) and not np.isin(values, (0, 1)).all()
            ):
                raise ValueError(f"{name} is out of range")
    if not any(map(score_of, stored)):
        raise ValueError(f"it holds none of {', '.join(MEASURES)}")
    return Outcomes(names, split, entered, stored)
