"""TensorFlow Datasets by random access (ArrayRecord). Reading needs no TensorFlow, preparing does."""

import contextlib
import functools
import hashlib
import importlib.util
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fusionjax import files
from fusionjax.data.datasets import cars as cars_layout
from fusionjax.data.datasets import checks, cub
from fusionjax.data.sampling import splits
from fusionjax.data.source import Source, Subset
from fusionjax.errors import UserError

IMAGES = {"caltech_birds2011": cub.IMAGES, "cars196": cars_layout.IMAGES}
"""Published numbers of images, by builder and split."""
_INSTALL = 'pip install "fusionjax[prepare]"'
_VALIDATION = {"val": "validation"}


class TfdsSource:
    """A split of a TFDS data set; see `Source`. `load` gives the encoded image.

    `labels` reads every record once, on first use: TFDS stores them nowhere else. No image is decoded for it. Of ImageNet that
    is 140 GB, so they are kept in the user's cache, below a name that changes with the prepared files.

    Args:
        name, split, class_names: as in `Source`.
        records: by index, with "image" encoded.
        stamp: tells one version of the prepared files from another; "" keeps no labels.
    """

    def __init__(
        self, name: str, split: str, records: Sequence[dict], class_names: tuple[str, ...], stamp: str = ""
    ):
        self.name, self.split, self.class_names, self._stamp = name, split, class_names, stamp
        self.names = [f"{name}/{split}[{i}]" for i in range(len(records))]
        self.columns: dict[str, np.ndarray] = {}
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        if not self._stamp:
            return self._read_labels()
        key = hashlib.sha256(f"{self._stamp} {self.split}".encode()).hexdigest()[:16]
        return kept_labels(
            files.user_cache("labels") / f"{self.name.replace('/', '_')}-{key}.npy",
            len(self),
            len(self.class_names),
            self._read_labels,
        )

    def _read_labels(self) -> np.ndarray:
        out = np.zeros(len(self), np.int32)
        for i in range(len(self)):
            try:
                out[i] = int(self._records[i]["label"])
            except Exception as e:  # a damaged shard raises what its format likes
                raise UserError(
                    f"{self.names[i]} cannot be read: {_one_line(e)}; prepare the data set again"
                ) from None
            if not 0 <= out[i] < len(self.class_names):
                raise UserError(
                    f"{self.names[i]}: label {out[i]} is not below {len(self.class_names)} classes"
                )
        return out

    def load(self, i: int) -> bytes:
        return bytes(self._records[i]["image"])


def create(data: Any, split: str, *, seed: int) -> Source:
    """One split of a TFDS data set, which is downloaded and prepared if it is not there yet.

    A data set that has a train split alone is split by `data.fractions`, stratified; "val" also finds
    "validation"; a TFDS slice such as "train[:10%]" is taken as it is.

    Args:
        data: `config.data`; `builder` names the data set (and its config: "eurosat/rgb"), `root` is its
            data_dir, "" for TFDS's own.
        split: the split.
        seed: draws the split.

    Raises:
        UserError: an unknown builder or split; data that are not prepared and cannot be (no TensorFlow, no
            network); no image or class label in it; not the published number of images.
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
    source = TfdsSource(data.builder, split, records, tuple(label.names), _stamp(builder))
    expected = IMAGES.get(builder.name, {}).get(stored)
    if expected is not None:
        checks.count(f"{data.builder}, images of split {split!r}", len(source), expected, data.check_counts)
    if not drawn:
        return source
    return Subset(
        source, splits.pick(data.builder, splits.stratified(source.labels, data.fractions, seed=seed), split)
    )


def kept_labels(path: Path, size: int, classes: int, read: Callable[[], np.ndarray]) -> np.ndarray:
    """The labels in `path`, or those of `read`, which are then kept there; a file that does not fit is written anew.

    Args:
        path: .npy file.
        size, classes: that the labels must have.
        read: makes them, int32 (N,).
    """
    try:
        found = np.load(path, allow_pickle=False)
        if (
            found.shape == (size,)
            and found.dtype == np.int32
            and (not size or 0 <= found.min() <= found.max() < classes)
        ):
            return found
    except (OSError, ValueError, EOFError):
        pass
    labels = read()
    # A cache that cannot be written costs time, not the run.
    with contextlib.suppress(OSError), files.replacing(path) as part, part.open("wb") as file:
        np.save(file, labels)
    return labels


def _stamp(builder: Any) -> str:
    """Of the prepared files; "" where there are none, as under mock_data."""
    folder = Path(str(builder.data_dir))
    if _is_mocked(builder) or not folder.is_dir():
        return ""
    files = sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in folder.iterdir() if p.is_file())
    return f"{folder} {files}"


def _builder(tfds: Any, data: Any) -> Any:
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


def _is_mocked(builder: Any) -> bool:
    """tfds.testing.mock_data serves examples though nothing is prepared; its methods are not TFDS's own."""
    return not type(builder).as_data_source.__module__.startswith("tensorflow_datasets.core")


def _prepare(builder: Any, data: Any) -> None:
    where = f"{data.builder} is not prepared in {builder.data_dir}"
    if importlib.util.find_spec("tensorflow") is None:  # before the download, which may be gigabytes
        raise UserError(f"{where}, and preparing it needs TensorFlow: {_INSTALL}")
    if not _online(builder):
        raise UserError(
            f"{where}, and there is no network to download it; prepare it elsewhere and set config.data.root"
        )
    try:
        builder.download_and_prepare(file_format="array_record")
    except ImportError as e:
        raise UserError(f"{where}, and preparing it needs the package {e.name or e}: {_INSTALL}") from None
    except Exception as e:  # network, checksum, disk, a download that a person must make
        raise UserError(f"{where}, and preparing it failed: {_one_line(e)}") from None


def _online(builder: Any) -> bool:
    """Whether anything answers: TFDS itself retries a dead network for minutes."""
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


def _stored(builder: Any, name: str, split: str) -> tuple[str, bool]:
    """(split to read, whether `split` is drawn from it)."""
    available = list(builder.info.splits)
    if not available or (split.partition("[")[0] in available and (len(available) > 1 or "[" in split)):
        return split, False
    if len(available) == 1:
        checks.split_is_one_of(name, split, splits.SPLITS)
        return available[0], True
    if _VALIDATION.get(split) in available:
        return _VALIDATION[split], False
    raise UserError(f"{name} has no split {split!r}; it has {', '.join(available)}")


def _label(tfds: Any, builder: Any, name: str) -> Any:
    """The class label's feature, after a look that there is an image too."""
    features = dict(builder.info.features.items())
    image, label = features.get("image"), features.get("label")
    if not isinstance(image, tfds.features.Image) or not isinstance(label, tfds.features.ClassLabel):
        raise UserError(f"{name} has no features 'image' and 'label' (a class); it has {', '.join(features)}")
    return label


def _open(tfds: Any, builder: Any, stored: str, data: Any) -> Sequence[dict]:
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
