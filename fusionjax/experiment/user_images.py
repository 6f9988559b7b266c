"""Images as a user names them: files, folders, patterns, bytes, open files, arrays, PIL pictures, one or many."""

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusionjax.data.datasets import checks, listing
from fusionjax.data.image import grey
from fusionjax.data.image.decode import decode
from fusionjax.data.unreadable import why_unreadable
from fusionjax.errors import UserError

Image = str | Path | bytes | np.ndarray
"""A file, encoded bytes, or uint8 RGB (h, w, 3); wherever images are taken, a PIL picture too."""


@dataclass(frozen=True)
class NamedImage:
    """An image that is not read yet.

    Attributes:
        name: the file's, or "image <n>" for one in memory.
        content: what `decode` takes.
    """

    name: str
    content: Image

    def read(self, max_pixels: int, value_range: tuple[float, ...]) -> tuple[np.ndarray | None, str]:
        """RGB uint8 (h, w, 3) and "", or None and why it cannot be read."""
        try:
            return decode(self.content, max_pixels, value_range), ""
        except Exception as e:
            return None, why_unreadable(e, self.name)


def named(images: Any) -> list[NamedImage]:
    """The images that an argument stands for, in its order.

    Args:
        images: one of, or a sequence of: the name of a file (a string is never taken apart into letters), of a folder (all
            images below it, sorted), a pattern such as `photos/*.jpg` where no such file exists; encoded bytes, or an open
            file of them; a PIL picture; an array (h, w, 3) or (h, w), uint8, of NumPy, JAX or what converts to NumPy's. An
            array with four axes is several images, an array of names with one axis is several names.

    Raises:
        UserError: a folder without images, a pattern without matches, or something that is no image.
    """
    images = _as_numpy(images)
    one = isinstance(images, str | os.PathLike | bytes | bytearray | memoryview) or _is_picture(images)
    if isinstance(images, np.ndarray):
        several = images.ndim == 4 or (images.ndim == 1 and images.dtype.kind in "OU")
        images, one = (list(images), False) if several else (images, True)
    if not one and not isinstance(images, Iterable):
        raise UserError(
            f"{type(images).__name__} is no image: give a file, a folder, bytes, an array or a PIL picture"
        )
    found: list[NamedImage] = []
    for image in [images] if one else images:
        found.extend(_expanded(image, len(found) + 1))
    return found


def _is_picture(image: Any) -> bool:
    """Whether it is a PIL picture, told without importing PIL, or an open file, over whose lines nobody wants to iterate."""
    return hasattr(image, "convert") or hasattr(image, "read")


def _as_numpy(image: Any) -> Any:
    """An array of another library, such as JAX, as NumPy's; anything else as it is."""
    if isinstance(image, np.ndarray) or not hasattr(image, "__array__") or _is_picture(image):
        return image
    array = np.asarray(image)
    return image if array.dtype.kind in "OU" else array  # a column of names, as pandas has it, is a sequence


def _expanded(image: Any, number: int) -> Sequence[NamedImage]:
    image = _as_numpy(image)
    if isinstance(image, str | os.PathLike):
        return [NamedImage(name, name) for name in _files(os.fspath(image))]
    if hasattr(image, "convert"):  # PIL's class, without importing it
        try:
            image = _pixels(image)
        except Exception as e:  # a picture that was closed, or whose file ends early
            raise UserError(
                f"image {number} cannot be read: {why_unreadable(e, f'image {number}')}"
            ) from None
    if hasattr(image, "read"):
        image = image.read()
    if isinstance(image, bytes | bytearray | memoryview | np.ndarray):
        return [NamedImage(f"image {number}", image if isinstance(image, np.ndarray) else bytes(image))]
    raise UserError(
        f"image {number} is {type(image).__name__}: give a file, a folder, bytes, an array or a PIL picture"
    )


def _pixels(picture: Any) -> np.ndarray:
    """A PIL picture as the same picture in a file would be read."""
    if picture.mode in grey.DEEP:
        return grey.read(picture)
    keeps = picture.mode in ("L", "RGB", "RGBA")
    return np.asarray(
        picture if keeps else picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    )


def _files(name: str) -> list[str]:
    name = name if os.path.lexists(name) else os.path.expanduser(name)
    if os.path.isdir(name):  # of os.path, for which a name that is too long is no folder
        path = Path(name)
        inside = listing.files_below(path, "", checks.IMAGE_SUFFIXES)
        if not inside:
            raise UserError(f"the folder {name} has no images ({', '.join(checks.IMAGE_SUFFIXES)})")
        return [str(path / file) for file in inside]
    if os.path.lexists(name) or not glob.has_magic(name):
        return [name]
    matches = sorted(m for m in glob.glob(name, recursive=True) if not os.path.isdir(m))
    if not matches:
        raise UserError(f"no file matches {name!r}")
    return matches
