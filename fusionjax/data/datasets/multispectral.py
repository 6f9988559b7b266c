"""Images with any number of channels: .npy and multi-band TIFF files (H, W, C), in folders or by a manifest.

    root/<class>/<file>    root/{train,val,test}/<class>/<file>    root/<file>    root/{train,val,test}/<file>
    root.csv or root.parquet, with the columns of `datasets.manifest`

Files without class folders belong to one class, `NO_CLASS`. A split that is not given as a folder or a column is drawn by
`data.fractions`. All files must have the same size, channels and dtype; the headers are checked when the source is opened. A
file that is damaged or holds NaN or Inf counts as an unreadable image and is logged when it is read.
"""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from fusionjax.data.datasets import checks, folder, listing, manifest
from fusionjax.data.image import nodata
from fusionjax.data.multispectral import files
from fusionjax.data.multispectral.channels import ChannelMap, channel_map
from fusionjax.data.sampling import splits
from fusionjax.data.source import FileSource
from fusionjax.data.unreadable import DecodeError, why_unreadable
from fusionjax.errors import UserError
from fusionjax.register import DatasetRecord

NO_CLASS = "unlabelled"
_WHAT = "multispectral images"
_LAYOUT = f"{', '.join(files.SUFFIXES)} files, in the folder itself or in class folders, optionally below train, val and test"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class MultispectralSource(FileSource):
    """A split of multispectral images; see `Source`.

    Attributes:
        channels: names and modalities of the channels.
        image_shape: (H, W, C) of every image.
        dtype: dtype of every image: uint8, uint16 or float32.
        fill: `config.data.nodata`, what replaces values that a file declares to be no data.
        filled: a record of the images that have such values.
    """

    channels: ChannelMap
    image_shape: tuple[int, ...]
    dtype: np.dtype
    fill: str = "mean"
    filled: nodata.Record = dataclasses.field(default_factory=nodata.Record)

    def load(self, i: int) -> np.ndarray:
        """Reads one image, (H, W, C) of `image_shape` and `dtype`, with the stored values; see `files.read` for no data.

        Raises:
            DecodeError: the file is damaged, has another format than the other files, or holds NaN or Inf.
            OSError: the file cannot be read.
        """
        image = files.read(self.root / self.names[i], self.channels.count, self.fill)
        if image.shape != self.image_shape or image.dtype != self.dtype:
            raise DecodeError(
                f"it is {files.Format(image.shape, image.dtype.name)}, the others are "
                f"{files.Format(self.image_shape, self.dtype.name)}"
            )
        if isinstance(image, np.ma.MaskedArray):
            self.filled.add(i, np.ma.getmaskarray(image))
        return image


def create(data: ConfigDict, split: str, *, seed: int) -> MultispectralSource:
    """Opens one split.

    Args:
        data: `config.data`; `root`, `channels`, `modalities` (see `channels.channel_map`), `fractions`, `train_split`,
            `label`, `max_pixels`, `nodata` and `threads` are read.
        split: "train", "val", "test", the name of a split folder, or a value of the column split of the manifest.
        seed: seed of the split where none is given.

    Returns:
        MultispectralSource in the order of the file names.

    Raises:
        UserError: see `datasets.create`; also a file with another number of channels than `channels` names, or with another
            size or dtype than the first file of the training split; a dtype other than uint8, uint16 and float32; files both
            in the root and in class folders; tifffile is needed and not installed.
    """
    channels = channel_map(data.modalities, data.channels)
    found = _files(data, split, seed)
    with ThreadPoolExecutor(data.threads) as pool:  # the time goes into waiting for the disk
        formats = list(pool.map(lambda name: _header(found.root / name, channels), found.names))
    readable = [
        (name, f) for name, f in zip(found.names, formats, strict=True) if isinstance(f, files.Format)
    ]
    if not readable:
        raise UserError(
            f"none of the {len(found)} images of split {split!r} in {data.root} can be read: {found.names[0]}: {formats[0]}"
        )
    first, expected = _reference(data, split, seed, channels) or readable[0]
    for name, given in readable:
        where = found.root / name
        _check(where, given, channels, data.max_pixels)
        if given != expected:
            raise UserError(
                f"{where} is {given}, {first} is {expected}: all images must have the same size and dtype"
            )
    fields = {field.name: getattr(found, field.name) for field in dataclasses.fields(FileSource)}
    return MultispectralSource(
        **fields,
        channels=channels,
        image_shape=expected.shape,
        dtype=np.dtype(expected.dtype),
        fill=data.nodata,
    )


