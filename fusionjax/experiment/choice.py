"""Which examples of a split are drawn: right and wrong predictions, as the run scored them, and random ones."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fusionjax.errors import UserError
from fusionjax.evaluation import per_example
from fusionjax.evaluation.per_example import PerExample
from fusionjax.experiment import results

if TYPE_CHECKING:
    from fusionjax.experiment.inference import Run

log = logging.getLogger(__name__)


def choose(
    run: "Run",
    split: str = "",
    *,
    right: int = 0,
    wrong: int = 0,
    random: int = 0,
    limit: int = 0,
    seed: int = 0,
) -> tuple[str, np.ndarray]:
    """Chooses examples of a split.

    Args:
        run: a trained run.
        split: of its data set; "" for the one that it was scored on.
        right, wrong: numbers of right and of wrong predictions, the most confident of each class in turn.
        random: number of examples drawn at random.
        limit: largest number in all; 0 for no limit.
        seed: of the random ones.

    Returns:
        The split, and (N,) int positions in it; without any number, the first `limit`.

    Raises:
        UserError: there is no such split, or nothing says which predictions are right.
    """
    outcomes = None
    if right or wrong or not split:
        if run.exported:
            raise UserError(f"{run.folder} was exported without its predictions: name images, or a split")
        outcomes = results.read(run.folder)[1]
        split = split or outcomes.read[0]
    source = run.source(split)
    found: list[int] = []
    if right or wrong:
        assert outcomes is not None
        if split != outcomes.read[0]:
            raise UserError(
                f"which predictions of split {split!r} are right is not known: the run was scored on {outcomes.read[0]!r}; "
                "leave --right and --wrong out, or name that split"
            )
        found += _ranked(outcomes, source.names, right=right, wrong=wrong)
    if random:
        rest = np.setdiff1d(np.arange(len(source)), found)
        found += np.random.default_rng(seed).permutation(rest)[:random].tolist()
    if not (right or wrong or random):
        found = list(range(len(source)))
    elif limit and len(found) > limit:
        log.warning(
            "%d examples are as asked and the first %d are drawn: raise --limit for more", len(found), limit
        )
    return split, np.asarray(found[: limit or None], np.int64)


def scored_split(run: "Run") -> str:
    """The split that a run's report is about: "test", or else the last of the config; of re-identification the first."""
    splits = run.config.data.eval_splits
    return "test" if "test" in splits else splits[0 if run.task.scorer.closed_set is False else -1]


def _ranked(outcomes: PerExample, names: Sequence[str], *, right: int, wrong: int) -> list[int]:
    """Positions in the source of the right and then of the wrong predictions, by the results that the run left."""
    place = {name: i for i, name in enumerate(_numbered(names))}
    own = _numbered(outcomes.names)
    measures = outcomes.measures
    score = measures[next(filter(per_example.is_binary, measures), next(iter(measures)))]
    sure = outcomes.values.get("probability", np.ones(len(score)))
    label = outcomes.values.get("label", np.zeros(len(score), np.int64))
    chosen_rows: list[int] = []
    for good, count, order in (
        (True, right, np.argsort(-sure, kind="stable")),
        (False, wrong, np.argsort(sure, kind="stable")),
    ):
        ranked = [int(i) for i in order if (score[i] >= 0.5) == good and own[i] in place]
        chosen_rows += [place[own[i]] for i in _in_turn(ranked, label, count)]
    return chosen_rows


def _numbered(names: Iterable[object]) -> list[tuple[str, int]]:
    """Each name with how many of the same came before it: several questions about an image have its name."""
    before: Counter[str] = Counter()
    found = []
    for name in map(str, names):
        found.append((name, before[name]))
        before[name] += 1
    return found


def _in_turn(ranked: Sequence[int], label: np.ndarray, count: int) -> Iterator[int]:
    """The first `count`, a class after the other, so that a figure shows more than one easy class."""
    by_class: dict[int, list[int]] = {}
    for i in ranked:
        by_class.setdefault(int(label[i]), []).append(i)
    turns = (i for k in range(count) for members in by_class.values() for i in members[k : k + 1])
    return (i for i, _ in zip(turns, range(count), strict=False))
