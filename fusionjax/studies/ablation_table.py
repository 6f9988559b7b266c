"""Trains variants of a config with several seeds each and compares them in a table.

A config file may define the arguments of the rows:

    def table():
        return {"image only": "baseline=image", "cross-attention": "head=concat"}

The other rows are compared with the first row.
"""

import gc
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from fusionjax.config.user_file import UserFile
from fusionjax.errors import UserError
from fusionjax.evaluation import per_example, significance
from fusionjax.experiment import results
from fusionjax.experiment.trainer import Experiment, workdir
from fusionjax.studies import run_record


def load(path: str) -> tuple[Callable[[str], ConfigDict], dict[str, str]]:
    """Loads `get_config` of a config file and the rows that its `table()` returns, title → argument.

    Args:
        path: path of the file.

    Raises:
        UserError: the file cannot be imported, has no `table`, or `table()` does not return a dict of strings.
    """
    file = UserFile(path)
    rows = file.call(
        "table", hint='add a function that returns its rows, e.g. {"image only": "baseline=image"}'
    )
    if (
        not isinstance(rows, dict)
        or not rows
        or not all(isinstance(v, str) for kv in rows.items() for v in kv)
    ):
        raise UserError(
            f"--config={path}: table() must return a dict, title → argument, with at least one row"
        )
    return file.config, rows


def folder_of(title: str) -> str:
    """Returns the folder name of a title."""
    return re.sub(r"[^\w.-]+", "_", title).strip("_") or "row"


def train(
    folder: Path,
    rows: Mapping[str, str],
    seeds: Sequence[int],
    make: Callable[[str], ConfigDict],
    *,
    reports: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, list[Path]]:
    """Trains the runs of a table that are not finished, and returns the workdirs by row.

    Args:
        folder: folder of the table. Each run has the workdir <row>/seed<n>; all runs share cached features.
        rows: title → config argument.
        seeds: seeds of every row.
        make: config argument → config.
        reports: whether every run writes a report.
        say: called with one line per run.

    Returns:
        Title → workdirs, one per seed.

    Raises:
        UserError: two rows would share a folder, a config is invalid, or a workdir belongs to another config.
    """
    folders = {title: folder_of(title) for title in rows}
    if len(set(folders.values())) < len(rows):
        raise UserError(f"two rows of the table would share a folder: {', '.join(sorted(folders.values()))}")
    configs = {}
    for title, argument in rows.items():
        for seed in seeds:
            config = make(",".join(filter(None, (argument, f"seed={seed}"))))
            with config.unlocked():
                config.report.enabled = reports
                # The probe of the frozen features is the same in every row.
                config.evaluation.probe = config.evaluation.probe and title == next(iter(rows))
                if config.data.cache.enabled and not config.data.cache.folder:
                    config.data.cache.folder = str(folder / "features")
            configs[title, seed] = config
    made: dict[str, list[Path]] = {title: [] for title in rows}
    for (title, seed), config in configs.items():
        run = folder / folders[title] / f"seed{seed}"
        made[title].append(run)
        experiment = Experiment(config, run)
        if not _is_finished(run, experiment.config, say):
            experiment.train()
        record = run_record.load(run)
        scored = record.per_example.measures.items()
        shown = ", ".join(f"{per_example.score_of(k)} {v.mean():.4f}" for k, v in scored)
        say(f"{title}, seed {seed}: {shown}, {record.results['seconds']:.0f} s")
        del experiment
        jax.clear_caches()  # compiled programs of one row are not reused and hold memory
        gc.collect()
    return made


def _is_finished(run: Path, config: ConfigDict, say: Callable[[str], None]) -> bool:
    """Whether a workdir holds the results of a run of this config; damaged ones are named, and made again."""
    if not (run / results.FILE).exists():
        return False
    try:
        return workdir.config_of(run_record.load(run).content) == config
    except UserError as e:
        say(f"{run} is evaluated again: {e}")
        return False