def _files(data: ConfigDict, split: str, seed: int) -> FileSource:
    """The files of the split, in whichever layout the root has."""
    if data.root and Path(data.root).expanduser().is_file():
        found = manifest.create(data, split, seed=seed)
        other = next((n for n in found.names if not n.lower().endswith(files.SUFFIXES)), None)
        if other is not None:
            raise UserError(f"{data.root} lists {other}, which does not end in {', '.join(files.SUFFIXES)}")
        return found
    root = checks.root_folder(data.root, _WHAT, _LAYOUT)
    folders = listing.folders(root)
    loose = listing.files(root, files.SUFFIXES)
    if loose and any(listing.files_below(root, f.name, files.SUFFIXES) for f in folders):
        raise UserError(
            f"{root} holds {loose[0]} and also folders with images: put all images into class folders, or none"
        )
    if loose:
        parts = splits.stratified(np.zeros(len(loose), int), data.fractions, seed=seed)
        return _flat(root, split, [loose[i] for i in splits.pick(str(root), parts, split)])
    given = [f.name for f in folders if listing.files(f, files.SUFFIXES)]
    named = {data.train_split, *data.eval_splits, split}
    if given and all(f.name in named or splits.standard(f.name) for f in folders):
        part = splits.spelt(split, given, named, str(root))
        if part is None:
            raise UserError(f"{root} has no folder {split!r} with images; it has {', '.join(given)}")
        names = [f"{part}/{n}" for n in listing.files(root / part, files.SUFFIXES)]
        return _flat(root, split, names, f"split {split!r} is the folder {root / part}")
    # One class is enough for learning without labels; a task that classifies refuses it.
    return folder.read(data, split, seed=seed, suffixes=files.SUFFIXES, what=_WHAT, fewest=1)


def _flat(root: Path, split: str, names: Sequence[str], *notes: str) -> FileSource:
    labels = np.zeros(len(names), np.int32)
    return FileSource(root.resolve().name, split, (NO_CLASS,), labels, list(names), root, notes=notes)


def _reference(
    data: ConfigDict, split: str, seed: int, channels: ChannelMap
) -> tuple[str, files.Format] | None:
    """The first readable file of the training split, which other splits are compared with too."""
    if split == data.train_split:
        return None
    try:
        train = _files(data, data.train_split, seed)
    except UserError:  # there is no training split: a test set on its own
        return None
    for name in train.names:
        given = _header(train.root / name, channels)
        if isinstance(given, files.Format):
            return name, given
    return None


def _header(path: Path, channels: ChannelMap) -> files.Format | str:
    """The format of a file, or the reason why it cannot be read; such a file counts as an unreadable image."""
    try:
        return files.header(path, channels.count)
    except (DecodeError, MemoryError, OSError) as e:
        return why_unreadable(e, str(path))


def _check(where: Path, given: files.Format, channels: ChannelMap, max_pixels: int) -> None:
    if len(given.shape) != 3:
        raise UserError(f"{where} is {given}, not (H, W, C)")
    height, width, count = given.shape
    if count != channels.count:
        raise UserError(
            f"{where} has {count} channels, {given}, and {channels.count} are named ({', '.join(channels.names)}): fix the "
            "file, or name its channels in config.data.channels"
        )
    if given.dtype not in files.TYPES:
        raise UserError(f"{where} is {given}: convert it to one of {', '.join(files.TYPES)}")
    if not 0 < height * width <= max_pixels:
        raise UserError(
            f"{where} has {height} × {width} pixels, config.data.max_pixels={max_pixels} allows fewer"
        )


RECORD = DatasetRecord("multispectral", create, reads=("root", "fractions"), lists_folders=True)
