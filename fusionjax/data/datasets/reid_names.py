"""What the re-identification layouts share: identity and camera from a file's name, and a source made of them."""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fusionjax.data.datasets import checks
from fusionjax.data.source import FileSource
from fusionjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A re-identification data set as published.

    Attributes:
        name: of the data set.
        images, identities: split → how many.
        cameras: how many.
    """

    name: str
    images: Mapping[str, int]
    identities: Mapping[str, int]
    cameras: int


def jpegs(root: Path, folder: str) -> list[str]:
    """The JPEG files of `root / folder`, as "folder/name", sorted; what else lies there (Thumbs.db) is left out.

    Raises:
        UserError: no such folder, or no JPEG in it.
    """
    if not (root / folder).is_dir():
        raise UserError(
            f"{root / folder} is missing: the data set is incomplete, or config.data.root names another folder"
        )
    names = sorted(n for n in os.listdir(root / folder) if is_jpeg(n))
    if not names:
        raise UserError(f"{root / folder} has no .jpg images")
    return [f"{folder}/{name}" for name in names]


def is_jpeg(name: str) -> bool:
    """By its suffix; the shadow files of macOS (._name.jpg) are none."""
    return name.lower().endswith((".jpg", ".jpeg")) and not name.startswith(".")


def parse(pattern: re.Pattern[str], path: str, expected: str, where: str = "") -> tuple[int, int]:
    """(identity, camera) as a file's name has them.

    Args:
        pattern: whose first two groups, from the start of the name, are the numbers.
        path: whose last part is the name.
        expected: a right name, for the error.
        where: file and line that list the path, for the error; "" for none.

    Raises:
        UserError: the name is another.
    """
    found = pattern.match(path.rsplit("/", 1)[-1])
    if not found:
        at = f"{where}: " if where else ""
        raise UserError(
            f"{at}image {path!r} does not tell identity and camera; expected a name like {expected!r}"
        )
    return int(found[1]), int(found[2])


def build(
    data_set: DataSet,
    split: str,
    root: Path,
    names: Sequence[str],
    identities: Sequence[int],
    cameras: Sequence[int],
    *,
    check_counts: bool,
    classes: Sequence[int] | None = None,
) -> FileSource:
    """A source with the columns identity and camera.

    Args:
        data_set: what was published; `images`, `identities` and `cameras` are compared with it.
        split: a key of `data_set.images`.
        root: of the names.
        names: N paths.
        identities: N numbers, as in the data set.
        cameras: N numbers, as in the data set, from 1.
        check_counts: `data.check_counts`.
        classes: identities that the labels count; None for those of this split.

    Returns:
        FileSource. Column identity, int64 (N,): as in the data set. Column camera, int64 (N,): from 0, one less
        than in the file's name. A label is the position of the identity among the sorted `classes`; the labels
        of query and gallery are therefore not comparable, their identities are.

    Raises:
        UserError: a count other than the published one, or a camera that cannot be.
    """
    if not names:
        raise UserError(f"split {split!r} of {data_set.name} in {root} has no images")
    identity, camera = np.asarray(identities, np.int64), np.asarray(cameras, np.int64) - 1
    known = np.unique(identity if classes is None else np.asarray(classes, np.int64))
    what = f"{data_set.name}, %s of split {split!r}"
    checks.count(what % "images", len(names), data_set.images[split], check_counts)
    if split in data_set.identities:
        found = len(np.unique(identity))
        checks.count(what % "identities", found, data_set.identities[split], check_counts)
    wrong = np.flatnonzero((camera < 0) | (check_counts & (camera >= data_set.cameras)))
    if len(wrong):
        raise UserError(
            f"image {names[wrong[0]]!r} is of camera {cameras[wrong[0]]}; {data_set.name} has cameras 1 to {data_set.cameras}"
        )
    return FileSource(
        data_set.name, split, tuple(f"{i:04d}" for i in known), np.searchsorted(known, identity).astype(np.int32),
        list(names), root, {"identity": identity, "camera": camera},
    )  # fmt: skip
