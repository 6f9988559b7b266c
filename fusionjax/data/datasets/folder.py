"""Images in class folders: root/<class>/<image>, or root/<split>/<class>/<image>."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from fusionjax.data import class_names as names_lib
from fusionjax.data.datasets import checks, listing
from fusionjax.data.sampling import splits
from fusionjax.data.source import FileSource
from fusionjax.errors import UserError
from fusionjax.register import DatasetRecord

_LAYOUT = "in folders root/<class>/ or root/{train,val,test}/<class>/"


def create(data: ConfigDict, split: str, *, seed: int) -> FileSource:
    """Opens one split of images in class folders; arguments and errors as for `read`."""
    return read(data, split, seed=seed)


def read(
    data: ConfigDict,
    split: str,
    *,
    seed: int,
    suffixes: Sequence[str] = checks.IMAGE_SUFFIXES,
    what: str = "images",
    fewest: int = 2,
) -> FileSource:
    """Opens one split of files in class folders; classes and files are sorted by name.

    If the root has folders with class folders that are named like splits (`splits.standard`: train, Training, valid, test_set
    …) or as the config names its splits, these folders are the splits, and the classes are those of all of them. Otherwise the
    split is drawn by `data.fractions`, stratified by class; where `data.label` is "identity", whole classes are drawn.

    Args:
        data: `config.data`; `root`, `fractions`, `label`, `train_split` and `eval_splits` are read.
        split: "train", "val", "test", or the name of a split folder.
        seed: seed of the split.
        suffixes: suffixes of the files that are read, in lower case.
        what: plural noun for these files, for messages.
        fewest: the fewest classes that are accepted.

    Returns:
        FileSource whose names are paths relative to the root; its notes say which folder is the split.

    Raises:
        UserError: see `datasets.create`; also a class folder without such files, too few classes, and folders of which it is
            not clear whether they are splits or classes.
    """
    layout = f"{what} {_LAYOUT}"
    root = checks.root_folder(data.root, "the data set", layout)
    tree = scan(root, data, split, suffixes)
    given, notes = tree.given, tree.notes
    if given:
        part = splits.spelt(split, given, tree.named, str(root))
        if part is None:
            raise UserError(f"{root} has no folder {split!r} with class folders; it has {', '.join(given)}")
        notes = (f"split {split!r} is the folder {root / part}", *notes)
        classes = sorted({c.name for name in given for c in listing.folders(root / name)})
        tops = [f"{part}/{c}" for c in classes if (root / part / c).is_dir()]
    else:
        classes = tops = [c.name for c in listing.folders(root)]
    if not classes:
        raise UserError(f"config.data.root={data.root!r} has no class folders; expected {layout}")
    listing.one_composition(classes, f"{root}: the class folders")
    if len(classes) < fewest:
        raise UserError(_one_class(root, tops[0] if tops else classes[0], suffixes))
    label_of = {c: i for i, c in enumerate(classes)}
    names, labels, left_out = _class_files(root, tops, label_of, suffixes, what)
    notes = (*notes, *left_out)
    source = np.asarray(labels, np.int32)
    if not given:
        if data.label == "identity":  # a class is in one split only
            parts = splits.stratified(np.zeros_like(source), data.fractions, seed=seed, groups=source)
        else:
            parts = splits.stratified(source, data.fractions, seed=seed)
        chosen = splits.pick(str(root), parts, split)
        names, source = [names[i] for i in chosen], source[chosen]
    return FileSource(root.resolve().name, split, tuple(classes), source, names, root, notes=notes)


def _class_files(
    root: Path, tops: Sequence[str], label_of: dict[str, int], suffixes: Sequence[str], what: str
) -> tuple[list[str], list[int], list[str]]:
    """The files of some class folders, their labels, and a note on files that are not read."""
    names: list[str] = []
    labels: list[int] = []
    others: list[str] = []
    for top in tops:
        images, rest = listing.with_others(root, top, suffixes)
        if not images:
            has = f"; it has {listing.counted(rest)}" if rest else ""
            raise UserError(
                f"class folder {root / top} has no {what} ({', '.join(suffixes)}){has}: add some, or remove the folder"
            )
        _check_inside(root, top, images, label_of)
        names.extend(images)
        others.extend(rest)
        labels.extend([label_of[Path(top).name]] * len(images))
    note = f"not read, as they are no {what} ({', '.join(suffixes)}): {listing.counted(others)}"
    return names, labels, [note] if others else []


@dataclasses.dataclass(frozen=True)
class Tree:
    """The split folders of a root.

    Attributes:
        given: names of the folders that are splits; empty where the root holds class folders.
        named: names that the config uses for splits.
        notes: folders beside the splits, which are not read.
    """

    given: tuple[str, ...]
    named: frozenset[str]
    notes: tuple[str, ...]


def scan(root: Path, data: ConfigDict, split: str, suffixes: Sequence[str]) -> Tree:
    """Distinguishes split folders from class folders.

    Raises:
        UserError: folders that may be either.
    """
    named = frozenset({data.train_split, *data.eval_splits, split})
    inside = listing.folders(root)
    upper = [f.name for f in inside if _holds_classes(f, suffixes)]  # folders that may be splits
    given = tuple(sorted((n for n in upper if n in named or splits.standard(n)), key=splits.rank))
    doubtful = [n for n in upper if n not in given and splits.resembles(n)]
    if doubtful:
        raise UserError(
            f"{root / doubtful[0]} may be a split or a class: rename it to train, val or test, or name it in "
            "config.data.train_split or config.data.eval_splits"
        )
    flat = {
        splits.standard(f.name): f.name for f in inside if f.name not in upper and splits.standard(f.name)
    }
    if not given and len(flat) > 1:
        raise UserError(
            f"{root} has the folders {' and '.join(flat.values())} without class folders in them: splits need a folder for "
            "each class, or a manifest (config.data.source='manifest')"
        )
    others = [f.name for f in inside if f.name not in given and listing.files_below(root, f.name, suffixes)]
    notes = (
        [f"not read, as they are no splits: {names_lib.listed(others)} in {root}"] if given and others else []
    )
    loose = listing.files(root, suffixes)
    if loose and inside:
        notes.append(f"not read, as they are in no class folder: {names_lib.listed(loose)} in {root}")
    return Tree(given, named, tuple(notes))


def _holds_classes(path: Path, suffixes: Sequence[str]) -> bool:
    """Whether a folder has subfolders and no images of its own (a class named "train" has images)."""
    return bool(listing.folders(path)) and not listing.files(path, suffixes)


def _one_class(root: Path, top: str, suffixes: Sequence[str]) -> str:
    """The message for a root with one class folder; names the folder below it that has several."""
    below = root / top
    while True:
        inner = [f for f in listing.folders(below) if listing.files_below(below, f.name, suffixes)]
        if len(inner) != 1:
            break
        below = inner[0]
    start = f"{root} has one class folder, {top!r}, and a classifier needs two classes or more"
    if not inner:
        return start
    return f"{start}; {below} has {len(inner)} folders of images: set config.data.root={str(below)!r}"


def _check_inside(root: Path, top: str, images: Sequence[str], classes: dict[str, int]) -> None:
    """Raises UserError where folders inside a class folder are named like other classes, or like splits."""
    own = Path(top).name
    inner = {part for name in images for part in name[len(top) + 1 :].split("/")[:-1]}
    other = sorted((inner & classes.keys()) - {own})
    if other:
        raise UserError(
            f"class folder {root / top} contains a folder {other[0]!r}, which is also the name of a class: move or remove it"
        )
    parts = {splits.standard(part): part for part in sorted(inner) if splits.standard(part)}
    if len(parts) > 1:
        raise UserError(
            f"class folder {root / top} contains the folders {' and '.join(sorted(parts.values()))}: put splits above "
            "classes, root/<split>/<class>/"
        )


RECORD = DatasetRecord("folder", create, reads=("root", "fractions"), lists_folders=True)
