"""A data set written by `python -m fusionjax.prepare`: encoded images in ArrayRecord files, read by index."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ml_collections import ConfigDict

from fusionjax.data.datasets import checks
from fusionjax.data.image.decode import decode
from fusionjax.data.prepared import records
from fusionjax.data.sampling import splits
from fusionjax.data.unreadable import DecodeError
from fusionjax.errors import UserError
from fusionjax.register import DatasetRecord

if TYPE_CHECKING:
    from grain.sources import ArrayRecordDataSource

_GET = "python -m fusionjax.prepare writes it"


class PreparedSource:
    """A split of a prepared data set; see `Source` for the attributes, which equal those of the original reader.

    Args:
        folder: folder of the data set.
        content: its index.
        split: a key of `content["splits"]`.
        max_pixels: the limit of `decode`, used where rows at the bottom are removed (FGVC-Aircraft).

    Attributes:
        digest: sha256 that changes with any byte of the data set, for caches of derived values.
    """

    def __init__(self, folder: Path, content: records.Index, split: str, *, max_pixels: int):
        entry = content["splits"][split]
        self.name, self.split, self.digest = entry["name"], split, content["digest"]
        self.class_names = tuple(entry["class_names"])
        self.labels = np.asarray(entry["labels"], np.int32)
        self.names = entry["names"]
        self.columns = {key: records.column(value) for key, value in entry["columns"].items()}
        self._records = np.asarray(entry["records"], np.int64)
        self._unreadable = content["unreadable"]
        self._rows, self._max_pixels = content["bottom_rows_removed"], max_pixels
        self._store = _store(folder, content)

    def __len__(self) -> int:
        return len(self.names)

    def load(self, i: int) -> bytes | np.ndarray:
        """The bytes of the original file; where the original reader removes rows at the bottom, the remaining image.

        Raises:
            DecodeError: the record is damaged, or the image could not be decoded when it was prepared.
        """
        if self.names[i] in self._unreadable:
            raise DecodeError(self._unreadable[self.names[i]])
        try:
            encoded = self._store[int(self._records[i])]
        except Exception as e:  # the library raises several types on damage
            raise DecodeError(
                " ".join(f"its record is damaged ({type(e).__name__}: {e})".split())[:300]
            ) from e
        if not self._rows:
            return encoded
        image = decode(encoded, self._max_pixels)
        if len(image) <= self._rows:
            raise DecodeError(f"{len(image)} rows: no more than the {self._rows} to be removed at the bottom")
        return image[: -self._rows]


def create(data: ConfigDict, split: str, *, seed: int) -> PreparedSource:
    """Opens one split of a prepared data set.

    Sizes and counts are checked, the content is not (`python -m fusionjax.prepare --out=… --verify` does that); a damaged
    record is an unreadable image.

    Args:
        data: `config.data`; `root` is the folder given to prepare as --out.
        split: one of the prepared splits.
        seed: unused; a random split was drawn when the data set was prepared.

    Raises:
        UserError: see `datasets.create`; also a folder without a prepared data set, or a damaged one.
    """
    folder = checks.root_folder(data.root, "the prepared data set", _GET)
    content = records.read_index(folder, f"config.data.root={data.root!r}")
    where = f"the data set prepared in {folder}"
    stored = splits.spelt(split, content["splits"], {data.train_split, *data.eval_splits, split}, where)
    checks.split_is_one_of(where, stored or split, content["splits"])
    return PreparedSource(folder, content, stored or split, max_pixels=data.max_pixels)


def _store(folder: Path, content: records.Index) -> "ArrayRecordDataSource":
    """The records of all files, in the order of the index."""
    from grain.sources import ArrayRecordDataSource  # imports jax

    paths = [str(folder / file["name"]) for file in content["files"]]
    try:
        store = ArrayRecordDataSource(paths)
    except Exception as e:  # as above
        reason = " ".join(f"{type(e).__name__}: {e}".split())[:300]
        raise UserError(f"{folder} cannot be read: {reason}; prepare it again with --overwrite") from None
    expected = sum(file["records"] for file in content["files"])
    if len(store) != expected:
        raise UserError(
            f"{folder} holds {len(store):,} images instead of {expected:,}; prepare it again with --overwrite"
        )
    return store


RECORD = DatasetRecord("prepared", create)
