"""Shared by the re-identification data sets: identity and camera from file names, and the source created from them."""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from fusionjax.data.datasets import checks
from fusionjax.data.source import FileSource
from fusionjax.errors import UserError

_DIGITS = 18  # of an integer of 64 bits


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A re-identification data set as published.

    Attributes:
        name: name of the data set.
        images, identities: split → published number.
        cameras: published number.
    """

    name: str
    images: Mapping[str, int]
    identities: Mapping[str, int]
    cameras: int


def jpegs(root: Path, folder: str) -> list[str]:
    """The JPEG files of `root / folder`, as "folder/name", sorted; other files (Thumbs.db) are ignored.

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
    """Whether a file name is that of a JPEG, by its suffix; macOS metadata files (._name.jpg) are not."""
    return name.lower().endswith((".jpg", ".jpeg")) and not name.startswith(".")


def parse(pattern: re.Pattern[str], path: str, expected: str, where: str = "") -> tuple[int, int]:
    """(identity, camera) from a file name.

    Args:
        pattern: matches the start of the name; its first two groups are the numbers.
        path: path whose last part is the name.
        expected: a valid name, for the message.
        where: file and line that list the path, for the message; "" for none.

    Raises:
        UserError: the name does not match.
    """
    found, at = pattern.match(path.rsplit("/", 1)[-1]), f"{where}: " if where else ""
    if not found:
        raise UserError(
            f"{at}the name of image {path!r} has no identity and camera; expected a name like {expected!r}"
        )
    if max(map(len, found.groups())) > _DIGITS:
        raise UserError(f"{at}the name of image {path!r} has a number of more than {_DIGITS} digits")
    return int(found[1]), int(found[2])


FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
"""Split → folder, in the layout that Market-1501 introduced and DukeMTMC-reID took over."""


def read_market_layout(
    data: ConfigDict,
    data_set: DataSet,
    split: str,
    pattern: re.Pattern[str],
    expected: str,
    *,
    places: Sequence[str],
    get: str,
) -> tuple[Path, list[tuple[str, int, int]]]:
    """The images of a split in `FOLDERS`, in the order of their names.

    Args:
        data: `config.data`.
        data_set: the data set.
        split: a key of `FOLDERS`.
        pattern, expected: of the file names, see `parse`.
        places: names of the data set's folder, where `data.root` is its parent.
        get: where the data set comes from, for a message.

    Returns:
        The data set's folder, and (path, identity, camera) of each image.

    Raises:
        UserError: an unknown split, a missing folder, or a name without identity and camera.
    """
    checks.split_is_one_of(data_set.name, split, FOLDERS)
    root = checks.inside(checks.root_folder(data.root, data_set.name, get), FOLDERS["train"], *places)
    return root, [(name, *parse(pattern, name, expected)) for name in jpegs(root, FOLDERS[split])]


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
    """Creates a source with the columns identity and camera.

    Args:
        data_set: the published numbers, which the actual ones are compared with.
        split: a key of `data_set.images`.
        root: folder that the names are relative to.
        names: N paths.
        identities: N numbers, as in the data set.
        cameras: N numbers, as in the data set, from 1.
        check_counts: `data.check_counts`.
        classes: the identities that are the classes; None for those of this split.

    Returns:
        FileSource. Column identity, (N,) int64: as in the data set. Column camera, (N,) int64: from 0, one less than in the
        file name. A label is the position of the identity in the sorted `classes`; therefore the identities of query and
        gallery are comparable, their labels are not.

    Raises:
        UserError: no images, a number that differs from the published one, or a camera out of range.
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
