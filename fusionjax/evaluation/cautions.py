"""What a reader must know before the scores of a run: findings in its per-example results, one sentence each.

Pure functions of the arrays that `per_example` keeps, so they hold for every task that stores them.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from fusionjax.data.class_names import listed
from fusionjax.evaluation import classification, per_example, significance
from fusionjax.evaluation.probe import Baseline

MARGIN = 0.07
"""Half the width of a 95 % interval from which on a split is called too small."""
ROWS = 12
"""Maximum number of classes in the table for a terminal."""
_NAME = 40
_SCORES = {"soft_accuracy": "vqa_accuracy"}
"""Further arrays whose mean is a score, beside those of `per_example.score_of`."""

Outcomes = Mapping[str, np.ndarray]
"""Array → one value per example of the scored split; see `per_example`."""


def classes(outcomes: Outcomes, class_names: Sequence[str]) -> list[str]:
    """Classes of the split that are never predicted, and others of which no example is predicted correctly.

    Args:
        outcomes: with "label" and "prediction" (N,), class indices; nothing is found without them.
        class_names: one name per class.

    >>> classes({"label": np.array([0, 1, 2]), "prediction": np.array([0, 0, 0])}, ["a", "b", "c"])
    ["2 of 3 classes are never predicted: 'b', 'c'"]
    """
    rows = _per_class(outcomes, class_names)
    predicted = set(np.unique(outcomes["prediction"]).tolist()) if rows else set()
    present = [i for i, row in enumerate(rows) if row.support]
    never = [rows[i].name for i in present if i not in predicted]
    missed = [rows[i].name for i in present if i in predicted and not rows[i].recall]
    found = []
    for names, what in ((never, "never predicted"), (missed, "predicted, but never correctly (recall 0)")):
        if names:
            verb = "is" if len(names) == 1 else "are"
            found.append(f"{len(names)} of {len(present)} classes {verb} {what}: {listed(names)}")
    return found


def not_above(
    outcomes: Outcomes, class_names: Sequence[str], references: Sequence[Baseline] = ()
) -> list[str]:
    """Predictors without training, or without the image, that the run is not better than on these examples.

    These are the majority class of the split, `prior_<array>` of the outcomes, and `references`. Where the reference has a
    value for each example, the 95 % interval of the difference is a paired bootstrap; otherwise its score is compared with
    the interval of the run's.

    Args:
        outcomes: of the run.
        class_names: one name per class.
        references: those without a `measure` are left out.
    """
    found = []
    if {"label", "prediction", "correct"} <= outcomes.keys():
        label = np.asarray(outcomes["label"])
        majority = int(np.bincount(label).argmax())
        always = f"the majority class (always answering {class_names[majority]!r})"
        found.append(_against(outcomes, "correct", always, label == majority))
    for name, values in outcomes.items():
        own = name.removeprefix("prior_")
        if own != name and own in outcomes:
            found.append(
                _against(outcomes, own, "the answer that is most frequent without the image", values)
            )
    for one in references:
        if one.measure in outcomes:
            paired = one.values is not None and len(one.values) == len(outcomes[one.measure])
            found.append(
                _against(outcomes, one.measure, f"“{one.title}”", one.values if paired else one.value)
            )
    return [line for line in found if line]


def few(outcomes: Outcomes) -> list[str]:
    """A sentence where the 95 % interval of a score is wider than ± `MARGIN`: the split is too small to tell.

    Where all examples have the same value, the bootstrap has no width; Wilson's interval takes its place.
    """
    wide = []
    for name, values in outcomes.items():
        score = _score(name)
        if score is None:
            continue
        low, high = significance.mean_interval(values)
        if low == high:
            low, high = significance.wilson_interval(float(np.mean(values)), len(values))
        if (high - low) / 2 > MARGIN:
            wide.append(f"{score} {_range(low, high)}")
    if not wide:
        return []
    n = len(next(iter(outcomes[name] for name in outcomes if _score(name))))
    return [
        f"{n:,} examples are few: the 95 % interval is wider than ± {100 * MARGIN:.0f} points ({'; '.join(wide)}), and a "
        "difference within it may be chance"
    ]


def recall_table(outcomes: Outcomes, class_names: Sequence[str]) -> list[str]:
    """Lines for a terminal: the recall of each class of the split, lowest first, at most `ROWS`; none without classes.

    Args:
        outcomes: with "label" and "prediction" (N,), class indices.
        class_names: one name per class.
    """
    rows = [row for row in _per_class(outcomes, class_names) if row.support]
    if not rows:
        return []
    rows.sort(key=lambda row: (row.recall, -row.support, row.name))
    cells = [("class", "images", "recall", "most often taken for")]
    cells += [
        (
            _line(row.name),
            f"{row.support:,}",
            f"{100 * row.recall:.1f} %",
            "" if row.confused_with is None else f"{_line(row.confused_with)} ({row.confused})",
        )
        for row in rows[:ROWS]
    ]
    w = [max(len(line[i]) for line in cells) for i in range(3)]
    lines = [f"{a:<{w[0]}}  {b:>{w[1]}}  {c:>{w[2]}}  {d}".rstrip() for a, b, c, d in cells]
    more = len(rows) - ROWS
    return [*lines, f"and {more} more {'class' if more == 1 else 'classes'}"] if more > 0 else lines


def lines(said: Sequence[str]) -> list[str]:
    """The cautions for a terminal."""
    return ["Before you use these numbers:", *(f"- {line}" for line in said)] if said else []


def _per_class(outcomes: Outcomes, class_names: Sequence[str]) -> tuple[classification.ClassRow, ...]:
    if not {"label", "prediction"} <= outcomes.keys():
        return ()
    confusion = classification.confusion_matrix(outcomes["label"], outcomes["prediction"], len(class_names))
    return classification.per_class(confusion, tuple(map(str, class_names)))


def _against(outcomes: Outcomes, name: str, other: str, reference: np.ndarray | float | None) -> str:
    """A sentence where the mean of an array is not above that of a reference; "" where it is."""
    own = np.asarray(outcomes[name], np.float64)
    score = _score(name) or name
    if reference is None:
        return ""
    if isinstance(reference, np.ndarray):
        value = float(np.mean(reference))
        low, high = significance.difference_interval(own, reference)
        if low > 0:
            return ""
        bounds = f"{100 * low:+.1f} to {100 * high:+.1f} points".replace("-", "−")
        width = f"95 % interval of the difference {bounds}, " if low < high else ""
        how = f"{width}on the same {len(own):,} examples"
    else:
        low, high = significance.mean_interval(own)
        value = float(reference)
        if low > value:
            return ""
        how = f"95 % interval {_range(low, high)}"
    what = "not above" if own.mean() <= value else "not clearly above"
    return f"{score} {100 * own.mean():.1f} % is {what} {other}, {100 * value:.1f} % ({how})"


def _score(name: str) -> str | None:
    """Name of the score that is the mean of an array; None if it is no score."""
    return per_example.score_of(name) or _SCORES.get(name)


def _range(low: float, high: float) -> str:
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def _line(name: str) -> str:
    """A name of a class on one printable line."""
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(name.split()))
    return plain if len(plain) <= _NAME else plain[: _NAME - 1] + "…"
