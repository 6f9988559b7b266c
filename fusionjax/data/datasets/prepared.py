"""A data set that `python -m fusionjax.prepare` wrote: encoded images in ArrayRecord files, read by index."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from grain.sources import ArrayRecordDataSource

from fusionjax.data.datasets import checks
from fusionjax.data.image.decode import DecodeError, decode
from fusionjax.data.prepared import records
from fusionjax.errors import UserError
from fusionjax.register import DatasetRecord

_GET = "python -m fusionjax.prepare writes it"


class PreparedSource:
    """A split of a prepared data set; see `Source` for the attributes, which are those of the original's reader.

    Args:
        folder: of the data set.
        content: its index.
        split: a key of its splits.
        max_pixels: the limit of `decode`, where images lose rows at the bottom (FGVC-Aircraft).

    Attributes:
        digest: sha256 that changes with any byte of the data set, for what is kept of it elsewhere.
    """

    def __init__(self, folder: Path, content: Mapping[str, Any], split: str, *, max_pixels: int):
        entry = content["splits"][split]
        self.name, self.split, self.digest = entry["name"], split, content["digest"]
        self.class_names = tuple(entry["class_names"])
        self.labels = np.asarray(entry["labels"], np.int32)
        self.names = entry["names"]
        self.columns = {key: records.column(value) for key, value in entry["columns"].items()}
        self._records = np.asarray(entry["records"], np.int64)
        self._rows, self._max_pixels = content["bottom_rows_removed"], max_pixels
        self._store = _store(folder, content)

    def __len__(self) -> int:
        return len(self.names)

    def load(self, i: int) -> bytes | np.ndarray:
        """The bytes of the original file; where its reader removes rows at the bottom, what is left of the image."""
        try:
            encoded = self._store[int(self._records[i])]
        except Exception as e:  # the library tells damage by several types
            raise DecodeError(
                " ".join(f"its record is damaged ({type(e).__name__}: {e})".split())[:300]
            ) from e
        if not self._rows:
            return encoded
        image = decode(encoded, self._max_pixels)
        if len(image) <= self._rows:
            raise DecodeError(f"{len(image)} rows: there is nothing above the {self._rows} to be removed")
        return image[: -self._rows]


def create(data: Any, split: str, *, seed: int) -> PreparedSource:
    """Opens one split of a prepared data set.

    Sizes and counts are checked, the bytes are not: `python -m fusionjax.prepare --out=… --verify` does that, and a
    record damaged since is an unreadable image.

    Args:
        data: `config.data`; `root` is the folder given to prepare as --out.
        split: one of those that were prepared.
        seed: unused; where the split was drawn, it was when the data set was prepared.

    Raises:
        UserError: see `sources.create`; also a folder that is no prepared data set, or a damaged one.
    """
    folder = checks.root_folder(data.root, "the prepared data set", _GET)
    content = records.read_index(folder, f"config.data.root={data.root!r}")
    checks.split_is_one_of(f"the data set prepared in {folder}", split, content["splits"])
    return PreparedSource(folder, content, split, max_pixels=data.max_pixels)


def _store(folder: Path, content: Mapping[str, Any]) -> Any:
    """The records of all files, one after the other."""
    paths = [str(folder / file["name"]) for file in content["files"]]
    try:
        store = ArrayRecordDataSource(paths)
    except Exception as e:  # as above
        reason = " ".join(f"{type(e).__name__}: {e}".split())[:300]
        raise UserError(f"{folder} cannot be read: {reason}; prepare it anew with --overwrite") from None
    expected = sum(file["records"] for file in content["files"])
    if len(store) != expected:
        raise UserError(
            f"{folder} holds {len(store):,} images instead of {expected:,}; prepare it anew with --overwrite"
        )
    return store


RECORD = DatasetRecord("prepared", create)
