"""The readers of data sets, one module each with its record; `fusionjax.register.datasets` imports them on demand."""

from collections.abc import Iterable
from pathlib import Path

from ml_collections import ConfigDict

from fusionjax import register
from fusionjax.data.sampling.class_selection import SelectedClasses
from fusionjax.data.source import ByIdentity, Source, find_attribute
from fusionjax.data.vqa.source import question_source
from fusionjax.errors import UserError


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


def outside_root(folder: Path, data: ConfigDict, option: str) -> None:
    """Raises UserError where a folder to be written is the root of the data, or lies within it, and would be read as data.

    Args:
        folder: the folder.
        data: `config.data`.
        option: what names the folder, for the message.
    """
    if not data.root or not register.datasets.get(data.source).lists_folders:
        return
    root = Path(data.root).expanduser()
    if root.is_dir() and folder.expanduser().resolve().is_relative_to(root.resolve()):
        raise UserError(
            f"{option}={folder} lies within config.data.root={data.root}, where its folders would be read as classes; name "
            "another folder"
        )


def _pictures(data: ConfigDict, seed: int) -> Source:
    """The images of the training split, whose answers are the vocabulary of all splits."""
    with data.copy_and_resolve_references().unlocked() as plain:
        plain.questions = ""
    return create(plain, data.train_split, seed=seed)
