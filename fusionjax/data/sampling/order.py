"""The order of the examples: a function of the seed and the position alone."""

import threading

import numpy as np

from fusionjax.errors import UserError

_STREAM = 0x0D3  # keeps these draws apart from others that start from the same seed
_KEPT = 3  # epochs; prefetching threads are in at most two at a time, unless an epoch is tiny


class Order:
    """An endless sequence of epochs, each a fresh permutation of all N examples.

    Positions count on across epochs, so a batch may end one epoch and begin the next: every example occurs exactly once per
    epoch, none is dropped, and a data set may be smaller than a batch. Thread-safe.

    Args:
        size: number of examples N.
        seed: seed of the permutations.

    Raises:
        UserError: no examples.
    """

    def __init__(self, size: int, seed: int):
        if size < 1:
            raise UserError("a data set without examples cannot be iterated over")
        self.size = size
        self.seed = seed
        self._lock = threading.Lock()
        self._permutations: dict[int, np.ndarray] = {}

    def at(self, position: int) -> tuple[int, int]:
        """Position 0, 1, … → (epoch, index of the example)."""
        epoch, offset = divmod(position, self.size)
        with self._lock:
            permutation = self._permutations.get(epoch)
            if permutation is None:
                permutation = np.random.default_rng([_STREAM, self.seed, epoch]).permutation(self.size)
                while len(self._permutations) >= _KEPT:
                    del self._permutations[next(iter(self._permutations))]
                self._permutations[epoch] = permutation
        return epoch, int(permutation[offset])


def steps_per_epoch(size: int, batch_size: int) -> float:
    """The number of batches per epoch, N / B; in general not an integer, because batches cross the boundary of epochs."""
    return size / batch_size


def total_steps(size: int, batch_size: int, epochs: float) -> int:
    """The number of whole batches in `epochs` epochs, rounded to the nearest integer, at least 1."""
    return max(1, round(epochs * size / batch_size))


def local_batch_size(batch_size: int, process_index: int, process_count: int) -> int:
    """The rows of a batch per process, B / process_count.

    Raises:
        UserError: B is not a multiple of the number of processes, or the index is out of range.
    """
    if process_count < 1 or not 0 <= process_index < process_count:
        raise UserError(f"process {process_index} of {process_count} is not possible")
    if batch_size < 1 or batch_size % process_count:
        raise UserError(f"batch size {batch_size} is not a multiple of the {process_count} processes")
    return batch_size // process_count
