"""What travels beside an image: the words, the sound or the second picture of the same example."""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from fusionjax.data.loading.stream import Example


class Extra(Protocol):
    """Further arrays of an example, joined to its row by the index, in the threads that read.

    Attributes:
        padding: what a row that stands for no example has; the names, shapes and dtypes of every `row`.
    """

    padding: Example

    def row(self, index: int, epoch: int | None, repeat: int = 0) -> Example:
        """Of one example; a function of its arguments.

        Args:
            index: of the example in its source.
            epoch: of training, from 0; None at test, where nothing is drawn.
            repeat: how often the epoch had the example before.

        Returns:
            As `padding`. A further "valid" 0 takes the example out of loss and scores.
        """
        ...


class Rows:
    """An `Extra` that is a row of some arrays, chosen for each example.

    Args:
        choose: (index, epoch) → row; epoch None at test.
        **arrays: (M, ...) each; their names are the batch keys.
    """

    def __init__(self, choose: Callable[[int, int | None], int], **arrays: np.ndarray):
        self._choose, self._arrays = choose, arrays
        self.padding = {name: np.zeros_like(array[0]) for name, array in arrays.items()}

    def row(self, index: int, epoch: int | None, repeat: int = 0) -> Example:
        """See `Extra`."""
        i = self._choose(index, epoch)
        return {name: array[i] for name, array in self._arrays.items()}


class Both:
    """Several `Extra`s as one.

    Args:
        *parts: with different names.
    """

    def __init__(self, *parts: Extra):
        self._parts = parts
        self.padding = {k: v for part in parts for k, v in part.padding.items()}

    def row(self, index: int, epoch: int | None, repeat: int = 0) -> Example:
        """See `Extra`."""
        return {k: v for part in self._parts for k, v in part.row(index, epoch, repeat).items()}


def joined(example: Example, extra: Extra | None, epoch: int | None, repeat: int = 0) -> Example:
    """The example with what stands beside it."""
    if extra is None:
        return example
    index = int(example["index"])
    found = dict(extra.row(index, epoch, repeat) if index >= 0 else extra.padding)
    valid = np.float32(example["valid"] * found.pop("valid", 1.0))
    return example | found | {"valid": valid, "label": np.int32(example["label"] if valid else 0)}
