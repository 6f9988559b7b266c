"""The names of splits as data sets spell them; seeded splits, stratified by class, for data sets without official ones."""

import re
from collections.abc import Collection, Hashable, Iterable, Sequence

import numpy as np

from fusionjax.errors import UserError

SPLITS = ("train", "val", "test")
_SPELLINGS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_STANDARD = {spelling: split for split, spellings in _SPELLINGS.items() for spelling in spellings}
_STREAM = 0x5711  # keeps these draws apart from others that start from the same seed


def standard(name: str) -> str:
    """The split that a name means in any usual spelling; "" where it means none.

    >>> [standard(name) for name in ("Training", "valid", "test_set", "Test-Set", "testudo")]
    ['train', 'val', 'test', 'test', '']
    """
    words = re.sub(r"[\s_-]+", " ", name.strip().casefold())
    return _STANDARD.get(re.sub(r" ?set$", "", words), "")


def resembles(name: str) -> bool:
    """Whether a name that is no usual spelling contains the word of a split, such as "train2017" or "test images"."""
    return any(standard(word) for word in re.findall("[a-z]+", name.casefold()))


def rank(name: str) -> tuple[int, str]:
    """Sorts names of splits: training, validation and test first."""
    return (SPLITS.index(standard(name)) if standard(name) else len(SPLITS)), name


def spelt(asked: str, found: Collection[str], named: Collection[str], where: str) -> str | None:
    """The name that a data set has for a split.

    Args:
        asked: the split, as a config names it.
        found: the names that the data set has.
        named: names that the config uses; several of them may mean the same split, e.g. val and dev.
        where: the data set, for the message.

    Returns:
        `asked` where it is among `found`, else the name that means the same split; None where there is none.

    Raises:
        UserError: several names mean the split.
    """
    alike = sorted(
        name for name in found if name == asked or (standard(name) and standard(name) == standard(asked))
    )
    doubtful = [name for name in alike if name == asked or name not in named or asked not in found]
    if len(doubtful) > 1:
        raise UserError(
            f"{where}: {' and '.join(map(repr, doubtful))} both mean the split {standard(asked)!r}: keep one, or name each in "
            "config.data.train_split and config.data.eval_splits"
        )
    return doubtful[0] if doubtful else None


def stratified(
    labels: np.ndarray, fractions: Sequence[float], *, seed: int, groups: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Splits examples into train, val and test with the same fraction of every class.

    The sizes of val and test differ from the exact fraction by at most one example (with groups: one group), per class and in
    total, except that at least one group of each class is kept for training. The result depends on the arguments only.

    Args:
        labels: (N,) integers, the class of every example.
        fractions: fractions of train, val and test, which sum to 1.
        seed: seed of the split.
        groups: (N,), e.g. identities; the examples of a group are never separated. A group belongs to the class of its first
            example. None: every example is its own group.

    Returns:
        "train", "val", "test" → int64 indices, ascending; disjoint, and together 0 … N − 1.
    """
    labels = np.asarray(labels)
    members = _members(np.arange(len(labels)) if groups is None else np.asarray(groups))
    of_class = labels[[m[0] for m in members]] if members else labels[:0]
    rng = np.random.default_rng([_STREAM, seed])
    chosen: dict[str, list[np.ndarray]] = {name: [] for name in SPLITS}
    owed = np.zeros(2)  # val and test: the rounding remainder of the classes before
    for c in np.unique(of_class):
        mine = [members[i] for i in rng.permutation(np.flatnonzero(of_class == c))]
        owed += np.asarray(fractions[1:], float) * sum(map(len, mine))
        spare = len(mine) - 1
        for k, name in ((1, "test"), (0, "val")):
            rest = []
            for m in mine:
                if spare and owed[k] > len(m) / 2 + 1e-9:
                    chosen[name].append(m)
                    owed[k], spare = owed[k] - len(m), spare - 1
                else:
                    rest.append(m)
            mine = rest
        owed = np.minimum(
            owed, max(map(len, members)) / 2
        )  # what a small class lacks is not taken from the next
        chosen["train"].extend(mine)
    return {k: np.sort(np.concatenate(v)) if v else np.zeros(0, np.int64) for k, v in chosen.items()}


def pick(name: str, parts: dict[str, np.ndarray], split: str) -> np.ndarray:
    """The indices of one part of `stratified`.

    Args:
        name: name of the data set, for messages.
        parts: result of `stratified`.
        split: "train", "val" or "test".

    Returns:
        (M,) int64 indices, ascending.

    Raises:
        UserError: the split is not one of the three, or it is empty.
    """
    if split not in parts:
        raise UserError(
            f"{name} has no split {split!r}; allowed are {', '.join(parts)} (drawn by data.fractions)"
        )
    if not len(parts[split]):
        raise UserError(
            f"split {split!r} of {name} is empty: increase its fraction in data.fractions, or add images (each class, or "
            "identity, keeps at least one image, or group of images, for training)"
        )
    return parts[split]


def linked(count: int, shared: Iterable[tuple[int, Hashable]]) -> np.ndarray:
    """Connected groups of examples that share a key, directly or through others; the argument `groups` of `stratified`.

    Args:
        count: number of examples N.
        shared: (example, 0 to N − 1; key of the example) pairs.

    Returns:
        (N,) int64, for each example the first example of its group.

    >>> linked(4, [(0, "a"), (2, "a"), (2, "b"), (3, "b")]).tolist()
    [0, 1, 0, 0]
    """
    parent = list(range(count))

    def find(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    first: dict[Hashable, int] = {}
    for i, key in shared:
        a, b = find(i), find(first.setdefault(key, i))
        parent[max(a, b)] = min(a, b)
    return np.asarray([find(i) for i in range(count)], np.int64)


def _members(groups: np.ndarray) -> list[np.ndarray]:
    """The indices of every group, in the order of the first examples."""
    if not len(groups):
        return []
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(inverse))[:-1])
    return [parts[i] for i in np.argsort(first)]
