"""Values that a file declares to be no data, by the tag of GDAL: which they are, what replaces them, how many they are."""

import threading

import numpy as np

from fusionjax.data.unreadable import DecodeError

TAG = 42113
"""GDAL_NODATA, an ASCII number."""


def mask(image: np.ndarray, declared: str | None) -> np.ndarray | None:
    """Which values of an image are no data.

    Args:
        image: integers or floating point.
        declared: content of the tag; None where there is none.

    Returns:
        bool, of the shape of `image`; None where all values are data.
    """
    try:
        value = float(str(declared).strip(" \0"))
    except ValueError:
        return None
    if image.dtype.kind == "f":
        if np.isfinite(value):  # rounded as the values were; GDAL's default is the lowest float64
            limits = np.finfo(image.dtype)
            value = float(image.dtype.type(np.clip(value, limits.min, limits.max)))
        found = np.isnan(image) if np.isnan(value) else image == value
    else:
        found = image == value
    return found if found.any() else None


def fill(image: np.ndarray, hidden: np.ndarray, how: str) -> np.ndarray:
    """Replaces values that are no data.

    Args:
        image: (h, w, C).
        hidden: bool (h, w, C), which values are no data.
        how: `config.data.nodata`: "mean", of the other values of the channel in this image, or a number.

    Returns:
        A new array of the dtype of `image`; integers are rounded.

    Raises:
        DecodeError: a channel without a value, whose mean is not defined; a number that does not fit the dtype.
    """
    out = image.copy()
    for channel in np.flatnonzero(hidden.any(axis=(0, 1))).tolist():
        holes = hidden[..., channel]
        if how == "mean" and holes.all():
            raise DecodeError(
                f"channel {channel} holds no data at all: config.data.nodata takes a number to fill it with"
            )
        value = image[..., channel][~holes].mean(dtype=np.float64) if how == "mean" else float(how)
        if image.dtype.kind in "iu":
            limits = np.iinfo(image.dtype)
            value = round(value)
            if not limits.min <= value <= limits.max:
                raise DecodeError(f"config.data.nodata={how!r} is not possible in {image.dtype.name}")
        out[..., channel][holes] = value
    return out


class Record:
    """How much of the images of a source is no data. Thread-safe; an image that is read again counts once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shares: dict[int, float] = {}

    def add(self, index: int, hidden: np.ndarray) -> None:
        """Adds an image.

        Args:
            index: position of the example.
            hidden: bool, which of its values are no data.
        """
        with self._lock:
            self._shares[index] = float(hidden.mean())

    def count(self) -> tuple[int, float]:
        """The number of images with values that are no data, and the mean share of these values in those images."""
        with self._lock:
            return len(self._shares), sum(self._shares.values()) / max(len(self._shares), 1)
