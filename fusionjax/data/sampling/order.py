"""Which example comes when: a function of the seed and the position, and of nothing else."""

import threading

import numpy as np

from fusionjax.errors import UserError

_STREAM = 0x0D3  # keeps these draws apart from others that start from the same seed
_KEPT = 3  # prefetching threads are at most in two epochs at a time, save where an epoch is tiny


class Order:
    """An endless sequence of epochs, each a fresh permutation of all N examples.

    Positions count on across epochs, so that a batch may end one epoch and begin the next: every example
    comes exactly once an epoch, none is dropped, and a data set may be smaller than a batch. Safe to use
    from many threads.

    Args:
        size: N.
        seed: of the permutations.
    """

    def __init__(self, size: int, seed: int):
        if size < 1:
            raise UserError("a data set without examples cannot be iterated over")
        self.size = size
        self.seed = seed
        self._lock = threading.Lock()
        self._permutations: dict[int, np.ndarray] = {}

    def at(self, position: int) -> tuple[int, int]:
        """Position 0, 1, … → (epoch, index)."""
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
    """Batches that hold one epoch's examples, N / B; often no whole number, for batches straddle epochs."""
    return size / batch_size


def total_steps(size: int, batch_size: int, epochs: float) -> int:
    """Whole batches in a number of epochs, rounded to the nearest, at least 1."""
    return max(1, round(epochs * size / batch_size))


def local_batch_size(batch_size: int, process_index: int, process_count: int) -> int:
    """A process's share of a batch. Raises UserError where the processes cannot share it evenly."""
    if process_count < 1 or not 0 <= process_index < process_count:
        raise UserError(f"process {process_index} of {process_count} is not possible")
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"batch size {batch_size} is not a multiple of the {process_count} processes that share it"
        )
    return batch_size // process_count
