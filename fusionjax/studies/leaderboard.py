"""Results of a sweep: a table for the terminal, as CSV and as Markdown, two figures, the command of the best run."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.trial import FrozenTrial, TrialState

from fusionjax import files
from fusionjax.interpret import figures

if TYPE_CHECKING:
    from fusionjax.studies.search import Sweep

_INK = "#333333"


def rows(trials: Sequence[FrozenTrial], direction: str) -> list[dict[str, Any]]:
    """Returns one row per trial: finished trials by value, best first (ties by number), then the others by number.

    Args:
        trials: of the study.
        direction: minimize or maximize.

    Returns:
        rank (None where the trial did not finish), trial, state, value, step, seconds, parameters, note.
    """

    def order(trial: FrozenTrial) -> tuple[bool, float, int]:
        if trial.state != TrialState.COMPLETE or trial.value is None:
            return (True, 0.0, trial.number)
        return (False, trial.value if direction == "minimize" else -trial.value, trial.number)

    out = []
    for place, trial in enumerate(sorted(trials, key=order)):
        about = trial.user_attrs
        done = trial.state == TrialState.COMPLETE
        state = "failed" if about.get("diverged") else _STATES[trial.state]
        out.append({"rank": place + 1 if done else None, "trial": trial.number, "state": state,
                    "value": trial.value, "step": about.get("step"), "seconds": about.get("seconds"),
                    "parameters": dict(trial.params), "note": about.get("reason", "")})  # fmt: skip
    return out


_STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed",
           TrialState.RUNNING: "running", TrialState.WAITING: "waiting"}  # fmt: skip


def finish(sweep: "Sweep", config: str, overrides: Mapping[str, Any]) -> str:
    """Writes all files; returns the text for the terminal: the table, the files, the best run.

    Args:
        sweep: see `fusionjax.studies.search`, opened.
        config: value of --config.
        overrides: see `best_command`.
    """
    found, names, folder = sweep.rows(), list(sweep.space.fields), sweep.folder
    write(folder, found, names, sweep.metric)
    made = [folder / "leaderboard.csv", folder / "leaderboard.md", *draw(sweep.study, folder, sweep.metric)]
    best = best_command(found, config, {**overrides, "train.best_metric": sweep.metric}, folder)
    last = f"the best: {best}" if best else "no trial finished; the notes in leaderboard.csv say why"
    return f"{table(found, names, sweep.metric)}\nwritten: {', '.join(map(str, made))}\n{last}"


def write(folder: Path, found: Sequence[Mapping[str, Any]], names: Sequence[str], metric: str) -> None:
    """Writes leaderboard.csv (full precision) and leaderboard.md.

    Args:
        folder: of the sweep.
        found: of `rows`.
        names: of the parameters, in order.
        metric: that the values are of.
    """
    head = ["rank", "trial", "state", metric, "step", "seconds", *names, "note"]
    columns = ("rank", "trial", "state", "value", "step", "seconds")
    rows = [
        [*(row[c] for c in columns), *(row["parameters"].get(name) for name in names), row["note"]]
        for row in found
    ]
    files.write_text(folder / "leaderboard.csv", files.csv_text([head, *rows]))
    lines = [head, ["---"] * len(head), *(_cells(row, names) for row in found)]
    escaped = ["| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines]
    files.write_text(folder / "leaderboard.md", "".join(escaped))


def table(found: Sequence[Mapping[str, Any]], names: Sequence[str], metric: str, most: int = 20) -> str:
    """Formats the first `most` rows for a terminal, with aligned columns, and the number of rows left out."""
    lines = [["rank", "trial", "state", metric, "step", "seconds", *names, "note"]]
    lines += [_cells(row, names) for row in found[:most]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    if len(found) > most:
        text.append(f"… and {len(found) - most} more in leaderboard.csv")
    return "\n".join(text)


def _cells(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    def shown(value: object, form: str = "") -> str:
        return "" if value is None else f"{value:{form}}"

    values = (row["parameters"].get(name) for name in names)
    return [shown(row["rank"]), shown(row["trial"]), row["state"], shown(row["value"], ".4f"), shown(row["step"]),
            shown(row["seconds"], ".0f"), *(f"{v:.4g}" if isinstance(v, float) else shown(v) for v in values),
            row["note"]]  # fmt: skip


def best_command(
    found: Sequence[Mapping[str, Any]], config: str, overrides: Mapping[str, Any], folder: Path
) -> str | None:
    """Returns the command that runs the best config as its trial did, with a report; None if no trial finished.

    Args:
        found: of `rows`.
        config: value of --config.
        overrides: dotted field → value, of the sweep's own command line; the trial's parameters come after them.
        folder: of the sweep; the run goes below it.
    """
    if not found or found[0]["rank"] is None:
        return None
    fields = {**overrides, **found[0]["parameters"]}
    words = ["python", "-m", "fusionjax.main", f"--config={config}"]
    words += [f"--config.{name}={value}" for name, value in fields.items()]
    return shlex.join([*words, f"--workdir={folder / 'best'}"])


def importances(study: optuna.Study) -> dict[str, float]:
    """Computes the share of the variance of the value that each parameter explains (fANOVA; Hutter et al., ICML 2014).

    Returns:
        Parameter → share, largest first; empty if the finished trials do not determine it: fewer than two, or all equal.
    """
    values = {t.value for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))}
    if len(values) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    try:
        return optuna.importance.get_param_importances(study, evaluator=evaluator)
    except (
        ValueError,
        RuntimeError,
    ):  # Optuna raises these if no parameter varies or no tree has any variance
        return {}


def draw(study: optuna.Study, folder: Path, metric: str) -> list[Path]:
    """Writes history.png, and importance.png if importances can be computed; returns their paths."""
    made = [figures.save(history(study, metric), folder / "history.png")]
    if shares := importances(study):
        made.append(figures.save(bars(shares, metric), folder / "importance.png"))
    return made


def history(study: optuna.Study, metric: str) -> Figure:
    """Draws the value of every trial by number, and the best so far; crosses are pruned trials, at their last score."""
    figure, axes = _axes(7, 4, f"{metric} by trial")
    trials = study.get_trials(deepcopy=False)
    done = [(t.number, t.value) for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
    pruned = [(t.number, t.value) for t in trials if t.state == TrialState.PRUNED and t.value is not None]
    best = min if study.direction == optuna.study.StudyDirection.MINIMIZE else max
    if done:
        axes.plot(*zip(*done, strict=True), "o", color=figures.PALETTE[0], markersize=4, label="trial")
        far = [(n, best(v for m, v in done if m <= n)) for n, _ in done]
        axes.step(*zip(*far, strict=True), where="post", color=figures.PALETTE[1], label="best so far")
    if pruned:
        axes.plot(*zip(*pruned, strict=True), "x", color="#999999", markersize=5, label="pruned")
    if done or pruned:
        axes.legend(frameon=False, fontsize=9)
    axes.set_xlabel("trial", color=_INK)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    return figure


def bars(shares: Mapping[str, float], metric: str) -> Figure:
    """Draws the importance of each parameter, largest on top."""
    figure, axes = _axes(7, 1.2 + 0.35 * len(shares), f"What {metric} depends on")
    names = [figures.label(name, 40) for name in shares]
    drawn = axes.barh(names, list(shares.values()), color=figures.PALETTE[0], height=0.6)
    axes.bar_label(drawn, fmt="%.2f", padding=3, fontsize=9, color=_INK)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 1.1)
    axes.set_xlabel("share of the variance (fANOVA)", color=_INK)
    return figure


def _axes(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    figures.apply_style(axes, title)
    return figure, axes
