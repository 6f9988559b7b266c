"""The data sets that a config can name, one module each, imported on demand."""

import difflib
import importlib

from ml_collections import ConfigDict

from fusionjax.data.sampling.class_selection import SelectedClasses
from fusionjax.data.source import ByIdentity, Source
from fusionjax.data.vqa.source import question_source
from fusionjax.errors import UserError

SOURCES = ("folder", "manifest", "tfds", "cub", "cars", "aircraft", "openmoji", "stamps", "market1501", "dukemtmc", "msmt17",
           "veri776", "prepared", "multispectral", "openmoji_pair", "vqa2")  # fmt: skip
"""Values of `data.source`; each is a module of this package with a function `create`."""


def create(data: ConfigDict, split: str, *, seed: int) -> Source:
    """Opens one split of the data set that a config names.

    Args:
        data: `config.data`; `source`, `root`, `builder`, `fractions`, `resize`, `max_pixels` and
            `check_counts` are read.
        split: "train", "val", "test", or another split of the data set.
        seed: seed of the split where there is no official one.

    Returns:
        A source whose files exist and, if `data.check_counts` is set, whose size is the published one.

    Raises:
        UserError: an unknown data set or split, a missing root, a damaged or incomplete data set.
    """
    if data.source not in SOURCES:
        near = difflib.get_close_matches(data.source, SOURCES, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise UserError(
            f"config.data.source={data.source!r} is not known; allowed are {', '.join(SOURCES)}{hint}"
        )
    source = importlib.import_module(f"{__name__}.{data.source}").create(data, split, seed=seed)
    if data.selected_classes:
        source = SelectedClasses(source, data.selected_classes)
    if data.questions:
        return question_source(source, lambda: _pictures(data, seed), data, seed=seed)
    return ByIdentity(source) if data.label == "identity" else source


def _pictures(data: ConfigDict, seed: int) -> Source:
    """The images of the training split, whose answers are the vocabulary of all splits."""
    with data.copy_and_resolve_references().unlocked() as plain:
        plain.questions = ""
    return create(plain, data.train_split, seed=seed)
