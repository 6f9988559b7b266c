"""VeRi-776 in its official layout: 576 vehicles to train, 200 to find among 11,579 images of 20 cameras."""

import re
from pathlib import Path

from ml_collections import ConfigDict

from fusionjax.data.datasets import checks, reid_names
from fusionjax.data.source import FileSource
from fusionjax.errors import UserError
from fusionjax.register import DatasetRecord

VERI = reid_names.DataSet(
    "VeRi-776",
    images={"train": 37778, "query": 1678, "gallery": 11579},
    identities={"train": 576, "query": 200, "gallery": 200},
    cameras=20,
)
FOLDERS = {"train": "image_train", "query": "image_query", "gallery": "image_test"}
LISTS = {"train": "name_train.txt", "query": "name_query.txt", "gallery": "name_test.txt"}
_NAME = re.compile(r"(\d+)_c(\d{3})(?!\d)")
_LIKE = "0001_c001_00016450_0.jpg"
_GET = "VeRi.zip, on request from the authors' page"


def create(data: ConfigDict, split: str, *, seed: int) -> FileSource:
    """Opens one split: image_train, image_query or image_test; the file names hold identity and camera.

    If name_train.txt, name_query.txt or name_test.txt exists, it lists the images in their order; otherwise all images of the
    folder are used, sorted by name. The XML labels are not read: images without a viewpoint label are used too.

    Args:
        data: `config.data`; `root` is the folder VeRi or its parent.
        split: "train", "query" or "gallery".
        seed: unused, the split is official.

    Returns:
        FileSource with the columns identity and camera, see `reid_names.build`.

    Raises:
        UserError: see `datasets.create`.
    """
    checks.split_is_one_of(VERI.name, split, FOLDERS)
    top = checks.root_folder(data.root, VERI.name, _GET)
    root = checks.inside(top, FOLDERS["train"], "VeRi", "VeRi-776", "VeRi776", "veri")
    folder, listing = FOLDERS[split], root / LISTS[split]
    if listing.exists():
        where = _listed(listing, folder)
        checks.files_exist(root, list(where), listing.name)
    else:
        where = dict.fromkeys(reid_names.jpegs(root, folder), "")
    identities, cameras = zip(
        *(reid_names.parse(_NAME, path, _LIKE, at) for path, at in where.items()), strict=True
    )
    return reid_names.build(
        VERI, split, root, list(where), identities, cameras, check_counts=data.check_counts
    )


def _listed(listing: Path, folder: str) -> dict[str, str]:
    """Path → its position in the list."""
    first: dict[str, int] = {}
    for number, name in checks.lines(listing):
        path = f"{folder}/{name}"
        if path in first:
            raise UserError(
                f"{listing} line {number}: image {name!r} is listed twice, first in line {first[path]}"
            )
        first[path] = number
    if not first:
        raise UserError(f"{listing} is empty")
    return {path: f"{listing} line {number}" for path, number in first.items()}


RECORD = DatasetRecord("veri776", create)
