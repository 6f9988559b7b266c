"""OpenMoji as images of six channels: the colour drawing of an emoji, then the black lines of the same drawing.

The two represent two spectral modalities: they show the same object at the same position, so matching one with the other can
be learned and measured without external data. The splits are those of `datasets.openmoji`: by identity, so that no emoji and
no drawing of the test set is in training. At fractions 0.7, 0.1, 0.2:

    train 1,328 identities, about 2,600 examples: every skin tone (2,573 at seed 0); "train_base": one per identity
    val     190 identities, one example each
    test    380 identities, one example each, the base drawing

Many line drawings are identical: of the 380 at seed 0, 321 differ, because 50 flags have the same empty frame. No encoder can
find more than 321 of 380 (0.845) by identity at rank 1, in either direction; `channels.duplicate_groups` gives the duplicate
groups.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from fusionjax.data.datasets import openmoji
from fusionjax.data.multispectral.channels import ChannelMap
from fusionjax.register import DatasetRecord

CHANNELS = ChannelMap(
    ("red", "green", "blue", "line_red", "line_green", "line_blue"),
    (("color", (0, 1, 2)), ("line", (3, 4, 5))),
)


class OpenMojiPair:
    """A split of pairs; see `Source`. Columns: identity, group (int64), tone, caption (str objects).

    Attributes:
        channels: `CHANNELS`.
        image_shape: (S, S, 6).
        dtype: uint8.
    """

    name = "OpenMoji pairs"
    channels = CHANNELS
    dtype = np.dtype(np.uint8)

    def __init__(
        self, split: str, class_names: tuple[str, ...], drawings: Sequence[openmoji.Drawing], size: int
    ):
        self._both = openmoji.OpenMojiSource(
            split, class_names, [(d, r) for d in drawings for r in openmoji.RENDERINGS], size
        )
        self.split, self.class_names = split, class_names
        self.image_shape = (size, size, 6)
        self.labels = self._both.labels[::2]
        self.names = [d.code for d in drawings]
        self.columns: Mapping[str, np.ndarray] = {
            key: self._both.columns[key][::2] for key in ("identity", "group", "tone", "caption")
        }

    def __len__(self) -> int:
        return len(self.names)

    def file(self, i: int) -> Path:
        """The SVG file of both drawings of example `i`."""
        return self._both.file(2 * i)

    def load(self, i: int) -> np.ndarray:
        """uint8 (S, S, 6): red, green and blue of the colour drawing, then of its lines; on white."""
        return np.concatenate([self._both.load(2 * i), self._both.load(2 * i + 1)], axis=-1)


def create(data: ConfigDict, split: str, *, seed: int) -> OpenMojiPair:
    """One split of OpenMoji as pairs.

    Args:
        data: `config.data`; `resize` (S), `fractions` and `check_counts` are read. The channels are always `CHANNELS`.
        split, seed: as for `openmoji.create`.

    Returns:
        OpenMojiPair, one example per drawing, in the order of the code points.

    Raises:
        UserError: a package is missing or incomplete, an unknown split.
    """
    class_names, drawings = openmoji.select(data, split, seed=seed)
    return OpenMojiPair(split, class_names, drawings, data.resize)


RECORD = DatasetRecord("openmoji_pair", create, reads=("fractions", "resize"), licence="CC BY-SA 4.0")
