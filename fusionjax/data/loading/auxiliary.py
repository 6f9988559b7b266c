"""Auxiliary inputs: the text, audio or second image that belongs to an example beside its image."""

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from fusionjax.data.loading.stream import Example


class Extra(Protocol):
    """Auxiliary inputs of the examples of a source, added to each row by the reading threads.

    Attributes:
        padding: the auxiliary inputs of a padding example; every `row` has the same names, shapes and dtypes.
    """

    padding: Mapping[str, np.ndarray]

    def row(self, index: int, epoch: int | None, repeat: int = 0) -> Example:
        """The auxiliary inputs of one example; a pure function of its arguments.

        Args:
            index: position of the example in its source.
            epoch: training epoch, from 0; None at evaluation, where nothing is random.
            repeat: how often the example occurred earlier in the epoch.

        Returns:
            name → array, with the names, shapes and dtypes of `padding`. An additional entry "valid" with value 0 excludes the
            example from loss and metrics.
        """
        ...


class Rows:
    """An `Extra` that gives each example one row of some arrays.

    Args:
        choose: (index of the example, epoch or None at evaluation) → row, 0 to M − 1.
        **arrays: batch key → (M, ...).
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
        *parts: their names must differ.
    """

    def __init__(self, *parts: Extra):
        self._parts = parts
        self.padding = {k: v for part in parts for k, v in part.padding.items()}

    def row(self, index: int, epoch: int | None, repeat: int = 0) -> Example:
        """See `Extra`."""
        return {k: v for part in self._parts for k, v in part.row(index, epoch, repeat).items()}


def joined(example: Example, extra: Extra | None, epoch: int | None, repeat: int = 0) -> Example:
    """Adds the auxiliary inputs to an example.

    Args:
        example: a row with `index`, `label` and `valid`; a negative index marks a padding example.
        extra: the auxiliary inputs; None for none.
        epoch, repeat: as for `Extra.row`.

    Returns:
        The row with the further arrays; `valid` and `label` are 0 where the auxiliary inputs are not valid.
    """
    if extra is None:
        return example
    index = int(example["index"])
    found = dict(extra.row(index, epoch, repeat) if index >= 0 else extra.padding)
    valid = np.float32(float(example["valid"]) * float(found.pop("valid", 1.0)))
    return example | found | {"valid": valid, "label": np.int32(example["label"] if valid else 0)}
