"""MSMT17, either version, in its official layout: 1,041 identities to train, 3,060 to find, 15 cameras."""

import dataclasses
import re
from pathlib import Path, PurePosixPath

import numpy as np
from ml_collections import ConfigDict

from fusionjax.data.datasets import checks, reid_names
from fusionjax.data.source import FileSource
from fusionjax.errors import UserError
from fusionjax.register import DatasetRecord

MSMT17 = reid_names.DataSet(
    "MSMT17",
    images={"train": 30248, "val": 2373, "trainval": 32621, "query": 11659, "gallery": 82161},
    identities={"train": 1041, "trainval": 1041, "query": 3060, "gallery": 3060},
    cameras=15,
)
LISTS = {"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "query": ("query",),
         "gallery": ("gallery",)}  # fmt: skip
FOLDERS: dict[str, dict[str, tuple[str, ...]]] = {
    "V1": {"train": ("train",), "test": ("test",)},
    "V2": {"train": ("mask_train_v2", "mask_train_V2"), "test": ("mask_test_v2", "mask_test_V2")},
}
"""Version → possible names of the folders of the training and test images; faces are masked in V2."""
_NAME = re.compile(r"[^_]+_[^_]+_(\d+)_")
_LIKE = "0000_000_01_0303morning_0008_0.jpg"
_GET = "MSMT17_V1 or MSMT17_V2, on request from the authors' page"
_LINE = "<path> <identity>"


def create(data: ConfigDict, split: str, *, seed: int) -> FileSource:
    """Opens one split, from list_train.txt, list_val.txt, list_query.txt or list_gallery.txt: a path and an identity per line.

    The paths are relative to train or test (V1), mask_train_v2 or mask_test_v2 (V2); the camera is the third field of the
    file name. The identities of a list are consecutive from 0, and those of query and gallery **start at 0 again**: number 7
    there is not the person with number 7 in the training lists.

    Args:
        data: `config.data`; `root` is the folder MSMT17_V1 or MSMT17_V2, or the parent of one of them.
        split: "train", "val", "trainval", "query" or "gallery"; val has the identities and labels of train.
        seed: unused, the split is official.

    Returns:
        FileSource in the order of the list, with the columns identity and camera, see `reid_names.build`; its
        name contains the version.

    Raises:
        UserError: see `datasets.create`; also where both versions are found.
    """
    checks.split_is_one_of(MSMT17.name, split, LISTS)
    top = checks.root_folder(data.root, MSMT17.name, _GET)
    root, version = _locate(top)
    part = "train" if split in ("train", "val", "trainval") else "test"
    folder = next((f for f in FOLDERS[version][part] if (root / f).is_dir()), None)
    if folder is None:
        raise UserError(
            f"{root / FOLDERS[version][part][0]} is missing: the data set is incomplete, or config.data.root names "
            "another folder"
        )
    seen: dict[str, str] = {}
    lists = {name: _read(root / f"list_{name}.txt", seen) for name in LISTS[split]}
    if split == "val":
        classes = [identity for _, identity, _ in _read(root / "list_train.txt", seen)]
    else:
        classes = [identity for _, identity, _ in next(iter(lists.values()))]
    _contiguous(root / f"list_{split if part == 'test' else 'train'}.txt", classes)
    if "val" in lists:
        _belong(root / "list_val.txt", lists["val"], set(classes))
    rows = [row for one in lists.values() for row in one]
    names = [f"{folder}/{path}" for path, _, _ in rows]
    checks.files_exist(root, names, " and ".join(f"list_{name}.txt" for name in lists))
    return reid_names.build(
        dataclasses.replace(MSMT17, name=f"MSMT17 {version}"), split, root, names, [i for _, i, _ in rows],
        [c for _, _, c in rows], check_counts=data.check_counts, classes=classes,
    )  # fmt: skip


def _locate(top: Path) -> tuple[Path, str]:
    """The folder of the lists and the version."""
    found = [
        (folder, version)
        for folder in (top, top / "MSMT17_V1", top / "MSMT17_V2", top / "MSMT17")
        for version, parts in FOLDERS.items()
        if any((folder / name).is_dir() for names in parts.values() for name in names)
    ]
    if not found:
        raise UserError(
            f"config.data.root={str(top)!r} has neither train and test nor mask_train_v2 and mask_test_v2; it must be the "
            f"folder of {MSMT17.name} ({_GET})"
        )
    if len(found) > 1:
        raise UserError(
            f"config.data.root={str(top)!r} holds more than one version of {MSMT17.name}: name the folder of V1 or of V2 "
            "alone"
        )
    return found[0]


def _read(listing: Path, seen: dict[str, str]) -> list[tuple[str, int, int]]:
    """(path, identity, camera) of every line; `seen`, path → position, is extended."""
    rows = []
    for number, line in checks.lines(listing):
        where = f"{listing} line {number}"
        path, _, identity = line.rpartition(" ")
        path = path.strip()
        inside = not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts
        if not path or not inside or not re.fullmatch("[0-9]{1,18}", identity):
            raise UserError(f"{where}: expected {_LINE!r}, found {line!r}")
        if path in seen:
            raise UserError(f"{where}: image {path!r} is listed twice, first in {seen[path]}")
        seen[path] = f"{listing.name} line {number}"
        found = _NAME.match(path.rsplit("/", 1)[-1])
        if not found:
            raise UserError(
                f"{where}: the name of image {path!r} has no camera as its third field; expected a name like {_LIKE!r}"
            )
        rows.append((path, int(identity), int(found[1])))
    if not rows:
        raise UserError(f"{listing} is empty")
    return rows


def _contiguous(listing: Path, identities: list[int]) -> None:
    known = np.unique(identities)
    gap = np.flatnonzero(known != np.arange(len(known)))
    if len(gap):
        raise UserError(
            f"{listing}: identity {gap[0]} is missing, the next is {known[gap[0]]}; they must be consecutive from 0"
        )


def _belong(listing: Path, rows: list[tuple[str, int, int]], known: set[int]) -> None:
    for path, identity, _ in rows:
        if identity not in known:
            raise UserError(f"{listing}: identity {identity} of image {path!r} is not one of list_train.txt")


RECORD = DatasetRecord("msmt17", create)
