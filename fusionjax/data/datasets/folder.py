"""Images in class folders: root/<class>/<image>, or root/<split>/<class>/<image>."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from fusionjax.data.datasets import checks
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
) -> FileSource:
    """Opens one split of files in class folders; classes and files are sorted by name.

    If the root has a folder with class folders for the split, or for any of train, val and test, these folders are the splits,
    and the classes are those of all of them. Otherwise the split is drawn by `data.fractions`, stratified by class; where
    `data.label` is "identity", whole classes are drawn.

    Args:
        data: `config.data`; `root`, `fractions` and `label` are read.
        split: "train", "val", "test", or the name of a split folder.
        seed: seed of the split.
        suffixes: suffixes of the files that are read, in lower case.
        what: plural noun for these files, for messages.

    Returns:
        FileSource whose names are paths relative to the root.

    Raises:
        UserError: see `datasets.create`; also a class folder without such files.
    """
    layout = f"{what} {_LAYOUT}"
    root = checks.root_folder(data.root, "the data set", layout)
    given = [name for name in dict.fromkeys((*splits.SPLITS, split)) if _holds_classes(root / name, suffixes)]
    if given:
        if split not in given:
            raise UserError(f"{root} has no folder {split!r} with class folders; it has {', '.join(given)}")
        classes = sorted({c.name for name in given for c in _folders(root / name)})
        tops = [Path(split) / c for c in classes if (root / split / c).is_dir()]
    else:
        classes = [c.name for c in _folders(root)]
        tops = [Path(c) for c in classes]
    if not classes:
        raise UserError(f"config.data.root={data.root!r} has no class folders; expected {layout}")
    label_of = {c: i for i, c in enumerate(classes)}
    names: list[str] = []
    labels: list[int] = []
    for top in tops:
        images = _images(root, top, suffixes)
        if not images:
            raise UserError(f"class folder {root / top} has no {what} ({', '.join(suffixes)})")
        names.extend(images)
        labels.extend([label_of[top.name]] * len(images))
    source = np.asarray(labels, np.int32)
    if not given:
        if data.label == "identity":  # a class is in one split only
            parts = splits.stratified(np.zeros_like(source), data.fractions, seed=seed, groups=source)
        else:
            parts = splits.stratified(source, data.fractions, seed=seed)
        chosen = splits.pick(str(root), parts, split)
        names, source = [names[i] for i in chosen], source[chosen]
    return FileSource(root.resolve().name, split, tuple(classes), source, names, root)


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))


def _holds_classes(path: Path, suffixes: Sequence[str] = checks.IMAGE_SUFFIXES) -> bool:
    """Whether a folder has subfolders and no images of its own (a class named "train" has images)."""
    if not path.is_dir():
        return False
    return bool(_folders(path)) and not _files(path, suffixes)


def _files(path: Path, suffixes: Sequence[str]) -> list[str]:
    """The names of the files with these suffixes directly in a folder."""
    return sorted(p.name for p in path.iterdir() if _is_one(p.name, suffixes) and p.is_file())


def _images(root: Path, top: Path, suffixes: Sequence[str]) -> list[str]:
    """The files below a class folder at any depth, as paths relative to the root."""
    out: list[str] = []
    for folder, _, files in os.walk(root / top):
        relative = Path(folder).relative_to(root)
        out.extend((relative / f).as_posix() for f in files if _is_one(f, suffixes))
    return sorted(out)


def _is_one(name: str, suffixes: Sequence[str]) -> bool:
    return name.lower().endswith(tuple(suffixes)) and not name.startswith(".")


RECORD = DatasetRecord("folder", create, reads=("root", "fractions"))
