"""Examples in order → batches, prefetched by grain's threads: an endless stream that can resume, and a finite one."""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import grain
import numpy as np

from fusionjax.data.sampling import order
from fusionjax.errors import UserError

Example = dict[str, np.ndarray | np.generic]
"""One row of a batch: batch key → array without the leading axis, or a NumPy scalar."""
HostBatch = dict[str, np.ndarray]
"""Batch key → array of this process's rows; see `fusionjax.types` for the keys."""


class SampledOrder(Protocol):
    """An order other than `order.Order`, in which examples may repeat, e.g. `identity_batches.IdentityOrder`.

    Attributes:
        size: positions per epoch.
        parameters: name → value that must be equal in a checkpoint to resume from it; JSON-serialisable.
    """

    size: int
    parameters: Mapping[str, int]

    def at(self, position: int) -> tuple[int, int]:
        """Position → (epoch, index of the example); called from several threads."""
        ...

    def repeat(self, position: int) -> int:
        """How often the example at this position occurred earlier in its epoch."""
        ...

    def check(self, *, examples: int, batch_size: int, local: int) -> None:
        """Raises UserError where the order does not fit.

        Args:
            examples: number of examples N of the data set.
            batch_size: B, over all processes.
            local: rows of a batch per process.
        """
        ...


class TrainStream:
    """Endless training batches, in the order of `order.Order` or in a given one.

    In process p of P, batch t holds rows p·B/P … (p + 1)·B/P of the batch that a single process would get.

    Args:
        read: (epoch, index) → one example; called from several threads, must be a pure function of its arguments.
        size: number of examples N.
        seed: seed of the order.
        batch_size: B, over all processes.
        process_index, process_count: p and P.
        threads: number of reading threads.
        prefetch: number of examples read ahead.
        check: called before each batch is returned; may raise.
        sampled: the order; None for `order.Order(size, seed)`. With a given order, `read` takes as its third argument how
            often the example occurred earlier in the epoch.

    Attributes:
        epoch_size: positions per epoch; N unless the given order has another number.

    Raises:
        UserError: no examples, B is not a multiple of P, or the batch does not fit the order.
    """

    def __init__(
        self,
        read: Callable[..., Example],
        *,
        size: int,
        seed: int,
        batch_size: int,
        process_index: int = 0,
        process_count: int = 1,
        threads: int = 8,
        prefetch: int = 64,
        check: Callable[[], None] = lambda: None,
        sampled: SampledOrder | None = None,
    ):
        self._local = order.local_batch_size(batch_size, process_index, process_count)
        self._identity = {"examples": size, "seed": seed, "batch_size": batch_size}
        if sampled is None:
            plain = order.Order(size, seed)
            self._arguments: Callable[[int], tuple[int, ...]] = plain.at
            self.epoch_size = plain.size
        else:
            sampled.check(examples=size, batch_size=batch_size, local=self._local)
            self._arguments = lambda i: (*sampled.at(i), sampled.repeat(i))
            self.epoch_size = sampled.size
            self._identity |= sampled.parameters
        self._share = process_index
        self._read, self._check = read, check
        self._options = _options(threads, prefetch)
        self._batches = 0
        self._inner: grain.DatasetIterator | None = None

    def __iter__(self) -> "TrainStream":
        return self

    def __next__(self) -> HostBatch:
        if self._inner is None:
            self._inner = _batches(self._examples(self._batches), self._local, self._options)
        batch = next(self._inner)
        self._check()
        self._batches += 1
        return batch

    def get_state(self, batches: int | None = None) -> dict[str, int]:
        """The position in the stream, for a checkpoint.

        Args:
            batches: number of batches before the position; None for those returned so far.

        Returns:
            JSON-serialisable, equal in all processes, and valid for any number of processes. Only returned batches count:
            examples that were read ahead are read again after resuming.
        """
        return {"batches": self._batches if batches is None else batches, **self._identity}

    def set_state(self, state: dict[str, int]) -> None:
        """Continues from a position.

        Args:
            state: from `get_state`.

        Raises:
            UserError: the state is of another data set, seed, batch size or order.
        """
        for key in dict.fromkeys((*self._identity, *state)):
            theirs, mine = state.get(key), self._identity.get(key)
            if theirs != mine and key != "batches":
                raise UserError(
                    f"the checkpoint's data order has {key}={theirs}, this run has {mine}; the "
                    "data set and the config must be those that the run was started with"
                )
        self.close()
        self._batches = int(state["batches"])

    def close(self) -> None:
        """Stops the reading threads. Iteration can continue afterwards."""
        if self._inner is not None:
            self._inner.close()
            self._inner = None

    def _examples(self, first: int) -> "_Positions":
        local, share, batch_size = self._local, self._share, self._identity["batch_size"]

        def at(i: int) -> Example:
            batch, row = divmod(i, local)
            return self._read(*self._arguments((first + batch) * batch_size + share * local + row))

        return _Positions(at, _ENDLESS)


class FiniteBatches:
    """Every example once, in the order of the indices; can be iterated over repeatedly.

    The last batch is filled up with padding examples, so that every process gets the same number of batches. The rows of a
    process are chosen as in `TrainStream`.

    Args:
        read: index → one example; called from several threads.
        padding: the padding example.
        size, batch_size, process_index, process_count, threads, prefetch, check: as for `TrainStream`; `size` 0 gives no
            batch.
    """

    def __init__(
        self,
        read: Callable[[int], Example],
        padding: Example,
        *,
        size: int,
        batch_size: int,
        process_index: int = 0,
        process_count: int = 1,
        threads: int = 8,
        prefetch: int = 64,
        check: Callable[[], None] = lambda: None,
    ):
        self._local = order.local_batch_size(batch_size, process_index, process_count)
        self._share, self._batch_size, self._size = process_index, batch_size, size
        self._read, self._padding, self._check = read, padding, check
        self._options = _options(threads, prefetch)

    def __len__(self) -> int:
        return -(-self._size // self._batch_size)

    def __iter__(self) -> Iterator[HostBatch]:
        if not self._size:
            return
        inner = _batches(_Positions(self._at, len(self) * self._local), self._local, self._options)
        try:
            for batch in inner:
                self._check()
                yield batch
        finally:
            inner.close()

    def _at(self, i: int) -> Example:
        batch, row = divmod(i, self._local)
        position = batch * self._batch_size + self._share * self._local + row
        return self._read(position) if position < self._size else self._padding


_ENDLESS = 2**62


class _Positions:
    """A random-access source for grain whose elements are a function of the position."""

    def __init__(self, at: Callable[[int], Example], length: int):
        self._at, self._length = at, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> Example:
        return self._at(int(i))

    def __repr__(self) -> str:
        return f"_Positions({self._length})"


def _options(threads: int, prefetch: int) -> grain.ReadOptions:
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, threads))


def _batches(source: _Positions, size: int, options: grain.ReadOptions) -> grain.DatasetIterator:
    return iter(grain.MapDataset.source(source).to_iter_dataset(options).batch(size))
