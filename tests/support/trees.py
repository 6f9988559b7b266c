"""Makers of small data sets in the official layouts, for the readers' tests."""

from pathlib import Path

import cv2
import numpy as np
import scipy.io
import simplejpeg


def picture(seed: int = 0, height: int = 40, width: int = 48) -> np.ndarray:
    """A smooth RGB uint8 (height, width, 3), different for every seed."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def jpeg(path: Path, seed: int = 0, height: int = 40, width: int = 48) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(simplejpeg.encode_jpeg(picture(seed, height, width), quality=90))


def folder(root: Path, classes: tuple[str, ...] = ("ash", "beech", "cedar"), images: int = 10) -> Path:
    """root/<class>/<n>.jpg"""
    for c, name in enumerate(classes):
        for i in range(images):
            jpeg(root / name / f"{i:02d}.jpg", 100 * c + i)
    return root


def cub(root: Path, classes: int = 3, images: int = 4) -> Path:
    """CUB_200_2011: half of every class's images train."""
    top = root / "CUB_200_2011"
    lists: dict[str, list[str]] = {
        k: [] for k in ("images", "image_class_labels", "train_test_split", "classes")
    }
    key = 0
    for c in range(1, classes + 1):
        name = f"{c:03d}.Some_Bird_{c}"
        lists["classes"].append(f"{c} {name}")
        for i in range(images):
            key += 1
            jpeg(top / "images" / name / f"{i}.jpg", key)
            lists["images"].append(f"{key} {name}/{i}.jpg")
            lists["image_class_labels"].append(f"{key} {c}")
            lists["train_test_split"].append(f"{key} {int(i < images // 2)}")
    for name, rows in lists.items():
        (top / f"{name}.txt").write_text("\n".join(rows) + "\n")
    return top


def aircraft(root: Path) -> Path:
    """fgvc-aircraft-2013b: two images a variant and split, with a white banner of 20 rows."""
    data = root / "fgvc-aircraft-2013b" / "data"
    variants = ["707-320", "A300B4", "Cessna 172"]
    key = 0
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for rows in lists.values():
        for variant in variants:
            for _ in range(2):
                key += 1
                image = np.concatenate([picture(key), np.full((20, 48, 3), 255, np.uint8)])
                path = data / "images" / f"{key:07d}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(simplejpeg.encode_jpeg(image))
                rows.append(f"{key:07d} {variant}")
    lists["trainval"] = lists["train"] + lists["val"]
    for split, rows in lists.items():
        (data / f"images_variant_{split}.txt").write_text("\n".join(rows) + "\n")
    (data / "variants.txt").write_text("\n".join(variants) + "\n")
    return data


_CAR_BOX = [(f"bbox_{k}", "O") for k in ("x1", "y1", "x2", "y2")]


def _records(fields: list[str], rows: list[tuple]) -> np.ndarray:
    out = np.zeros((1, len(rows)), [*_CAR_BOX, *((f, "O") for f in fields)])
    for i, row in enumerate(rows):
        out[0, i] = (1, 1, 9, 9, *row)
    return out


CARS = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Audi TT 2012")


def cars(root: Path, *, labels: tuple[int, ...] = (1, 2, 3, 1), withlabels: bool = True) -> Path:
    """devkit, cars_train, cars_test; `labels` are those of the training images."""
    devkit = root / "devkit"
    devkit.mkdir(parents=True)
    names = np.array([[np.array([n]) for n in CARS]], object).reshape(1, -1)
    scipy.io.savemat(devkit / "cars_meta.mat", {"class_names": names})
    for split, own in (("train", labels), ("test", (3, 2, 1))):
        rows = [(label, f"{i:05d}.jpg") for i, label in enumerate(own, 1)]
        for label, name in rows:
            jpeg(root / f"cars_{split}" / name, label)
        fields = ["class", "fname"]
        if split == "test" and not withlabels:
            fields, rows = ["fname"], [(name,) for _, name in rows]
        name = "cars_train_annos" if split == "train" else "cars_test_annos_withlabels"
        scipy.io.savemat(devkit / f"{name}.mat", {"annotations": _records(fields, rows)})
    return root


