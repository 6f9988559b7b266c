"""Auxiliary inputs: the text, audio or second image that belongs to an example beside its image."""

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from fusionjax.data.loading.stream import Example


class Auxiliary(Protocol):
    """Auxiliary inputs of the examples of a source, added to each row by the reading threads.

    Attributes:
        padding_example: the auxiliary inputs of a padding example; every `row` has the same names, shapes and dtypes.
    """

    @property
    def padding_example(self) -> Mapping[str, np.ndarray]: ...

    def row(self, index: int, epoch: int | None, repeat: int = 0) -> Example:
        """The auxiliary inputs of one example; a pure function of its arguments.

        Args:
            index: position of the example in its source.
            epoch: training epoch, from 0; None at evaluation, where nothing is random.
            repeat: how often the example occurred earlier in the epoch.

        Returns:
            name → array, with the names, shapes and dtypes of `padding_example`. An additional entry "valid" with value 0
            excludes the example from loss and metrics.
        """
        ...


class RowArray(Protocol):
    """An array (M, ...) read row by row: `np.ndarray`, a memory map, or `vqa.questions.Scores`."""

    def __getitem__(self, key: int, /) -> np.ndarray: ...


class AuxiliaryRows:
    """An `Auxiliary` that gives each example one row of some arrays.

    Args:
        choose: (index of the example, epoch or None at evaluation) → row, 0 to M − 1.
        **arrays: batch key → (M, ...).
    """

    def __init__(self, choose: Callable[[int, int | None], int], **arrays: RowArray):
        self._choose, self._arrays = choose, arrays
        self.padding_example = {name: np.zeros_like(array[0]) for name, array in arrays.items()}

    def row(self, index: int, epoch: int | None, repeat: int = 0) -> Example:
        """See `Auxiliary`."""
        i = self._choose(index, epoch)
        return {name: array[i] for name, array in self._arrays.items()}


class AuxiliaryGroup:
    """Several `Auxiliary`s as one.

    Args:
        *parts: their names must differ.
    """

    def __init__(self, *parts: Auxiliary):
        self._parts = parts
        self.padding_example = {k: v for part in parts for k, v in part.padding_example.items()}

    def row(self, index: int, epoch: int | None, repeat: int = 0) -> Example:
        """See `Auxiliary`."""
        return {k: v for part in self._parts for k, v in part.row(index, epoch, repeat).items()}


class AuxiliaryAt:
    """An `Auxiliary` of some chosen examples: row k is that of index[k].

    Args:
        auxiliary: of all examples.
        index: (M,) integers.
    """

    def __init__(self, auxiliary: Auxiliary, index: np.ndarray):
        self._auxiliary, self._index, self.padding_example = auxiliary, index, auxiliary.padding_example

    def row(self, index: int, epoch: int | None, repeat: int = 0) -> Example:
        """See `Auxiliary`."""
        return self._auxiliary.row(int(self._index[index]), epoch, repeat)


def with_auxiliary(
    example: Example, auxiliary: Auxiliary | None, epoch: int | None, repeat: int = 0
) -> Example:
    """Adds the auxiliary inputs to an example.

    Args:
        example: a row with `index`, `label` and `valid`; a negative index marks a padding example.
        auxiliary: the auxiliary inputs; None for none.
        epoch, repeat: as for `Auxiliary.row`.

    Returns:
        The row with the further arrays; `valid` and `label` are 0 where the auxiliary inputs are not valid.
    """
    if auxiliary is None:
        return example
    index = int(example["index"])
    found = dict(auxiliary.row(index, epoch, repeat) if index >= 0 else auxiliary.padding_example)
    valid = np.float32(float(example["valid"]) * float(found.pop("valid", 1.0)))
    return example | found | {"valid": valid, "label": np.int32(example["label"] if valid else 0)}
