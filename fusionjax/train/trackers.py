"""Experiment trackers beside metrics.jsonl: Weights & Biases, MLflow and Trackio, each if it is asked for and installed.

A resumed run continues its record there: the identifier is that of the run. Each tracker is set up by its own environment
variables (WANDB_MODE=offline, MLFLOW_TRACKING_URI, TRACKIO_DIR …).
"""

import contextlib
import dataclasses
import importlib.util
import math
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from fusionjax.errors import UserError


class Tracker(Protocol):
    """Takes what metrics.jsonl takes."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """What a tracker shows of a run.

    Attributes:
        workdir: of the run; its name is the run's.
        identifier: the same for every start of the run.
        project: under which it is filed.
        config: every field, as plain values.
    """

    workdir: Path
    identifier: str
    project: str
    config: Mapping[str, Any]


class WeightsAndBiases:
    """Writes to Weights & Biases; its files lie in the workdir."""

    def __init__(self, run: RunFacts):
        import wandb

        self._run = wandb.init(
            project=run.project, name=run.workdir.name, id=run.identifier, resume="allow", dir=str(run.workdir),
            config=dict(run.config), settings=wandb.Settings(silent=True, console="off"),
        )  # fmt: skip

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


class MLflow:
    """Writes to MLflow, without MLFLOW_TRACKING_URI to a database in the working directory, as MLflow itself does."""

    def __init__(self, run: RunFacts):
        import mlflow

        self._client = mlflow.MlflowClient()
        found = self._client.get_experiment_by_name(run.project)
        experiment = found.experiment_id if found else self._client.create_experiment(run.project)
        tag = "fusionjax.run"
        earlier = self._client.search_runs([experiment], f"tags.`{tag}` = '{run.identifier}'", max_results=1)
        if earlier:
            self._id = earlier[0].info.run_id
        else:
            made = self._client.create_run(experiment, run_name=run.workdir.name, tags={tag: run.identifier})
            self._id = made.info.run_id
            for name, value in _flat(run.config).items():
                self._client.log_param(self._id, name, str(value)[:500])

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in scalars.items():
            if math.isfinite(value):
                # MLflow's own rule for names: recall@1 is recall_1.
                self._client.log_metric(self._id, re.sub(r"[^\w\-. :/]", "_", name), float(value), step=step)

    def close(self) -> None:
        """See `Tracker`."""
        self._client.set_terminated(self._id)


class Trackio:
    """Writes to Trackio, whose database is local unless a Space is named."""

    def __init__(self, run: RunFacts):
        import trackio

        with contextlib.redirect_stdout(sys.stderr):  # what it prints is no score
            self._run = trackio.init(
                project=run.project, name=run.identifier, config=dict(run.config), resume="allow"
            )

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        """See `Tracker`."""
        with contextlib.redirect_stdout(sys.stderr):
            self._run.finish()


KINDS: dict[str, tuple[Callable[[RunFacts], Tracker], str, str]] = {
    "wandb": (WeightsAndBiases, "wandb", "wandb"),
    "mlflow": (MLflow, "mlflow", "mlflow"),
    "trackio": (Trackio, "trackio", "trackio"),
}
"""Name in `config.train.trackers` → class, module, package."""


def check_installed(names: tuple[str, ...]) -> None:
    """Raises UserError where a tracker is asked for whose package is not installed; what it is for stays without it."""
    for name in names:
        _, module, package = KINDS[name]
        if importlib.util.find_spec(module) is None:
            raise UserError(
                f"config.train.trackers names {name}, which is not installed: pip install {package}"
            )


def create(names: tuple[str, ...], run: RunFacts) -> list[Tracker]:
    """The trackers of a run.

    Args:
        names: keys of `KINDS`.
        run: what they show.
    """
    return [KINDS[name][0](run) for name in names]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found
