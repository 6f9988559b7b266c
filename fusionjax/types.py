"""Types, dimension names and batch keys that the whole package shares.

Dimension glossary, used in every docstring:

    B batch      N tokens      D width       H heads     d = D / H      L layers      C classes or channels
    h, w  rows and columns of a token grid   R share of tokens that GLCA selects      k = floor(R · (N − 1))

Batch keys (host side NumPy, device side jax.Array; the leading axis is always B):

    image     uint8   (B, h, w, 3)   RGB; normalised on the device by the task
    features  float   (B, h, w, C)   the output of a frozen backbone, in place of `image`
    label     int32   (B,)           class index; 0 where `valid` is 0
    valid     float32 (B,)           1 for a real example, 0 for a padding example or an image that could not be decoded
    index     int32   (B,)           position of the example in its source; −1 for a padding example
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import numpy as np

if TYPE_CHECKING:
    Array: TypeAlias = jax.Array
else:  # what the shape checks of the tests accept: functions of jax.numpy take NumPy's arrays as well
    Array = jax.Array | np.ndarray
Batch: TypeAlias = Mapping[str, jax.Array | np.ndarray]
PyTree: TypeAlias = Any
Aux: TypeAlias = dict[str, Any]
"""What a model returns beside its output: name → array, or a dict of arrays by branch or modality."""
Metrics: TypeAlias = Mapping[str, Any]
"""name → clu.metrics.Average, a (sum, count); the value is sum / count, taken once, at the end."""

SAMPLE_RATE = 16_000
"""Hz: every audio file is resampled to this rate, the input rate of every audio encoder."""
