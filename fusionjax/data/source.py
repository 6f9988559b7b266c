"""The interface of a data set: examples by index, each with a label and a name."""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from fusionjax import files
from fusionjax.data.image import transparency
from fusionjax.errors import UserError


@runtime_checkable
class Source(Protocol):
    """One split of a data set; examples are read by index, from any thread.

    A source may have a method `file`, index → path of the example's file or None, or an attribute `digest`, a text that
    changes with the contents: `fusionjax.data.fingerprint` then loads no examples to notice that the data have changed.

    Attributes:
        name: name of the data set, for reports.
        split: name of the split, e.g. "train".
        class_names: one name per class, in the order of the labels.
        labels: (N,) int32, class indices.
        names: N strings that identify the examples, e.g. paths relative to the root.
        columns: further values by name, each (N,): identity, camera, caption …; may be empty.
    """

    @property
    def name(self) -> str: ...

    @property
    def split(self) -> str: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def labels(self) -> np.ndarray: ...

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def columns(self) -> Mapping[str, np.ndarray]: ...

    def __len__(self) -> int: ...

    def load(self, i: int) -> bytes | np.ndarray:
        """Reads one example.

        Args:
            i: index of the example, 0 to N − 1.

        Returns:
            An encoded image, RGB uint8 (h, w, 3), or for multispectral sources (h, w, C), which is a masked array where
            values are no data.

        Raises:
            OSError, DecodeError: the example cannot be read.
        """
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class FileSource:
    """A source of image files; see `Source` for the attributes.

    `names` are paths relative to `root`; absolute paths are allowed.

    Attributes:
        root: folder of the names.
        notes: what the reader decided and a user should know, such as the folder that is the split; one line each.
        present: the names of all columns of its table, as the table spells them, read or not.
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    labels: np.ndarray
    names: Sequence[str]
    root: Path
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    present: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def file(self, i: int) -> Path | None:
        """The file of example `i`; None for an example without an image."""
        return self.root / self.names[i]

    def load(self, i: int) -> bytes | np.ndarray:
        """The encoded bytes of the file of example `i`; raises OSError where it cannot be read."""
        return files.read_bytes(self.root / self.names[i])

    def object_mask(self, i: int) -> np.ndarray | None:
        """See `object_mask`: where the file is not transparent."""
        return transparency.opaque(files.read_bytes(self.root / self.names[i]))


class ByIdentity:
    """A source whose classes are its identities, in ascending order; the labels of the wrapped source are not used.

    Args:
        source: a source with the column `identity`. Without this column (a folder of class folders) each class is one
            identity. Of text, such as the name of a class, the identity is the number that the text spells, else a checksum of
            it above 2⁴⁰, so that an identity has the same number in every split.

    Raises:
        UserError: the column `identity` holds neither integers nor text, or two names have the same checksum.
    """

    def __init__(self, source: Source):
        columns = dict(source.columns)
        if "identity" not in columns:
            columns["identity"] = _numbers(source.class_names)[np.asarray(source.labels)]
        given = np.asarray(columns["identity"])
        if given.dtype == object and all(isinstance(v, str) for v in given):
            names, place = np.unique(given.astype(str), return_inverse=True)
            columns["identity"] = _numbers(names.tolist())[place]
        elif given.dtype.kind not in "iu":
            raise UserError(
                f"config.data.label='identity': {source.name}'s column identity must hold integers or text"
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
    """(C,) int64, a number for each class name that depends on the name alone."""

    def number(name: str) -> int:
        if name.isascii() and name.isdigit() and len(name) < 12 and str(int(name)) == name:
            return int(name)
        return 2**40 + zlib.crc32(name.encode("utf-8", "surrogateescape"))

    numbers = np.asarray([number(name) for name in names], np.int64)
    if len(np.unique(numbers)) < len(numbers):
        raise UserError(
            "two identities have the same checksum: give a manifest with whole numbers of 64 bits in its column identity"
        )
    return numbers


class Subset:
    """The examples of a source at the given indices, in that order.

    Args:
        source: the wrapped source.
        indices: (M,) integers, positions in `source`.
        split: name of the subset; None for the name of the source's split.
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
        return [self.source.names[i] for i in self.indices.tolist()]

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        return {key: np.asarray(value)[self.indices] for key, value in self.source.columns.items()}

    def load(self, i: int) -> bytes | np.ndarray:
        return self.source.load(int(self.indices[i]))


def object_mask(source: Source, i: int) -> np.ndarray | None:
    """Where the object of example `i` is, for measures of explanations.

    It is the method `object_mask` of the source that knows it: a drawing's or a file's opaque part, an annotated box.

    Returns:
        (h, w) bool, of the size of the decoded image, True on the object; None where it is not known, or is everything.
    """
    if isinstance(source, ByIdentity):
        return object_mask(source.source, i)
    if isinstance(source, Subset):
        return object_mask(source.source, int(source.indices[i]))
    own = getattr(source, "object_mask", None)
    return None if own is None else own(i)


def listed_columns(source: Source) -> str:
    """The columns that a source's table has, for a message that one is missing; "none" for a source without a table."""
    return ", ".join(find_attribute(source, "present") or source.columns) or "none"


def take(source: Source, rows: np.ndarray, split: str) -> Source:
    """Some examples of a source, as a source of the same kind.

    Args:
        source: a source; its method `take`, if it has one, (rows, split) → source, is used.
        rows: (M,) integers, positions in `source`.
        split: name of the result.
    """
    own = getattr(source, "take", None)
    return own(rows, split) if own else Subset(source, rows, split=split)


def find_attribute(source: object, name: str) -> Any:
    """An attribute of a source, else of the source that it wraps (`Subset`, `ByIdentity`); None where none has it."""
    while source is not None:
        found = getattr(source, name, None)
        if found is not None:
            return found
        source = getattr(source, "source", None)
    return None


def files_of(source: Source) -> list[Path | None]:
    """The file of each example, None for one without; empty for a source that reads no files."""
    if isinstance(source, ByIdentity):
        return files_of(source.source)
    if isinstance(source, Subset):
        whole = files_of(source.source)
        return [whole[i] for i in source.indices.tolist()] if whole else []
    return [source.file(i) for i in range(len(source))] if isinstance(source, FileSource) else []
