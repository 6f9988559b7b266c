"""CUB-200-2011 in its official layout: 200 bird species, 5,994 training and 5,794 test images."""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from fusionjax.data.datasets import checks
from fusionjax.data.source import FileSource
from fusionjax.errors import UserError
from fusionjax.register import DatasetRecord

IMAGES = {"train": 5994, "test": 5794}
CLASSES = 200
_GET = "CUB_200_2011.tgz, from the Caltech-UCSD Birds page of Caltech's data repository"


def create(data: ConfigDict, split: str, *, seed: int) -> FileSource:
    """Opens one split, from images.txt, image_class_labels.txt, train_test_split.txt (1 = train) and classes.txt.

    Args:
        data: `config.data`; `root` is the folder CUB_200_2011 or its parent.
        split: "train" or "test".
        seed: unused, the split is official.

    Returns:
        FileSource in the order of images.txt.

    Raises:
        UserError: see `datasets.create`.
    """
    checks.split_is_one_of("CUB-200-2011", split, IMAGES)
    root = checks.inside(checks.root_folder(data.root, "CUB-200-2011", _GET), "images.txt", "CUB_200_2011")
    classes = _classes(root / "classes.txt")
    checks.count("CUB-200-2011, classes", len(classes), CLASSES, data.check_counts)
    images = checks.by_id(root / "images.txt", "<image id> <path>")
    labels = _column(root / "image_class_labels.txt", "<image id> <class id>", images)
    train = _column(root / "train_test_split.txt", "<image id> <1 for train, 0 for test>", images)
    wanted = "1" if split == "train" else "0"
    names, indices = [], []
    for key, (_, path) in images.items():
        number, flag = train[key]
        if flag not in ("0", "1"):
            raise UserError(f"{root / 'train_test_split.txt'} line {number}: expected 0 or 1, found {flag!r}")
        number, label = labels[key]
        if label not in classes:
            raise UserError(
                f"{root / 'image_class_labels.txt'} line {number}: class {label!r} is not one of the "
                f"{len(classes)} of classes.txt"
            )
        if flag == wanted:
            names.append(f"images/{path}")
            indices.append(classes[label][0])
    checks.count(f"CUB-200-2011, images of split {split!r}", len(names), IMAGES[split], data.check_counts)
    checks.files_exist(root, names, "images.txt")
    class_names = tuple(name for _, name in classes.values())
    return FileSource("CUB-200-2011", split, class_names, np.asarray(indices, np.int32), names, root)


def _classes(path: Path) -> dict[str, tuple[int, str]]:
    """class id → (label, readable name): "001.Black_footed_Albatross" is "Black footed Albatross"."""
    entries = checks.by_id(path, "<class id> <class name>")
    return {
        key: (i, name.partition(".")[2].replace("_", " ") or name)
        for i, (key, (_, name)) in enumerate(entries.items())
    }


def _column(path: Path, fields: str, images: dict[str, tuple[int, str]]) -> dict[str, tuple[int, str]]:
    """The content of a list file that must have exactly one line for every image."""
    values = checks.by_id(path, fields)
    for key, (number, _) in values.items():
        if key not in images:
            raise UserError(f"{path} line {number}: image id {key} is not in images.txt")
    for key, (number, _) in images.items():
        if key not in values:
            raise UserError(f"{path} has no line for image id {key} (images.txt line {number})")
    return values


RECORD = DatasetRecord("cub", create)
