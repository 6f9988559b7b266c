"""Stanford Cars in either official layout: 196 models, 8,144 training and 8,041 test images."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.io
from ml_collections import ConfigDict

from fusionjax.data.datasets import checks
from fusionjax.data.source import FileSource
from fusionjax.errors import UserError
from fusionjax.register import DatasetRecord

IMAGES = {"train": 8144, "test": 8041}
CLASSES = 196
_GET = (
    "car_devkit.tgz, cars_train, cars_test and cars_test_annos_withlabels.mat, or car_ims and cars_annos.mat"
)
_LISTS = {"train": "cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}


def create(data: ConfigDict, split: str, *, seed: int) -> FileSource:
    """Opens one split, from devkit/cars_{train_annos,test_annos_withlabels,meta}.mat, or from cars_annos.mat where present.

    Args:
        data: `config.data`; `root` holds devkit, cars_train and cars_test, or cars_annos.mat and car_ims.
            cars_test_annos_withlabels.mat, a separate download, may be in devkit or beside it.
        split: "train" or "test".
        seed: unused, the split is official.

    Returns:
        FileSource in the order of the annotations.

    Raises:
        UserError: see `datasets.create`.
    """
    checks.split_is_one_of("Stanford Cars", split, IMAGES)
    root = checks.root_folder(data.root, "Stanford Cars", _GET)
    single = root / "cars_annos.mat"
    if single.is_file():
        path, class_names = single, _strings(single, "class_names")
        entries = _single(single, split)
    else:
        path, meta = _find(root, _LISTS[split]), _find(root, "cars_meta.mat")
        class_names, entries = _strings(meta, "class_names"), _devkit(path, split)
    names, labels = [], []
    seen: dict[str, int] = {}
    for number, name, label in entries:
        if name in seen:
            raise UserError(
                f"{path} annotation {number}: image {name!r} is listed twice, first as annotation {seen[name]}"
            )
        if not 1 <= label <= len(class_names):
            raise UserError(
                f"{path} annotation {number}: class {label} is not between 1 and {len(class_names)}"
            )
        seen[name] = number
        names.append(name)
        labels.append(label - 1)
    checks.count("Stanford Cars, classes", len(class_names), CLASSES, data.check_counts)
    checks.count(f"Stanford Cars, images of split {split!r}", len(names), IMAGES[split], data.check_counts)
    checks.files_exist(root, names, path.name)
    return FileSource("Stanford Cars", split, class_names, np.asarray(labels, np.int32), names, root)


def _find(root: Path, name: str) -> Path:
    for path in (root / "devkit" / name, root / name):
        if path.is_file():
            return path
    raise UserError(
        f"{root / 'devkit' / name} is missing, and there is no {root / 'cars_annos.mat'}; needed: {_GET}"
    )


def _devkit(path: Path, split: str) -> Iterator[tuple[int, str, int]]:
    for number, entry in _annotations(path, ("fname", "class")):
        yield number, f"cars_{split}/{_text(entry['fname'])}", _integer(path, number, entry["class"])


def _single(path: Path, split: str) -> Iterator[tuple[int, str, int]]:
    for number, entry in _annotations(path, ("relative_im_path", "class", "test")):
        if bool(_integer(path, number, entry["test"])) == (split == "test"):
            yield number, _text(entry["relative_im_path"]), _integer(path, number, entry["class"])


def _annotations(path: Path, fields: tuple[str, ...]) -> Iterator[tuple[int, np.void]]:
    """(number from 1, record) of the struct array `annotations`."""
    records = np.atleast_1d(_variable(path, "annotations"))
    for field in fields:
        if field not in (records.dtype.names or ()):
            hint = " (the test list without labels cannot be used)" if field == "class" else ""
            raise UserError(f"{path}: its annotations have no field {field!r}{hint}")
    yield from enumerate(records, 1)


def _variable(path: Path, name: str) -> np.ndarray:
    try:
        content = scipy.io.loadmat(path, squeeze_me=True)
    except Exception as e:  # scipy raises many types on a damaged file
        raise UserError(
            f"{path} cannot be read as a MATLAB file ({type(e).__name__}: {e}); download it again"
        ) from None
    if name not in content:
        raise UserError(f"{path} has no variable {name!r}")
    return content[name]


def _strings(path: Path, name: str) -> tuple[str, ...]:
    return tuple(_text(v) for v in np.atleast_1d(_variable(path, name)))


def _text(value: object) -> str:
    return str(np.asarray(value).item())


def _integer(path: Path, number: int, value: object) -> int:
    try:
        return int(np.asarray(value).item())
    except (TypeError, ValueError):
        raise UserError(f"{path} annotation {number}: expected a number, found {value!r}") from None


RECORD = DatasetRecord("cars", create)
