"""P×K batches for metric learning: P identities with K images each."""

import threading
import zlib
from collections.abc import Iterator, Mapping

import numpy as np

from fusionjax.errors import UserError

_STREAM = 0x1D5  # keeps these draws apart from others that start from the same seed
_KEPT = 3  # epochs; see `order.Order`


class IdentityOrder:
    """An endless sequence of epochs in which every P·K consecutive positions hold P identities with K images each.

    Positions count on across epochs, as in `order.Order`; the example at a position is a function of (seed, epoch, position)
    alone. All epochs have the same whole number of batches. A batch holds P different identities, one after the other, K
    images each. In an epoch

    - an identity with n images gives max(1, ⌊n / K⌋) groups of K, drawn again in each epoch; the remaining n mod K images are
    not used in
      this epoch (as in Luo et al., "Bag of Tricks", 2019, and TransReID);
    - an identity with fewer than K images gives all of them, and repeats some, drawn with replacement;
    - the number of batches is the largest that needs fewer than P additional groups. These come from identities that are
      used once more, as evenly as possible; an identity with more groups than there are batches omits the rest. The
      reference implementations end an epoch when fewer than P identities are left and drop those; here **every identity
      occurs in every epoch**.

    Thread-safe.

    Args:
        labels: (N,) integers, the identity of every example.
        identities: P, identities per batch.
        per_identity: K, images per identity.
        seed: seed of the sampling.

    Attributes:
        size: positions per epoch, a multiple of P·K, in general not N.
        batches: batches per epoch.
        parameters: name → value of everything that the order depends on, for a checkpoint.

    Raises:
        UserError: P or K is below 1, or there are fewer than P identities.

    Example:
        >>> IdentityOrder(np.array([7, 7, 7, 8, 9, 9]), identities=2, per_identity=2, seed=0).size
        8
    """

    def __init__(self, labels: np.ndarray, *, identities: int, per_identity: int, seed: int):
        for letter, value in (("P", identities), ("K", per_identity)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise UserError(
                    f"a batch of P = {identities} identities with K = {per_identity} images each is not possible: "
                    f"{letter} must be an integer, at least 1"
                )
        labels = np.asarray(labels)
        known, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
        if len(known) < identities:
            raise UserError(
                f"a batch needs P = {identities} different identities, and the data set has {len(known)}; lower P"
            )
        self._p, self._k, self._seed, self._examples = int(identities), int(per_identity), seed, len(labels)
        self._members = np.split(np.argsort(inverse, kind="stable"), np.cumsum(counts)[:-1])
        groups = np.maximum(1, counts // self._k)
        self.batches = _batches(groups, self._p)
        self._times = np.minimum(groups, self.batches)
        self.size = self.batches * self._p * self._k
        digest = zlib.crc32(np.ascontiguousarray(inverse, np.int64).tobytes())
        self.parameters: Mapping[str, int] = {
            "identities": self._p, "per_identity": self._k, "order_seed": int(seed), "order_labels": digest,
        }  # fmt: skip
        self._lock = threading.Lock()
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def at(self, position: int) -> tuple[int, int]:
        """Position 0, 1, … → (epoch, index of the example)."""
        epoch, offset = divmod(position, self.size)
        return epoch, int(self._epoch(epoch)[0][offset])

    def repeat(self, position: int) -> int:
        """How often the example at this position occurred earlier in its epoch: 0 the first time."""
        epoch, offset = divmod(position, self.size)
        return int(self._epoch(epoch)[1][offset])

    def check(self, *, examples: int, batch_size: int, local: int) -> None:
        """Raises UserError where batches of this size would not be P×K.

        Args:
            examples: number of examples N of the data set.
            batch_size: B, over all processes; must be P·K.
            local: rows of a batch per process; must be a multiple of K.
        """
        if examples != self._examples:
            raise UserError(
                f"the order is of {self._examples} labels, and the data set has {examples} examples"
            )
        if batch_size != self._p * self._k:
            raise UserError(
                f"batch size {batch_size} is not P × K = {self._p} × {self._k} = {self._p * self._k}; set it so"
            )
        if local % self._k:
            raise UserError(
                f"{local} rows per process is not a multiple of K = {self._k}, so the images of an identity would be "
                "split; use a number of processes that divides P"
            )

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        with self._lock:
            if epoch not in self._epochs:
                indices = self._draw(np.random.default_rng([_STREAM, self._seed, epoch]))
                while len(self._epochs) >= _KEPT:
                    del self._epochs[next(iter(self._epochs))]
                self._epochs[epoch] = indices, _earlier(indices)
            return self._epochs[epoch]

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        """An epoch's indices, (batches · P · K,)."""
        times = self._times + self._further(rng)
        out = np.empty((self.batches, self._p, self._k), np.int64)
        filled = np.zeros(self.batches, np.int64)
        for identity, where in _places(times, self.batches, rng):
            out[where, filled[where]] = _groups(self._members[identity], len(where), self._k, rng)
            filled[where] += 1
        return out.reshape(-1)

    def _further(self, rng: np.random.Generator) -> np.ndarray:
        """(identities,) the number of additional groups of each identity that fill all batches."""
        further = np.zeros(len(self._times), np.int64)
        missing = self.batches * self._p - int(self._times.sum())
        while missing:
            room = rng.permutation(np.flatnonzero(self._times + further < self.batches))[:missing]
            further[room] += 1
            missing -= len(room)
        return further


def _batches(groups: np.ndarray, p: int) -> int:
    """The largest number of batches that needs fewer than P additional groups, with each identity at most once per batch.

    In M batches Σ min(groups, M) groups fit; M·P minus this sum is convex in M and starts at 0.
    """
    longest = max(int(groups.max()), -(-int(groups.sum()) // p))
    at_least = np.cumsum(np.bincount(groups, minlength=longest + 1)[::-1])[::-1]  # identities with ≥ m groups
    placed = np.cumsum(at_least[1 : longest + 1])
    m = np.arange(1, longest + 1)
    return int(m[m * p - placed < p].max())


def _places(times: np.ndarray, batches: int, rng: np.random.Generator) -> Iterator[tuple[int, np.ndarray]]:
    """(identity, its batches) for all identities: different batches for one identity, P identities for each batch.

    Each identity takes the next batches of a permutation. When a permutation is used up within an identity, a new one is drawn
    that starts with batches which the identity does not have yet. No identity occurs more often than there are batches, and
    all of them together occur P · batches times, so exactly P permutations are used.
    """
    pool = np.zeros(0, np.int64)
    for identity in rng.permutation(len(times)):
        count = times[identity]
        where, pool = pool[:count], pool[count:]
        if len(where) < count:
            fresh = rng.permutation(batches)
            new = fresh[~np.isin(fresh, where)][: count - len(where)]
            pool = fresh[~np.isin(fresh, new)]
            where = np.concatenate([where, new])
        yield identity, where


def _groups(members: np.ndarray, count: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """(count, K) images of an identity, in groups of K; distinct within a group if the identity has K images."""
    out = np.empty((count, k), members.dtype)
    rest = rng.permutation(members)
    for group in out:
        if len(members) < k:
            again = rng.integers(len(members), size=k - len(members))
            group[:] = np.concatenate([rng.permutation(members), members[again]])
            continue
        head, rest = rest[:k], rest[k:]
        if len(head) < k:  # the remaining images, and others that differ from them
            others = rng.permutation(members)
            others = others[~np.isin(others, head)]
            missing = k - len(head)
            head, rest = np.concatenate([head, others[:missing]]), others[missing:]
        group[:] = head
    return out


def _earlier(values: np.ndarray) -> np.ndarray:
    """For each value, the number of equal values before it."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    rank = np.arange(len(values)) - np.repeat(starts, np.diff(np.r_[starts, len(values)]))
    out = np.empty(len(values), np.int64)
    out[order] = rank
    return out
