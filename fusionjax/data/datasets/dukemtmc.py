"""DukeMTMC-reID in its official layout: 702 identities to train, 702 to find among 17,661 images of 8 cameras."""

import re

from ml_collections import ConfigDict

from fusionjax.data.datasets import reid_names
from fusionjax.data.source import FileSource
from fusionjax.register import DatasetRecord

DUKE = reid_names.DataSet(
    "DukeMTMC-reID",
    images={"train": 16522, "query": 2228, "gallery": 17661},
    identities={"train": 702, "query": 702, "gallery": 1110},  # gallery: with 408 distractors
    cameras=8,
)
_NAME = re.compile(r"(\d+)_c(\d)(?!\d)")
_LIKE = "0005_c2_f0046985.jpg"
_PLACES = ("DukeMTMC-reID", "dukemtmc-reid", "dukemtmcreid")
_GET = "DukeMTMC-reID; its authors withdrew it, so use a copy only where you may"


def create(data: ConfigDict, split: str, *, seed: int) -> FileSource:
    """Opens one split: bounding_box_train, query or bounding_box_test; the file names hold identity and camera.

    Args:
        data: `config.data`; `root` is the folder DukeMTMC-reID or its parent.
        split: "train", "query" or "gallery".
        seed: unused, the split is official.

    Returns:
        FileSource in the order of the names, with the columns identity and camera, see `reid_names.build`.

    Raises:
        UserError: see `datasets.create`.
    """
    root, rows = reid_names.read_market_layout(data, DUKE, split, _NAME, _LIKE, places=_PLACES, get=_GET)
    names, identities, cameras = zip(*rows, strict=True)
    return reid_names.build(DUKE, split, root, names, identities, cameras, check_counts=data.check_counts)


RECORD = DatasetRecord("dukemtmc", create)
