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


def edit(path: Path, line: int, text: str | None) -> None:
    """Replaces a line of a text file, counted from 1; None removes it."""
    rows = path.read_text().splitlines()
    rows[line - 1 : line] = [] if text is None else [text]
    path.write_text("\n".join(rows) + "\n")
