"""FGVC-Aircraft in its official layout: 100 variants, 6,667 images to train, 3,333 to test."""

import dataclasses
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from fusionjax.data.datasets import checks
from fusionjax.data.image.decode import decode
from fusionjax.data.source import FileSource
from fusionjax.data.unreadable import DecodeError
from fusionjax.errors import UserError
from fusionjax.register import DatasetRecord

IMAGES = {"train": 3334, "val": 3333, "trainval": 6667, "test": 3333}
CLASSES = 100
BANNER = 20
"""Rows at the bottom of every image that hold the copyright notice and must be removed (README of the data set)."""
_GET = "fgvc-aircraft-2013b.tar.gz, from the FGVC-Aircraft page of Oxford's Visual Geometry Group"


@dataclasses.dataclass(frozen=True, eq=False)
class AircraftSource(FileSource):
    """A FileSource that removes the copyright banner of the images.

    Attributes:
        max_pixels: the limit of `decode`.
        banner: number of rows removed at the bottom; 0 for none.
    """

    max_pixels: int = 100_000_000
    banner: int = BANNER

    def load(self, i: int) -> bytes | np.ndarray:
        """RGB uint8 (h, w, 3) without the banner; the encoded image where `banner` is 0. Raises OSError or DecodeError."""
        if not self.banner:
            return super().load(i)
        image = decode(super().load(i), self.max_pixels)
        if len(image) <= self.banner:
            raise DecodeError(f"{len(image)} rows, no more than the {self.banner} rows of the banner")
        return image[: -self.banner]


def create(data: ConfigDict, split: str, *, seed: int, banner: int = BANNER) -> AircraftSource:
    """Opens one split, from data/images_variant_<split>.txt and data/variants.txt.

    Args:
        data: `config.data`; `root` is the unpacked folder, its `data` folder or its parent.
        split: "train", "val", "trainval" or "test".
        seed: unused, the split is official.
        banner: rows removed at the bottom of every image.

    Returns:
        AircraftSource in the order of the list file.

    Raises:
        UserError: see `datasets.create`.
    """
    checks.split_is_one_of("FGVC-Aircraft", split, IMAGES)
    top = checks.root_folder(data.root, "FGVC-Aircraft", _GET)
    root = checks.inside(top, "variants.txt", "data", "fgvc-aircraft-2013b/data")
    classes = _variants(root / "variants.txt")
    checks.count("FGVC-Aircraft, variants", len(classes), CLASSES, data.check_counts)
    listing = root / f"images_variant_{split}.txt"
    names, labels = [], []
    for key, (number, variant) in checks.by_id(listing, "<image id> <variant>").items():
        if variant not in classes:
            raise UserError(f"{listing} line {number}: variant {variant!r} is not in variants.txt")
        names.append(f"images/{key}.jpg")
        labels.append(classes[variant])
    checks.count(f"FGVC-Aircraft, images of split {split!r}", len(names), IMAGES[split], data.check_counts)
    checks.files_exist(root, names, listing.name)
    return AircraftSource(
        "FGVC-Aircraft", split, tuple(classes), np.asarray(labels, np.int32), names, root,
        max_pixels=data.max_pixels, banner=banner,
    )  # fmt: skip


def _variants(path: Path) -> dict[str, int]:
    out: dict[str, int] = {}
    for number, name in checks.lines(path):
        if name in out:
            raise UserError(f"{path} line {number}: variant {name!r} is listed twice")
        out[name] = len(out)
    return out


RECORD = DatasetRecord("aircraft", create)
