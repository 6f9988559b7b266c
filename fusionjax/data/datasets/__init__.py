"""The readers of data sets, one module each with its record; `fusionjax.register.datasets` imports them on demand."""

from collections.abc import Iterable

from ml_collections import ConfigDict

from fusionjax import register
from fusionjax.data.sampling.class_selection import SelectedClasses
from fusionjax.data.source import ByIdentity, Source, find_attribute
from fusionjax.data.vqa.source import question_source


def create(data: ConfigDict, split: str, *, seed: int) -> Source:
    """Opens one split of the data set that a config names.

    Args:
        data: `config.data`; the data set reads what its record in `fusionjax.register` names.
        split: "train", "val", "test", or another split of the data set.
        seed: seed of the split where there is no official one.

    Returns:
        A source whose files exist and, if `data.check_counts` is set, whose size is the published one.

    Raises:
        UserError: an unknown data set or split, a missing root, a damaged or incomplete data set.
    """
    source = register.datasets.get(data.source).create(data, split, seed=seed)
    if data.selected_classes:
        source = SelectedClasses(source, data.selected_classes)
    if data.questions:
        return question_source(source, lambda: _pictures(data, seed), data, seed=seed)
    return ByIdentity(source) if data.label == "identity" else source


def notes(sources: Iterable[Source]) -> tuple[str, ...]:
    """What the readers of some splits decided and a user should know, each line once."""
    return tuple(dict.fromkeys(line for source in sources for line in find_attribute(source, "notes") or ()))


def _pictures(data: ConfigDict, seed: int) -> Source:
    """The images of the training split, whose answers are the vocabulary of all splits."""
    with data.copy_and_resolve_references().unlocked() as plain:
        plain.questions = ""
    return create(plain, data.train_split, seed=seed)