@dataclass(frozen=True)
class TableRow:
    """One row of the table: a variant of the config.

    Attributes:
        title: title of the row in `table()`.
        scores: score per seed, as fractions.
        difference: mean difference from the first row over the test examples of all seeds; None in the first row.
        interval: its 95 % bootstrap interval. Examples of the same name are resampled together, since seeds may share them.
        p: two-sided p-value for no difference, from the same bootstrap.
        better: number of seeds whose score is higher than that of the first row.
        seconds: mean duration of the runs.
    """

    title: str
    scores: tuple[float, ...]
    difference: float | None
    interval: tuple[float, float] | None
    p: float | None
    better: int
    seconds: float


def measures(made: Mapping[str, Sequence[Path]]) -> dict[str, list[TableRow]]:
    """Returns, for each measure that all runs have, one row per variant.

    Raises:
        UserError: a run is damaged, or was scored on different examples from the first row with the same seed.
    """
    loaded = {title: [run_record.load(path) for path in paths] for title, paths in made.items()}
    every = [r for runs in loaded.values() for r in runs]
    keys = [k for k in every[0].per_example.measures if all(k in r.per_example.measures for r in every)]
    if not keys:
        raise UserError("the runs have no measure in common, such as accuracy or recall@1")
    return {per_example.score_of(key) or key: _rows(loaded, key) for key in keys}


def _rows(loaded: Mapping[str, Sequence[run_record.RunRecord]], key: str) -> list[TableRow]:
    first = next(iter(loaded.values()))
    rows = []
    for title, runs in loaded.items():
        scores = tuple(float(r.per_example.measures[key].mean()) for r in runs)
        seconds = float(np.mean([r.results["seconds"] for r in runs]))
        if runs is first:
            rows.append(TableRow(title, scores, None, None, None, 0, seconds))
            continue
        names: list[str] = []
        gains: list[np.ndarray] = []
        for a, b in zip(first, runs, strict=True):
            if a.per_example.names != b.per_example.names:
                raise UserError(f"{a.folder} and {b.folder} were scored on different examples")
            names.extend(a.per_example.names)
            gains.append(b.per_example.measures[key] - a.per_example.measures[key])
        gain = np.concatenate(gains)
        draws = _clustered(names, gain)
        better = sum(b > a for a, b in zip(rows[0].scores, scores, strict=True))
        rows.append(
            TableRow(title, scores, float(gain.mean()), significance.interval(draws),
                     significance.bootstrap_p(draws), better, seconds)
        )  # fmt: skip
    return rows


def markdown(found: Mapping[str, Sequence[TableRow]]) -> str:
    """Formats one Markdown table per measure."""
    return "\n".join(_markdown(name, rows) for name, rows in found.items())


def _markdown(name: str, rows: Sequence[TableRow]) -> str:
    count = len(rows[0].scores)
    lines = [
        f"| | {name}, mean | by seed | difference from {rows[0].title} | 95 % interval | p | higher in | s per run |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = ["", "", "", ""]
        if row.difference is not None and row.interval is not None and row.p is not None:
            low, high = row.interval
            p = "< 0.001" if row.p < 0.001 else f"{row.p:.3f}"
            cells = [
                f"{100 * row.difference:+.1f}",
                f"{100 * low:+.1f} … {100 * high:+.1f}",
                p,
                f"{row.better} of {count}",
            ]
        by_seed = ", ".join(f"{100 * s:.1f}" for s in row.scores)
        lines.append(
            f"| {row.title} | {100 * np.mean(row.scores):.1f} | {by_seed} | {' | '.join(cells)} | {row.seconds:.0f} |"
        )
    return "\n".join(lines) + "\n"


def _clustered(names: Sequence[str], values: np.ndarray) -> np.ndarray:
    """Returns bootstrap draws of the mean of values, with values of the same name resampled together."""
    _, group = np.unique(names, return_inverse=True)
    sums = np.stack([np.bincount(group, values), np.bincount(group)], axis=1)
    total, count = significance.bootstrap_means(sums).T
    return total / count
