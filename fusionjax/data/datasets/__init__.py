"""The readers of data sets, one module each with its record; `fusionjax.register.datasets` imports them when asked for."""

from typing import Any

from fusionjax import register
from fusionjax.data.sampling.class_selection import SelectedClasses
from fusionjax.data.source import ByIdentity, Source
from fusionjax.data.vqa import source as asking


def create(data: Any, split: str, *, seed: int) -> Source:
    """Opens one split of the data set that a config names.

    Args:
        data: `config.data`; the data set reads what its record in `fusionjax.register` names.
        split: "train", "val", "test" or a further one that the data set has.
        seed: draws the split where there is no official one.

    Returns:
        Source whose files exist and, when `data.check_counts`, whose size is the published one.

    Raises:
        UserError: an unknown source or split, a missing root, a damaged or incomplete data set; one line.
    """
    source = register.datasets.get(data.source).create(data, split, seed=seed)
    if data.selected_classes:
        source = SelectedClasses(source, data.selected_classes)
    if data.questions:
        return asking.asked(source, lambda: _pictures(data, seed), data, seed=seed)
    return ByIdentity(source) if data.label == "identity" else source


def _pictures(data: Any, seed: int) -> Source:
    """The training split, whose answers the questions of all splits share, before it is asked."""
    with data.copy_and_resolve_references().unlocked() as plain:
        plain.questions = ""
    return create(plain, data.train_split, seed=seed)