def cars_single(root: Path) -> Path:
    """cars_annos.mat and car_ims: images 1 and 3 train, 2 and 4 test."""
    rows = [(f"car_ims/{i:06d}.jpg", 1 + i % 3, (i + 1) % 2) for i in range(1, 5)]
    for i, (name, _, _) in enumerate(rows):
        jpeg(root / name, i)
    names = np.array([[np.array([n]) for n in CARS]], object).reshape(1, -1)
    content = {"annotations": _records(["relative_im_path", "class", "test"], rows), "class_names": names}
    scipy.io.savemat(root / "cars_annos.mat", content)
    return root


REID = {"train": ((2, 3), (7, 1), (11, 6)), "query": ((1, 1), (4, 1)), "gallery": ((1, 2), (4, 3))}
"""Split → (identity, images) of the re-identification trees: 3 + 1 + 6 training images."""


def _reid(root: Path, folders: dict[str, str], name: str, own: dict[str, tuple]) -> dict[str, list[str]]:
    """Writes an image for every name that `name.format(i=identity, c=camera, n=number)` gives; split → paths."""
    paths: dict[str, list[str]] = {}
    for split, folder in folders.items():
        rows = [(i, n) for i, images in own[split] for n in range(images)]
        paths[split] = [f"{folder}/{name.format(i=i, c=1 + n % 3, n=n)}" for i, n in rows]
        for k, path in enumerate(paths[split]):
            jpeg(root / path, 31 * k + len(folder), 32, 16)
    return paths


MARKET_FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}


def market(root: Path) -> Path:
    """Market-1501-v15.09.15, with distractors (0), junk (−1) and the Thumbs.db of the real one."""
    top = root / "Market-1501-v15.09.15"
    _reid(top, MARKET_FOLDERS, "{i:04d}_c{c}s1_{n:06d}_01.jpg", REID)
    for k, name in enumerate(("0000_c1s1_000009_00.jpg", "0000_c6s2_000001_04.jpg", "-1_c3s1_000401_03.jpg")):
        jpeg(top / "bounding_box_test" / name, 70 + k, 32, 16)
    for folder in MARKET_FOLDERS.values():
        (top / folder / "Thumbs.db").write_bytes(b"no image")
    return top


def duke(root: Path) -> Path:
    """DukeMTMC-reID"""
    top = root / "DukeMTMC-reID"
    _reid(top, MARKET_FOLDERS, "{i:04d}_c{c}_f{n:07d}.jpg", REID)
    return top


def veri(root: Path, *, lists: bool = True) -> Path:
    """VeRi; `lists` says whether name_train.txt and its like are there, in another order than the names'."""
    top = root / "VeRi"
    folders = {"train": "image_train", "query": "image_query", "gallery": "image_test"}
    for split, paths in _reid(top, folders, "{i:04d}_c{c:03d}_{n:08d}_0.jpg", REID).items():
        rows = [Path(path).name for path in reversed(paths)]
        name = {"gallery": "test"}.get(split, split)
        if lists:
            (top / f"name_{name}.txt").write_text("\n".join(rows) + "\n")
    return top


MSMT = {"train": ((0, 3), (1, 1), (2, 4)), "val": ((0, 1), (2, 1)), "query": ((0, 1), (1, 1)),
        "gallery": ((0, 2), (1, 3))}  # fmt: skip


def msmt(root: Path, version: str = "V1") -> Path:
    """MSMT17_V1 or MSMT17_V2: four lists; the identities of query and gallery start at 0 again."""
    top = root / f"MSMT17_{version}"
    train, test = ("train", "test") if version == "V1" else ("mask_train_v2", "mask_test_v2")
    for number, (split, own) in enumerate(MSMT.items()):
        folder = train if split in ("train", "val") else test
        name = f"{{i:04d}}/{{i:04d}}_{number}{{n:02d}}_{{c:02d}}_0303morning_0008_0.jpg"
        paths = _reid(top, {split: folder}, name, {split: own})[split]
        inside = [path.partition("/")[2] for path in paths]
        rows = [f"{path} {int(path[:4])}" for path in inside]
        (top / f"list_{split}.txt").write_text("\n".join(rows) + "\n")
    return top


def edit(path: Path, line: int, text: str | None) -> None:
    """Replaces a line of a text file, counted from 1; None removes it."""
    rows = path.read_text().splitlines()
    rows[line - 1 : line] = [] if text is None else [text]
    path.write_text("\n".join(rows) + "\n")
