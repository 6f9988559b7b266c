"""TensorFlow Datasets by random access (ArrayRecord). Reading needs no TensorFlow, preparing does."""

import functools
import importlib.util
import io
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NotRequired, TypedDict

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from fusionjax import disk_cache, files
from fusionjax.data.datasets import cars as cars_layout
from fusionjax.data.datasets import checks, cub
from fusionjax.data.sampling import splits
from fusionjax.data.source import Source, Subset
from fusionjax.errors import UserError
from fusionjax.register import DatasetRecord

IMAGES = {"caltech_birds2011": cub.IMAGES, "cars196": cars_layout.IMAGES}
"""Published numbers of images, by builder and split."""
_INSTALL = 'pip install "fusionjax[prepare]"'

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder
    from tensorflow_datasets.core.features import ClassLabel


class Record(TypedDict):
    """What is read of a record; the image is not decoded. Some data sets have a box: top, left, bottom, right in 0 … 1."""

    image: bytes
    label: int
    bbox: NotRequired[np.ndarray]


class TfdsSource:
    """A split of a TFDS data set; see `Source`. `load` returns the encoded image.

    `labels` reads all records on first use, without decoding an image: TFDS stores labels nowhere else. For ImageNet this
    reads 140 GB, so the labels are kept in the cache folder of the user, under a name that changes with the prepared files.

    Args:
        name, split, class_names: as in `Source`.
        records: by index, with "image" encoded.
        fingerprint: identifies the version of the prepared files; "" to keep no labels.
    """

    def __init__(
        self,
        name: str,
        split: str,
        records: Sequence[Record],
        class_names: tuple[str, ...],
        fingerprint: str = "",
    ):
        self.name, self.split, self.class_names, self._fingerprint = name, split, class_names, fingerprint
        self.names = [f"{name}/{split}[{i}]" for i in range(len(records))]
        self.columns: dict[str, np.ndarray] = {}
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        if not self._fingerprint:
            return self._read_labels()
        entry = disk_cache.Entry(
            files.user_cache("labels"),
            f"{self.name}-{self.split}",
            {
                "files": self._fingerprint,
                "split": self.split,
                "size": len(self),
                "classes": len(self.class_names),
            },
        )
        return entry.arrays(lambda: {"labels": self._read_labels()})["labels"]

    def _read_labels(self) -> np.ndarray:
        out = np.zeros(len(self), np.int32)
        for i in range(len(self)):
            try:
                out[i] = int(self._records[i]["label"])
            except Exception as e:  # a damaged shard may raise any type
                raise UserError(
                    f"{self.names[i]} cannot be read: {_one_line(e)}; prepare the data set again"
                ) from None
            if not 0 <= out[i] < len(self.class_names):
                raise UserError(
                    f"{self.names[i]}: label {out[i]} is not below {len(self.class_names)} classes"
                )
        return out

    def load(self, i: int) -> bytes:
        """The encoded image of example `i`."""
        return bytes(self._records[i]["image"])

    def object_mask(self, i: int) -> np.ndarray | None:
        """See `data.source.object_mask`: the feature "bbox", where the data set has one (CUB)."""
        box = self._records[i].get("bbox")
        if box is None or np.shape(box) != (4,):
            return None
        with Image.open(io.BytesIO(self.load(i))) as picture:
            width, height = picture.size
        top, left, bottom, right = np.rint(np.asarray(box) * (height, width, height, width)).astype(int)
        mask = np.zeros((height, width), bool)
        mask[top:bottom, left:right] = True
        return mask if mask.any() and not mask.all() else None


