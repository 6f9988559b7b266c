"""A data set of one's own: coloured squares, drawn when they are read."""

from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from fusionjax import register
from fusionjax.errors import UserError

COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 50, 40)}
SIZES = {"train": 48, "test": 24}


class Squares:
    """See `fusionjax.data.source.Source`.

    Args:
        split: "train" or "test".
        seed: of the noise.
    """

    name, class_names = "coloured squares", tuple(COLOURS)

    def __init__(self, split: str, seed: int):
        self.split, self._seed = split, seed
        self._labels = np.arange(SIZES[split], dtype=np.int32) % len(COLOURS)

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def labels(self) -> np.ndarray:
        return self._labels

    @property
    def names(self) -> Sequence[str]:
        return [f"{self.split}/{i}" for i in range(len(self))]

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        return {"caption": np.asarray([f"a {self.class_names[k]} square" for k in self._labels])}

    def load(self, i: int) -> np.ndarray:
        """RGB uint8 (40, 40, 3)."""
        noise = np.random.default_rng([self._seed, i, len(self)]).integers(0, 60, (40, 40, 3))
        noise[10:30, 10:30] += np.array(list(COLOURS.values())[self._labels[i]]) - 60
        return noise.clip(0, 255).astype(np.uint8)


@register.dataset("squares", reads=())
def create(data: ConfigDict, split: str, *, seed: int) -> Squares:
    """Opens a split; `data` is `config.data`."""
    if split not in SIZES:
        raise UserError(f"config.data.source='squares' has the splits {', '.join(SIZES)}, not {split!r}")
    return Squares(split, seed)
