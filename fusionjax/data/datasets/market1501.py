"""Market-1501 in its official layout: 751 identities to train, 750 to find among 15,913 images of 6 cameras."""

import re

from ml_collections import ConfigDict

from fusionjax.data.datasets import checks, reid_names
from fusionjax.data.datasets.reid_names import FOLDERS
from fusionjax.data.source import FileSource
from fusionjax.errors import UserError
from fusionjax.register import DatasetRecord

MARKET = reid_names.DataSet(
    "Market-1501",
    images={"train": 12936, "query": 3368, "gallery": 15913},
    identities={"train": 751, "query": 750, "gallery": 751},  # gallery: with 0, the distractors
    cameras=6,
)
GALLERY_FILES = 19732
"""Images in bounding_box_test, with those of identity −1."""
JUNK, DISTRACTOR = -1, 0
_NAME = re.compile(r"(-1|\d+)_c(\d)(?!\d)")
_LIKE = "0002_c1s1_000451_03.jpg"
_PLACES = ("Market-1501-v15.09.15", "Market-1501", "market1501")
_GET = "Market-1501-v15.09.15.zip, from the authors' page"


def create(data: ConfigDict, split: str, *, seed: int) -> FileSource:
    """Opens one split: bounding_box_train, query or bounding_box_test; the file names hold identity and camera.

    Junk images (identity −1) are removed from the gallery, distractors (identity 0) are kept, as in the authors' protocol.

    Args:
        data: `config.data`; `root` is the folder Market-1501-v15.09.15 or its parent.
        split: "train", "query" or "gallery".
        seed: unused, the split is official.

    Returns:
        FileSource in the order of the names, with the columns identity and camera, see `reid_names.build`.

    Raises:
        UserError: see `datasets.create`.
    """
    root, rows = reid_names.read_market_layout(data, MARKET, split, _NAME, _LIKE, places=_PLACES, get=_GET)
    if split == "gallery":
        checks.count(f"{MARKET.name}, files in {FOLDERS[split]}", len(rows), GALLERY_FILES, data.check_counts)
        rows = [row for row in rows if row[1] != JUNK]
    else:
        for name, identity, _ in rows:
            if identity in (JUNK, DISTRACTOR):
                raise UserError(
                    f"image {root / name} has identity {identity}, which is allowed in {FOLDERS['gallery']} only"
                )
    return reid_names.build(
        MARKET, split, root, [name for name, _, _ in rows], [i for _, i, _ in rows], [c for _, _, c in rows],
        check_counts=data.check_counts,
    )  # fmt: skip


RECORD = DatasetRecord("market1501", create)
