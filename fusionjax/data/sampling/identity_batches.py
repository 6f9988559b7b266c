"""P×K batches: P identities with K images each, as metric learning needs them."""

import threading
import zlib
from collections.abc import Mapping

import numpy as np

from fusionjax.errors import UserError

_STREAM = 0x1D5  # keeps these draws apart from others that start from the same seed
_KEPT = 3  # epochs; see `order.Order`


class IdentityOrder:
    """An endless sequence of epochs whose every P·K consecutive positions are P identities with K images each.

    Positions are those of `order.Order`: they count on across epochs, and what stands where is a function of
    (seed, epoch, position) and of nothing else. An epoch is a whole number of batches, the same every epoch.
    A batch is P different identities, one after the other, K images each. In an epoch

    - an identity with n images gives max(1, ⌊n / K⌋) groups of K, drawn anew; the n mod K images left over wait
      for another epoch (so Luo et al., "Bag of Tricks", 2019, and TransReID draw them);
    - an identity with fewer than K images shows all of them, then some again, drawn with replacement;
    - there are as many batches as can be made with fewer than P further groups, for which identities come once
      more, as evenly as possible. An identity with more groups than there are batches leaves groups out. Where the
      reference implementations end an epoch as soon as fewer than P identities are left, and drop those, here
      **every identity is seen every epoch**.

    Safe to use from many threads.

    Args:
        labels: (N,), the identity of every example, any integers.
        identities: P.
        per_identity: K.
        seed: of the draws.

    Attributes:
        size: positions an epoch, a multiple of P·K and in general not N: `order.steps_per_epoch(size, P * K)`.
        batches: batches an epoch.
        parameters: what the order is a function of, by name, for a checkpoint.

    Raises:
        UserError: P or K below 1, or fewer than P identities.

    Example:
        >>> IdentityOrder(np.array([7, 7, 7, 8, 9, 9]), identities=2, per_identity=2, seed=0).size
        8
    """

    def __init__(self, labels: np.ndarray, *, identities: int, per_identity: int, seed: int):
        for letter, value in (("P", identities), ("K", per_identity)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise UserError(
                    f"a batch of P = {identities} identities with K = {per_identity} images each is not possible: "
                    f"{letter} must be a whole number, at least 1"
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
        """Position 0, 1, … → (epoch, index)."""
        epoch, offset = divmod(position, self.size)
        return epoch, int(self._epoch(epoch)[0][offset])

    def repeat(self, position: int) -> int:
        """How often the epoch had the example of this position before: 0 the first time."""
        epoch, offset = divmod(position, self.size)
        return int(self._epoch(epoch)[1][offset])

    def check(self, *, examples: int, batch_size: int, local: int) -> None:
        """Raises a UserError where batches of this size would not be P×K.

        Args:
            examples: N of the data set.
            batch_size: of all processes together.
            local: a process's share of it.
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
                f"a process's share of {local} rows is not a multiple of K = {self._k}, so that an identity's images "
                "would part; use a number of processes that divides P"
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
        """How many groups more each identity gives, so that all batches are full."""
        further = np.zeros(len(self._times), np.int64)
        missing = self.batches * self._p - int(self._times.sum())
        while missing:
            room = rng.permutation(np.flatnonzero(self._times + further < self.batches))[:missing]
            further[room] += 1
            missing -= len(room)
        return further


def _batches(groups: np.ndarray, p: int) -> int:
    """The most batches that lack fewer than P groups, when an identity comes at most once a batch.

    With M batches Σ min(groups, M) groups can be placed; M·P minus that is convex in M and starts at 0.
    """
    longest = max(int(groups.max()), -(-int(groups.sum()) // p))
    at_least = np.cumsum(np.bincount(groups, minlength=longest + 1)[::-1])[::-1]  # identities with ≥ m groups
    placed = np.cumsum(at_least[1 : longest + 1])
    m = np.arange(1, longest + 1)
    return int(m[m * p - placed < p].max())


def _places(times: np.ndarray, batches: int, rng: np.random.Generator):
    """(identity, its batches) for all identities: different batches for one identity, P identities for each batch.

    The batches are dealt out in rounds, each a fresh permutation; an identity takes the next ones. Where a round
    ends within an identity, the next begins with batches that it does not have yet. As no identity comes more often
    than there are batches, and all together come P · batches times, P rounds are dealt out exactly.
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
    """`count` groups of K of an identity's images, (count, K); different ones where there are K of them."""
    out = np.empty((count, k), members.dtype)
    rest = rng.permutation(members)
    for group in out:
        if len(members) < k:
            again = rng.integers(len(members), size=k - len(members))
            group[:] = np.concatenate([rng.permutation(members), members[again]])
            continue
        head, rest = rest[:k], rest[k:]
        if len(head) < k:  # the images that are left over, and others that differ from them
            others = rng.permutation(members)
            others = others[~np.isin(others, head)]
            missing = k - len(head)
            head, rest = np.concatenate([head, others[:missing]]), others[missing:]
        group[:] = head
    return out


def _earlier(values: np.ndarray) -> np.ndarray:
    """For each value, how many equal ones stand before it."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    rank = np.arange(len(values)) - np.repeat(starts, np.diff(np.r_[starts, len(values)]))
    out = np.empty(len(values), np.int64)
    out[order] = rank
    return out
