"""Named tensors of a weight file: their values, or their shapes and dtypes alone."""

import ml_dtypes
import numpy as np

FLOATS = tuple(np.dtype(kind) for kind in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64))
"""Dtypes from which parameters are read; integers, booleans, complex numbers and quantised floats are not cast."""


def hollow(shape: tuple[int, ...], dtype: np.dtype | type = np.float32) -> np.ndarray:
    """A tensor without values: a read-only array of this shape and dtype that occupies one element."""
    return np.broadcast_to(np.zeros((), dtype), shape)
