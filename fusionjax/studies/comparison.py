"""Compares finished runs: reads their workdirs, computes intervals and tests, and fills in a `Comparison`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fusionjax.errors import UserError
from fusionjax.evaluation import per_example, significance
from fusionjax.interpret.comparison import Comparison, Group, Row, Score, short_names, shown
from fusionjax.interpret.report import duration
from fusionjax.studies.run_record import RunRecord, further_scores, load, pictures

_ENVIRONMENT = {"jax": "versions of JAX", "git": "git revisions", "device": "devices"}
"""Entries of the environment that a note names if runs differ in them."""


def compare(
    folders: Sequence[str | Path],
    *,
    paired: bool = True,
    group: bool | None = None,
    resamples: int = significance.RESAMPLES,
) -> Comparison:
    """Compares runs with the first one.

    Args:
        folders: workdirs, each listed once.
        paired: require that all runs were scored on the same examples, and compare example by example. False compares
            without pairing, with wider intervals and no tests.
        group: average runs whose configs differ only in the seed. None: average if every such group has two or more seeds.
        resamples: number of bootstrap resamples.

    Returns:
        The comparison, ready to be written by `interpret.comparison`.

    Raises:
        UserError: there is no workdir; a workdir is listed twice or has no finished run; the runs have no measure in common;
            or, if `paired`, they were scored on different examples.
    """
    if not folders:
        raise UserError("a workdir is missing; usage: python -m fusionjax.compare runs/a runs/b …")
    seen: set[Path] = set()
    places = [Path(folder).expanduser() for folder in folders]
    for folder in places:
        if folder.resolve() in seen:
            raise UserError(f"{folder} is listed twice; list each workdir once")
        seen.add(folder.resolve())
    runs = [load(folder) for folder in places]
    arrays = [
        name for name in runs[0].per_example.measures if all(name in r.per_example.measures for r in runs)
    ]
    for run in runs[1:]:
        if not arrays or run.per_example.split != runs[0].per_example.split:
            raise UserError(
                f"{runs[0].folder} and {run.folder} cannot be compared: one has {_scores(runs[0])}, the other {_scores(run)}"
            )
        if paired:
            _check_pairs(runs[0], run)
    names = _names([run.folder for run in runs])
    groups = _groups(runs)
    seeds = [{runs[i].fields["seed"] for i in members} for members in groups]
    grouped = all(len(s) > 1 for s in seeds) if group is None else group
    differing = _differing(runs)
    scores, means = {}, {}
    for name in arrays:
        measure = per_example.score_of(name) or name
        scores[measure], means[measure] = _score(runs, groups, name, paired, resamples)
    rows = [
        Row(
            name=names[i],
            folder=str(run.folder),
            fields={f: run.fields[f] for f in differing},
            examples=len(run.per_example.names),
            scores={measure: found[i] for measure, found in scores.items()},
            group=next(k for k, g in enumerate(groups) if i in g),
            details=_details(run),
        )
        for i, run in enumerate(runs)
    ]
    made = [
        Group(
            name=_group_name(runs, groups, k),
            members=[names[i] for i in members],
            values={measure: [found[i].value for i in members] for measure, found in scores.items()},
            scores={measure: found[k] for measure, found in means.items()},
        )
        for k, members in enumerate(groups)
    ]
    return Comparison(
        split=runs[0].per_example.split,
        measures=list(scores),
        rows=rows,
        groups=made if grouped else (),
        records={names[i]: run.records for i, run in enumerate(runs)},
        warnings=_warnings(runs, names, groups, paired),
        notes=_notes(runs, names, arrays, paired, resamples, grouped) + _widthless(rows),
        further=further_scores(runs),
        pictures=pictures(runs),
    )


# -- numbers ------------------------------------------------------------------------------------------------------------


def _score(
    runs: Sequence[RunRecord], groups: Sequence[Sequence[int]], name: str, paired: bool, resamples: int
) -> tuple[list[Score], list[Score]]:
    """Returns the scores of every run and of every group mean for the array `name`."""
    values = [run.per_example.values[name] for run in runs]
    if paired:
        draws = significance.bootstrap_means(np.stack(values, 1), resamples=resamples)
    else:  # examples are resampled independently for each run
        draws = np.concatenate(
            [
                significance.bootstrap_means(v[:, None], resamples=resamples, seed=(0, i))
                for i, v in enumerate(values)
            ],
            axis=1,
        )
    value = np.array([v.mean() for v in values])
    scores = []
    for i in range(len(runs)):
        found = _difference(value[i], draws[:, i], value[0], draws[:, 0], first=i == 0)
        found["interval"] = significance.mean_interval(values[i])  # the one of the run's own report
        if i and paired and per_example.is_binary(name):
            test = significance.mcnemar(values[0], values[i])
            found |= {"p": test.p, "test": "McNemar, exact", "gained": test.gained, "lost": test.lost}
        elif i and paired:
            p = significance.bootstrap_p(draws[:, i] - draws[:, 0])
            found |= {"p": p, "test": "paired bootstrap"}
        scores.append(Score(**found))
    mean = [value[list(g)].mean() for g in groups]
    drawn = [draws[:, list(g)].mean(1) for g in groups]
    means = [
        Score(**_difference(mean[k], drawn[k], mean[0], drawn[0], first=k == 0)) for k in range(len(groups))
    ]
    return scores, means


def _difference(
    value: float, draws: np.ndarray, base: float, base_draws: np.ndarray, *, first: bool
) -> dict[str, Any]:
    found = {"value": float(value), "interval": significance.interval(draws)}
    if not first:
        found["difference"] = float(value - base)
        found["difference_interval"] = significance.interval(draws - base_draws)
    return found


# -- which runs belong together ---------------------------------------------------------------------------------------------


def _check_pairs(first: RunRecord, other: RunRecord) -> None:
    """Raises a UserError if two runs were not scored on the same examples."""
    rest = "--unpaired compares them without pairing"
    if first.digests != other.digests or first.per_example.read != other.per_example.read:
        drawn = first.fields["seed"] != other.fields["seed"]
        hint = " (without official splits, config.seed determines the splits)" if drawn else ""
        raise UserError(f"{first.folder} and {other.folder} were scored on different examples{hint}; {rest}")
    if not first.has_images_of(other):
        raise UserError(
            f"{first.folder} and {other.folder} were scored on different images of the same names: the contents of their "
            f"files differ; {rest}"
        )
    if first.per_example.names != other.per_example.names:
        common = len(set(first.per_example.names) & set(other.per_example.names))
        raise UserError(
            f"{first.folder} and {other.folder} were scored on different examples of one data set, "
            f"{len(first.per_example.names)} and {len(other.per_example.names)}, {common} in common: "
            "an image was unreadable, or the protocols differ; "
            f"{rest}"
        )


def _differing(runs: Sequence[RunRecord]) -> list[str]:
    """Returns the config fields in which runs differ, the seed last."""
    fields = dict.fromkeys(f for run in runs for f in run.fields)
    differing = [f for f in fields if any(run.fields.get(f) != runs[0].fields.get(f) for run in runs)]
    return sorted(differing, key=lambda f: f == "seed")


def _groups(runs: Sequence[RunRecord]) -> list[list[int]]:
    """Groups the indices of runs whose fields differ only in the seed."""
    groups: list[list[int]] = []
    for i, run in enumerate(runs):
        for members in groups:
            if _but_seed(run) == _but_seed(runs[members[0]]):
                members.append(i)
                break
        else:
            groups.append([i])
    return groups


def _but_seed(run: RunRecord) -> dict[str, Any]:
    return {name: value for name, value in run.fields.items() if name != "seed"}


def _group_name(runs: Sequence[RunRecord], groups: Sequence[Sequence[int]], k: int) -> str:
    firsts = [runs[members[0]] for members in groups]
    fields = [f for f in _differing(firsts) if f != "seed"]
    words = [f"{short}={shown(firsts[k].fields[f])}" for f, short in short_names(fields).items()]
    return ", ".join(words) or "all runs"


def _names(folders: Sequence[Path]) -> list[str]:
    """Returns the shortest trailing part of each path that is unique."""
    parts = [folder.resolve().parts for folder in folders]
    names = []
    for own in parts:
        k = next(k for k in range(1, len(own) + 1) if sum(p[-k:] == own[-k:] for p in parts) == 1)
        names.append("/".join(own[-k:]))
    return names


# -- words ------------------------------------------------------------------------------------------------------------------


def _widthless(rows: Sequence[Row]) -> list[str]:
    intervals = [i for r in rows for s in r.scores.values() for i in (s.interval, s.difference_interval) if i]
    if all(low < high for low, high in intervals):
        return []
    return [
        "Where an interval is empty, all examples have the same value, and the bootstrap gives no interval."
    ]


def _scores(run: RunRecord) -> str:
    return " and ".join(
        f"{run.per_example.split}/{per_example.score_of(name)}" for name in run.per_example.measures
    )


def _details(run: RunRecord) -> dict[str, str]:
    seconds = run.results.get("seconds")
    environment = run.content.get("environment", {})
    return {
        "model": str(run.fields["model.name"]),
        "weights of step": f"{run.results.get('step', '')}",
        "time": duration(seconds) if isinstance(seconds, int | float) else "",
        "device": str(environment.get("device", "")),
        "revision": str(environment.get("git", "")),
    }


def _warnings(
    runs: Sequence[RunRecord], names: Sequence[str], groups: Sequence[Sequence[int]], paired: bool
) -> list[str]:
    """Returns reasons why the numbers are less comparable than they seem."""
    said = []
    leaking = [n for n, r in zip(names, runs, strict=True) if _leaks(r)]
    if leaking:
        said.append(
            f"Label leakage: the text of every image in {', '.join(leaking)} is the description of its true class."
        )
    split = runs[0].per_example.split
    chosen = [
        n for n, r in zip(names, runs, strict=True) if r.fields["train.best_metric"].startswith(f"{split}/")
    ]
    if chosen:
        said.append(
            f"The checkpoints of {', '.join(chosen)} were selected on the split that is scored: "
            "their scores are biased upwards."
        )
    if not paired and len(runs) > 1:
        said.append(
            "Unpaired: the examples of each run are resampled independently, so the interval of a difference is wider than "
            "necessary if the runs share examples; there are no tests."
        )
        if len({r.digests for r in runs}) > 1:
            said.append(
                "The runs were scored on different examples: a difference may come from the examples."
            )
    of_line: dict[str, list[str]] = {}
    for name, run in zip(names, runs, strict=True):
        for line in run.cautions:
            of_line.setdefault(line, []).append(name)
    said += [f"{', '.join(of)}: {line}" for line, of in of_line.items()]
    training = {r.content.get("examples", {}).get("train") for r in runs}
    if len(training) > 1:
        said.append("The runs were trained on different examples.")
    for members in groups:
        if len({runs[i].fields["seed"] for i in members}) < len(members):
            same = ", ".join(names[i] for i in members)
            said.append(f"A seed occurs more than once in {same}: there are fewer seeds than runs.")
    return said


def _leaks(run: RunRecord) -> bool:
    """Returns whether the text of each example is looked up by its label."""
    # Tasks that read no text reject this field.
    return run.fields["text.kind"] == "class" and run.fields["fusion.mode"] != "image"


def _notes(
    runs: Sequence[RunRecord],
    names: Sequence[str],
    arrays: Sequence[str],
    paired: bool,
    resamples: int,
    grouped: bool,
) -> list[str]:
    """Returns notes on how to read the numbers."""
    said = [
        f"Intervals are over test examples, not over training seeds: percentile bootstrap, "
        f"{significance.INTERVAL_RESAMPLES:,} resamples for a score as in the run's report"
        f"{f', {resamples:,} for a difference' if len(runs) > 1 else ''}. "
        "They cover the sampling of test examples, not the variation between training runs."
    ]
    if len(runs) > 1 and paired:
        tests = []
        if any(map(per_example.is_binary, arrays)):
            tests.append("McNemar's exact test for measures that are right or wrong per example")
        if not all(map(per_example.is_binary, arrays)):
            tests.append("a paired bootstrap for mAP")
        said.append(
            f"Differences are from {names[0]}, in percentage points, on the same examples. p is two-sided, "
            f"from {', '.join(tests)}"
            f"{'; not corrected for the ' + str(len(runs) - 1) + ' comparisons' if len(runs) > 2 else ''}."
        )
        if any(map(per_example.is_binary, arrays)):
            said.append(
                f"gained : lost – number of examples that only this run predicts correctly, and that only {names[0]} does."
            )
    if "average_precision" in arrays:
        said.append(
            "Examples are queries. Queries of one identity are correlated but resampled as if they were independent, so "
            "intervals are somewhat too narrow and p-values somewhat too small."
        )
    if grouped:
        said.append(
            "The mean over seeds is given with the standard deviation of its runs (n − 1); the interval of its difference is "
            "over test examples, with the seeds fixed."
        )
    differing = [
        what
        for key, what in _ENVIRONMENT.items()
        if len({r.content.get("environment", {}).get(key) for r in runs}) > 1
    ]
    if differing:
        said.append(f"The runs come from different {' and '.join(differing)}.")
    return said
