"""What a data set is to the rest of the program: examples by index, with a label and a name each."""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from fusionjax.errors import UserError


@runtime_checkable
class Source(Protocol):
    """A split of a data set, read by index from any thread.

    Attributes:
        name: of the data set, for reports.
        split: the split that this is, e.g. "train".
        class_names: one name a class; its position is the label.
        labels: int32 (N,), class indices.
        names: N strings that tell one example from another, e.g. the path relative to the root.
        columns: further values by name, each (N,): identity, camera, caption … ; may be empty.
    """

    name: str
    split: str
    class_names: tuple[str, ...]

    @property
    def labels(self) -> np.ndarray: ...

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def columns(self) -> Mapping[str, np.ndarray]: ...

    def __len__(self) -> int: ...

    def load(self, i: int) -> bytes | np.ndarray:
        """Example `i`: an encoded image, or RGB uint8 (h, w, 3). May raise OSError or DecodeError."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class FileSource:
    """A source whose examples are image files; see `Source` for the attributes.

    `names` are paths relative to `root` (an absolute path stands for itself).
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    labels: np.ndarray
    names: Sequence[str]
    root: Path
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def file(self, i: int) -> Path | None:
        """Where example `i` is read from; None for one that has no image."""
        return self.root / self.names[i]

    def load(self, i: int) -> bytes | np.ndarray:
        """The file's bytes, undecoded."""
        return (self.root / self.names[i]).read_bytes()


class ByIdentity:
    """A source whose classes are its identities, in ascending order, whatever its labels were.

    Args:
        source: with the column identity, of whole numbers. Where it has none, as a folder of class folders, a class is an
            identity; its number is the class's name where that is one, else a checksum of it above 2⁴⁰: a class has the
            same number in splits with different classes.

    Raises:
        UserError: the column identity is not of whole numbers.
    """

    def __init__(self, source: Source):
        columns = dict(source.columns)
        if "identity" not in columns:
            columns["identity"] = _numbers(source.class_names)[np.asarray(source.labels)]
        if np.asarray(columns["identity"]).dtype.kind not in "iu":
            raise UserError(
                f"config.data.label='identity': {source.name}'s column identity must be whole numbers"
            )
        self.source, self.name, self.split, self.columns = source, source.name, source.split, columns
        known, labels = np.unique(columns["identity"], return_inverse=True)
        self.class_names = tuple(map(str, known))
        self.labels = labels.astype(np.int32)
        self.load = source.load

    def __len__(self) -> int:
        return len(self.source)

    @property
    def names(self) -> Sequence[str]:
        return self.source.names


def _numbers(names: Sequence[str]) -> np.ndarray:
    """An int64 for each class name, a function of the name alone."""

    def number(name: str) -> int:
        if name.isascii() and name.isdigit() and len(name) < 12 and str(int(name)) == name:
            return int(name)
        return 2**40 + zlib.crc32(name.encode("utf-8", "surrogateescape"))

    numbers = np.asarray([number(name) for name in names], np.int64)
    if len(np.unique(numbers)) < len(numbers):
        raise UserError(
            "two class names have the same checksum: rename one, or give a manifest with a column identity"
        )
    return numbers


class Subset:
    """The examples of a source at some indices, in that order.

    Args:
        source: where the examples come from.
        indices: integers (M,) into `source`.
        split: name of the subset; None keeps the source's.
    """

    def __init__(self, source: Source, indices: np.ndarray, *, split: str | None = None):
        self.source = source
        self.indices = np.asarray(indices, np.int64).reshape(-1)
        self.name = source.name
        self.split = source.split if split is None else split
        self.class_names = source.class_names

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def labels(self) -> np.ndarray:
        return self.source.labels[self.indices]

    @property
    def names(self) -> Sequence[str]:
        return [self.source.names[i] for i in self.indices]

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        return {key: np.asarray(value)[self.indices] for key, value in self.source.columns.items()}

    def load(self, i: int) -> bytes | np.ndarray:
        return self.source.load(int(self.indices[i]))