def create(data: ConfigDict, split: str, *, seed: int) -> Source:
    """One split of a TFDS data set, which is downloaded and prepared if necessary.

    A data set with a single split is split by `data.fractions`, stratified by class; "val" is also found as "validation", a
    TFDS slice such as "train[:10%]" is passed on.

    Args:
        data: `config.data`; read are `builder` (name of the data set, with its config: "eurosat/rgb"), `root` (its data_dir,
            "" for the default of TFDS), `fractions` and `check_counts`.
        split: name of the split.
        seed: seed of a drawn split.

    Raises:
        UserError: an unknown builder or split; the data are not prepared and cannot be (no TensorFlow, no network); the data
            set has no image or class label, or not the published number of images.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as e:
        raise UserError(
            f"config.data.source='tfds' needs tensorflow-datasets ({e}): pip install tensorflow-datasets"
        ) from None
    if not data.builder:
        raise UserError("config.data.builder is empty: name a TFDS data set, e.g. caltech_birds2011")
    builder = _builder(tfds, data)
    stored, drawn = _stored(builder, data.builder, split)
    label = _label(tfds, builder, data.builder)
    records = _open(tfds, builder, stored, data)
    source = TfdsSource(data.builder, split, records, tuple(label.names), _fingerprint(builder))
    expected = IMAGES.get(builder.name, {}).get(stored)
    if expected is not None:
        checks.count(f"{data.builder}, images of split {split!r}", len(source), expected, data.check_counts)
    if not drawn:
        return source
    return Subset(
        source, splits.pick(data.builder, splits.stratified(source.labels, data.fractions, seed=seed), split)
    )


def _fingerprint(builder: "DatasetBuilder") -> str:
    """The names, sizes and times of the prepared files; "" where there are none, as under mock_data."""
    folder = Path(str(builder.data_dir))
    if _is_mocked(builder) or not folder.is_dir():
        return ""
    files = sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in folder.iterdir() if p.is_file())
    return f"{folder} {files}"


def _builder(tfds: ModuleType, data: ConfigDict) -> "DatasetBuilder":
    folder = str(Path(data.root).expanduser()) if data.root else None
    try:
        builder = tfds.builder(data.builder, data_dir=folder)
    except Exception as e:  # unknown name, unknown config, damaged dataset_info.json
        hint = (
            "TFDS's catalogue lists the names" if type(e).__name__ == "DatasetNotFoundError" else _one_line(e)
        )
        raise UserError(f"config.data.builder={data.builder!r} cannot be opened: {hint}") from None
    if not builder.is_prepared() and not _is_mocked(builder):
        _prepare(builder, data)
    return builder


def _is_mocked(builder: "DatasetBuilder") -> bool:
    """Whether tfds.testing.mock_data provides the examples: nothing is prepared, and the methods are not TFDS's own."""
    return not type(builder).as_data_source.__module__.startswith("tensorflow_datasets.core")


def _prepare(builder: "DatasetBuilder", data: ConfigDict) -> None:
    where = f"{data.builder} is not prepared in {builder.data_dir}"
    if importlib.util.find_spec("tensorflow") is None:  # before a download of perhaps gigabytes
        raise UserError(f"{where}, and preparing it needs TensorFlow: {_INSTALL}")
    if not _online(builder):
        raise UserError(
            f"{where}, and there is no network to download it; prepare it elsewhere and set config.data.root"
        )
    try:
        builder.download_and_prepare(file_format="array_record")
    except ImportError as e:
        raise UserError(f"{where}, and preparing it needs the package {e.name or e}: {_INSTALL}") from None
    except Exception as e:  # network, checksum, disk, a manual download
        raise UserError(f"{where}, and preparing it failed: {_one_line(e)}") from None


def _online(builder: "DatasetBuilder") -> bool:
    """Whether a host can be reached: TFDS retries for minutes without a network."""
    if urllib.request.getproxies():
        return True
    home = urllib.parse.urlsplit(builder.info.homepage or "").hostname
    for host in filter(None, (home, "www.tensorflow.org")):
        try:
            socket.create_connection((host, 443), timeout=5).close()
            return True
        except OSError:
            continue
    return False


def _stored(builder: "DatasetBuilder", name: str, split: str) -> tuple[str, bool]:
    """(split to read, whether `split` is drawn from it)."""
    available = list(builder.info.splits)
    if not available or (split.partition("[")[0] in available and (len(available) > 1 or "[" in split)):
        return split, False
    if len(available) == 1:
        checks.split_is_one_of(name, split, splits.SPLITS)
        return available[0], True
    spelt = splits.spelt(split, available, (split,), name)
    if spelt is not None:
        return spelt, False
    raise UserError(f"{name} has no split {split!r}; it has {', '.join(available)}")


def _label(tfds: ModuleType, builder: "DatasetBuilder", name: str) -> "ClassLabel":
    """The feature of the class label; raises UserError where it or an image is missing."""
    features = dict(builder.info.features.items())
    image, label = features.get("image"), features.get("label")
    if not isinstance(image, tfds.features.Image) or not isinstance(label, tfds.features.ClassLabel):
        raise UserError(f"{name} has no features 'image' and 'label' (a class); it has {', '.join(features)}")
    return label


def _open(tfds: ModuleType, builder: "DatasetBuilder", stored: str, data: ConfigDict) -> Sequence[Record]:
    skip = {
        k: tfds.decode.SkipDecoding()
        for k, f in builder.info.features.items()
        if isinstance(f, tfds.features.Image)
    }
    try:
        return builder.as_data_source(split=stored, decoders=skip)
    except NotImplementedError:
        raise UserError(
            f"{data.builder} in {builder.data_dir} is prepared as {builder.info.file_format.value}, which "
            "has no random access; delete it, or set config.data.root to another folder to prepare it there"
        ) from None
    except Exception as e:
        raise UserError(
            f"split {stored!r} of {data.builder} in {builder.data_dir} cannot be opened: {_one_line(e)}"
        ) from None


def _one_line(error: BaseException) -> str:
    return re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:300]


RECORD = DatasetRecord("tfds", create, reads=("root", "builder", "fractions"))
