"""Which reader a folder or file is for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from fusionjax import config
from fusionjax.data.datasets import checks, listing
from fusionjax.data.prepared import writer
from fusionjax.errors import UserError

MARKERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "dukemtmc": (("bounding_box_train/*_c*_f*.jpg", "bounding_box_test", "query"),),
    "market1501": (("bounding_box_train", "bounding_box_test", "query"),),
    "msmt17": (("list_train.txt", "list_query.txt", "list_gallery.txt"),),
    "veri776": (("image_train", "image_test", "image_query"),),
    "cub": (("images.txt", "image_class_labels.txt", "train_test_split.txt"),),
    "cars": (("cars_annos.mat",), ("devkit/cars_train_annos.mat",), ("cars_train_annos.mat",)),
    "aircraft": (
        ("variants.txt", "images_variant_train.txt"),
        ("data/variants.txt", "data/images_variant_train.txt"),
    ),
}
"""Patterns of files and folders by which an official layout is recognised, in this order; one of the tuples suffices."""
DRAWN = (0.8, 0.0, 0.2)
"""Shares of train, val and test where no splits are given: nothing is chosen by a score on validation."""
TABLES = (".csv", ".tsv", ".parquet")


def recognise(path: Path, **fields: Any) -> writer.Preparation:
    """Opens a data set of any layout that fusionjax reads as images.

    Args:
        path: a folder with an official layout or with class folders, or a manifest.
        **fields: of `config.data`, such as the fractions of splits that are drawn.

    Returns:
        Its splits, drawn by `DRAWN` where none are given; no image is read yet.

    Raises:
        UserError: nothing is there, or no reader can open it; the message is of the reader that comes nearest.
    """
    path = path.expanduser()
    if not path.exists():
        raise UserError(f"{path} does not exist")
    _refuse_run(path)
    if path.is_file():
        if path.suffix.lower() not in TABLES:
            raise UserError(
                f"{path} is no manifest: name a folder, or a table that ends in {', '.join(TABLES)}"
            )
        return _open("manifest", path, fields)
    for name, layouts in MARKERS.items():
        if any(all(any(path.glob(marker)) for marker in markers) for markers in layouts):
            return _open(name, path, fields)
    tables = listing.files(path, TABLES)
    if not listing.folders(path) and len(tables) == 1:
        return _open("manifest", path / tables[0], fields)
    if not listing.folders(path) and listing.files(path, checks.IMAGE_SUFFIXES):
        raise UserError(
            f"{path} has images but no class folders: put the images of a class in a folder of its name, or write a manifest "
            "with the columns path and label"
        )
    return _open("folder", path, fields)


def _refuse_run(path: Path) -> None:
    """Raises UserError for the folder of a run, whose subfolders (checkpoints, report) would be taken for classes."""
    if not (path / "config.json").is_file():
        return
    if any((path / name).exists() for name in ("checkpoints", "metrics.jsonl", "results.json")):
        raise UserError(
            f"{path} is the folder of a run, not a data set: its report is {path / 'report' / 'index.html'}, and "
            "its config.json names its data in data.root"
        )


def _open(source: str, path: Path, fields: Mapping[str, Any]) -> writer.Preparation:
    data: ConfigDict = config.default().data
    data.source, data.root, data.check_counts = source, str(path), False
    data.update({"fractions": DRAWN, **fields})
    return writer.Preparation(data, seed=0)
