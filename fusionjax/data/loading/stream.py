"""Examples in order → batches, read ahead by grain's threads: one stream resumes, one ends."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import grain
import numpy as np

from fusionjax.data.sampling import order
from fusionjax.errors import UserError

Example = dict[str, np.ndarray]


class SampledOrder(Protocol):
    """An order other than `order.Order`, in which examples may repeat, e.g. `samplers.IdentityOrder`.

    Attributes:
        size: positions an epoch.
        parameters: what a checkpoint must agree in, by name; JSON-serialisable.
    """

    size: int
    parameters: Mapping[str, int]

    def at(self, position: int) -> tuple[int, int]:
        """Position → (epoch, index); called from threads."""
        ...

    def repeat(self, position: int) -> int:
        """How often the epoch had the example of this position before."""
        ...

    def check(self, *, examples: int, batch_size: int, local: int) -> None:
        """Raises a UserError for a data set, a batch or a process's share of it that does not fit."""
        ...


class TrainStream:
    """Endless batches in the order of `order.Order`, or in one that is given.

    In process p of P, batch t holds rows p·B/P … (p + 1)·B/P of the batch that a single process would get.

    Args:
        read: (epoch, index) → one example; called from threads, must be a function of its arguments.
        size: examples N.
        seed: of the order.
        batch_size: B, of all processes together.
        process_index, process_count: p and P.
        threads: that read.
        prefetch: examples read ahead.
        check: called before each batch is handed out; may raise.
        sampled: the order; None for `order.Order(size, seed)`. With it, `read` takes as its third argument how
            often the epoch had the example before.

    Attributes:
        epoch_size: positions an epoch, N unless the order is another.

    Raises:
        UserError: no examples, a batch that the processes cannot share, or one that does not fit the order.
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
            self._at, self.epoch_size = plain.at, plain.size
        else:
            sampled.check(examples=size, batch_size=batch_size, local=self._local)
            self._at, self.epoch_size = lambda i: (*sampled.at(i), sampled.repeat(i)), sampled.size
            self._identity |= sampled.parameters
        self._share = process_index
        self._read, self._check = read, check
        self._options = _options(threads, prefetch)
        self._batches = 0
        self._inner: Any = None

    def __iter__(self) -> "TrainStream":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if self._inner is None:
            self._inner = _batches(self._examples(self._batches), self._local, self._options)
        batch = next(self._inner)
        self._check()
        self._batches += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """Where the stream stands, for a checkpoint: JSON-serialisable, the same in all processes.

        It counts what was handed out; what is read ahead is read again. It holds for any number of processes.
        """
        return {"batches": self._batches, **self._identity}

    def set_state(self, state: dict[str, int]) -> None:
        """Continues where `get_state` was taken.

        Raises:
            UserError: the state is of another data set, seed, batch size or order, in which the position means
            something else.
        """
        for key in dict.fromkeys((*self._identity, *state)):
            theirs, mine = state.get(key), self._identity.get(key)
            if theirs != mine and key != "batches":
                raise UserError(
                    f"the checkpoint's data order has {key}={theirs}, this run has {mine}; the "
                    "data set and the config must be those that the run began with"
                )
        self.close()
        self._batches = int(state["batches"])

    def close(self) -> None:
        """Stops the reading threads. The stream can go on afterwards."""
        if self._inner is not None:
            self._inner.close()
            self._inner = None

    def _examples(self, first: int) -> "_Positions":
        local, share, whole = self._local, self._share, self._identity["batch_size"]

        def at(i: int) -> Example:
            batch, row = divmod(i, local)
            return self._read(*self._at((first + batch) * whole + share * local + row))

        return _Positions(at, _ENDLESS)


class FiniteBatches:
    """Every example once, in order of index; can be iterated over again and again.

    The last batch is filled with `padding`, and every process gets the same number of batches; the rows of a
    process are those of `TrainStream`.

    Args:
        read: index → one example; called from threads.
        padding: the example that stands for none.
        size, batch_size, process_index, process_count, threads, prefetch, check: as in `TrainStream`; 0
            examples give no batch.
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

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
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
    """A function of the position as grain's random access source."""

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


def _batches(source: _Positions, size: int, options: grain.ReadOptions) -> Any:
    return iter(grain.MapDataset.source(source).to_iter_dataset(options).batch(size))
