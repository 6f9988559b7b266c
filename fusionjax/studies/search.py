"""The trials of a sweep: each is drawn, claimed by one worker, run, possibly pruned, and reported; resumable at any point.

Optuna stores the study (the parameters and scores of all trials) in a journal of JSON lines or a database. A worker claims a
trial with a file lock, which the kernel releases however the worker ends: a running trial without a lock was left by a worker
that died, and is resumed from its own checkpoint with its own parameters.
"""

import contextlib
import fcntl
import json
import math
import re
import secrets
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal

import jax
import numpy as np
import optuna
from ml_collections import ConfigDict
from optuna.distributions import BaseDistribution
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from fusionjax import disk_cache, tasks
from fusionjax.errors import UserError, folder_errors
from fusionjax.evaluation.collect import NotFinite
from fusionjax.experiment import trainer, workdir
from fusionjax.experiment.evaluation_hook import check_best_metric
from fusionjax.studies import leaderboard, locks, search_space
from fusionjax.tasks.base.protocol import Facts
from fusionjax.train.loop import Diverged

optuna.logging.set_verbosity(optuna.logging.ERROR)

PRUNERS = {
    "": lambda: optuna.pruners.NopPruner(),
    "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=5),
    "halving": lambda: optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
}


def prepare(config: ConfigDict, folder: Path) -> trainer.Experiment:
    """Creates the run of a trial and checks it as far as possible without computing.

    Raises:
        UserError: the config, the model, the optimiser's patterns or the data set are invalid.
    """
    run = trainer.Experiment(config, folder)
    run.optimizer()
    return run


class Sweep:
    """A search over a space of configs. The constructor checks everything and writes nothing.

    Args:
        base: config that every trial begins with.
        spec: what the config file's `sweep()` returned; see `fusionjax.studies.search_space`.
        folder: of the sweep; each trial's workdir is below it.
        trials: number of trials in all; None for the whole grid.
        sampler: tpe, random or grid.
        seed: of the sampler. Trial n is drawn with (seed, n), so stopping changes nothing.
        pruner: "", median or halving.
        metric: <split>/<score> to choose by; "" for `train.best_metric`.
        storage: "" for a journal in `folder`, else the URL of a database (sqlite:///…).
        allow_test: choose by a test split all the same.
        reports: let every trial write its page.

    Raises:
        UserError: whatever of this cannot be.

    Attributes:
        count: of trials in all.
        study: Optuna's, after `open`.
    """

    def __init__(
        self,
        base: ConfigDict,
        spec: Mapping[str, Any],
        folder: Path,
        *,
        trials: int | None,
        sampler: str = "tpe",
        seed: int = 0,
        pruner: str = "",
        metric: str = "",
        storage: str = "",
        allow_test: bool = False,
        reports: bool = False,
    ):
        self.metric = metric or base.train.best_metric
        if not self.metric:
            raise UserError(
                "--metric is missing, and config.train.best_metric is empty: name what to choose by, e.g. val/accuracy"
            )
        search_space.check_metric(self.metric, base, allow_test=allow_test)
        shared = {"train.best_metric": self.metric, "report.enabled": reports}
        if base.data.cache.enabled and not base.data.cache.folder:
            shared["data.cache.folder"] = str(Path(folder) / "features")  # a frozen encoder runs once a sweep
        self.base = search_space.fill(base, shared)
        scorer = tasks.create(self.base, Facts(("a", "b"))).scorer
        check_best_metric(self.base, scorer)
        lowest = self.metric.partition("/")[2] in scorer.lower_is_better
        self.direction: Literal["minimize", "maximize"] = "minimize" if lowest else "maximize"
        if pruner and not base.train.eval_every_epochs:
            raise UserError(
                "--prune looks at evaluations on the way: set config.train.eval_every_epochs above 0"
            )
        self.space = search_space.Space(spec, self.base)
        self._grid = self.space.grid() if sampler == "grid" else None
        if self._grid is not None:
            self.count = min(trials or len(self._grid), len(self._grid))
        elif trials is None:
            raise UserError("--trials is missing: how many configs to try, e.g. --trials=50")
        else:
            self.count = trials
        self.folder, self.seed, self.pruner, self.storage = Path(folder), seed, pruner, storage
        self._identity = {"metric": self.metric, "sampler": sampler, "seed": seed, "pruner": pruner,
                          "space": self.space.described(),
                          "config": json.loads(self.base.to_json_best_effort())}  # fmt: skip
        self._sampler_name = sampler

    # -- the study ------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Makes the folder and the study, or finds those of an earlier start.

        Raises:
            UserError: a folder that cannot be written or belongs to another sweep, a storage that cannot be opened.
        """
        with folder_errors(f"--workdir={self.folder}"):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / ".lock").open("ab").close()
        path = self.folder / "sweep.json"
        with self._locked():
            if path.exists():
                name = self._same_sweep(path)
            elif any(self.folder.glob("checkpoints*")) or (self.folder / "config.json").exists():
                raise UserError(f"--workdir={self.folder} holds a run, not a sweep; name another folder")
            else:
                name = f"{self.folder.absolute().name}-{secrets.token_hex(4)}"
            self.study = self._study(name, new=not path.exists())
            content = {"study": name, **self._identity}
            disk_cache.write_json(path, content)

    def _same_sweep(self, path: Path) -> str:
        """Name of the study in sweep.json, after a look that the rest of it is this sweep."""
        try:
            stored = disk_cache.read_json(path)
            before = workdir.flattened({k: stored[k] for k in self._identity})
            name = str(stored["study"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            raise UserError(
                f"{path} is damaged ({_one_line(e)}); restore it, or begin anew in another --workdir"
            ) from None
        now = workdir.flattened(json.loads(json.dumps(self._identity)))
        free = tuple(f"config.{field}" for field in workdir.FREE)
        for key in sorted(set(before) | set(now)):
            if before.get(key) != now.get(key) and not key.startswith(free):
                raise UserError(
                    f"--workdir={self.folder} belongs to another sweep: {key} is {before.get(key)!r} there and "
                    f"{now.get(key)!r} here; use another --workdir, or the same command to go on"
                )
        return name

    def _study(self, name: str, *, new: bool) -> optuna.Study:
        storage = self._database() if self.storage else self._journal()
        pruner = PRUNERS[self.pruner]()
        if new:
            return optuna.create_study(
                storage=storage, study_name=name, direction=self.direction, pruner=pruner
            )
        try:
            return optuna.load_study(storage=storage, study_name=name, pruner=pruner)
        except KeyError:
            raise UserError(
                f"the study {name!r} of --workdir={self.folder} is not in that storage; give the --storage it was begun with"
            ) from None

    def _journal(self) -> optuna.storages.JournalStorage:
        path = self.folder / "journal.jsonl"
        lock = locks.JournalLock(path)
        try:
            lock.acquire()
            try:
                lock.check()
            finally:
                lock.release()
            backend = JournalFileBackend(str(path), lock_obj=lock)  # type: ignore[arg-type]  # its base is private
            return optuna.storages.JournalStorage(backend)
        except OSError:
            raise  # the disk's, not the journal's
        except Exception as e:  # of a damaged line Optuna raises whatever its content leads to
            raise UserError(
                f"{path} is damaged ({_one_line(e)}); restore it, or begin anew in another --workdir"
            ) from None

    def _database(self) -> optuna.storages.RDBStorage:
        from sqlalchemy.exc import SQLAlchemyError

        waits = {"connect_args": {"timeout": 60}} if self.storage.startswith("sqlite") else {}
        try:
            return optuna.storages.RDBStorage(self.storage, engine_kwargs=waits)
        except (SQLAlchemyError, ImportError, RuntimeError, ValueError) as e:
            shown = re.sub(r"://[^@/]*@", "://…@", self.storage)
            said = (str(getattr(e, "orig", None) or e).strip().splitlines() or [type(e).__name__])[0]
            raise UserError(
                f"--storage={shown} cannot be opened ({said}); give a URL such as sqlite:///sweeps/study.db"
            ) from None

    # -- trials ---------------------------------------------------------------------------------------------------------

    def work(self) -> None:
        """Runs trials until all are finished or claimed by other workers.

        Raises:
            UserError: an error that does not depend on the parameters of a trial, such as unreadable data or a workdir in use.
                The next start then resumes the trial.
        """
        while (claimed := self._claim()) is not None:
            trial, values, held = claimed
            with held:
                self._run(trial, values)
            with self._locked():
                leaderboard.write(self.folder, self.rows(), list(self.space.fields), self.metric)
        states = [t.state for t in self.study.get_trials(deepcopy=False)]
        if running := states.count(TrialState.RUNNING):
            _say(f"{running} of {len(states)} trials still run in other workers")

    def rows(self) -> list[dict[str, Any]]:
        """See `leaderboard.rows`."""
        return leaderboard.rows(self.study.get_trials(deepcopy=False), self.direction)

    def folder_of(self, number: int) -> Path:
        """The workdir of a trial."""
        return self.folder / f"trial_{number:05d}"

    def _claim(self) -> tuple[optuna.Trial, dict[str, Any], IO[bytes]] | None:
        """Claims a trial that a dead worker left, else a new one: (trial, values, lock); None if no trial is left."""
        with self._locked():
            known = self.study.get_trials(deepcopy=False)
            for left in (t for t in known if t.state == TrialState.RUNNING):
                held = locks.hold(self.folder_of(left.number))
                if held is not None:
                    self.study.sampler = self._sampler(left.number)
                    # Optuna has no public way to take up a trial that runs.
                    trial = optuna.Trial(self.study, left._trial_id)
                    return trial, self.space.suggest(trial), held
            if len(known) >= self.count:
                return None
            self.study.sampler = self._sampler(len(known))
            trial = self.study.ask()
            held = locks.hold(self.folder_of(trial.number))
            if held is None:
                raise UserError(f"{self.folder_of(trial.number)} is in use by another sweep")
            return trial, self.space.suggest(trial), held

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """Creates the sampler of one trial; one for all trials would restart at its first draw after every start."""
        if self._grid is not None:
            return _Grid(self._grid)
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        if self._sampler_name == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # Optuna 4 calls it that
            return optuna.samplers.TPESampler(seed=seed, constant_liar=True)

    def _run(self, trial: optuna.Trial, values: Mapping[str, Any]) -> None:
        folder = self.folder_of(trial.number)
        shown = ", ".join(f"{name}={value!r}" for name, value in values.items())
        _say(f"trial {trial.number} ({trial.number + 1} of {self.count}): {shown}")
        try:
            run = prepare(search_space.fill(self.base, values), folder)
        except UserError as e:
            self._tell(trial, TrialState.PRUNED, reason=str(e))
            return
        try:
            summary = run.train(on_scores=self._watch(trial, run))
        except _Pruned:
            self._tell(trial, TrialState.PRUNED)
        except UserError as e:
            diverged = isinstance(e, Diverged | NotFinite)
            if not diverged and " is not possible: " not in str(e):
                raise UserError(f"trial {trial.number}: {e}") from None
            # Pruned for the sampler, which then avoids such parameters: it does not look at failed trials.
            self._tell(trial, TrialState.PRUNED, reason=str(e), diverged=diverged)
        except jax.errors.JaxRuntimeError as e:
            if "RESOURCE_EXHAUSTED" not in str(e) or "No space left" in str(e):
                raise
            self._tell(trial, TrialState.FAIL, reason=f"out of memory: {str(e).splitlines()[0]}")
        else:
            value, about = float(summary[self.metric]), {k: summary[k] for k in ("step", "seconds")}
            if math.isfinite(value):
                self._tell(trial, TrialState.COMPLETE, value, **about)
            else:
                self._tell(trial, TrialState.FAIL, reason=f"{self.metric} is {value}", **about)
        finally:
            jax.clear_caches()  # programs of one trial are of no use to the next, and keep their memory

    def _watch(
        self, trial: optuna.Trial, run: trainer.Experiment
    ) -> Callable[[int, Mapping[str, float]], None]:
        """Returns a function that reports the scores of every evaluation and raises `_Pruned` if the trial is pruned.

        Scores are compared by the number of the evaluation, not by the step: batch sizes may differ between trials.
        """
        every = run.config.train.eval_every_epochs * run.steps_per_epoch
        stored = self.study.get_trials(deepcopy=False)[trial.number]
        known = set(stored.intermediate_values)
        began, before = time.perf_counter(), stored.user_attrs.get("seconds", 0.0)

        def on_scores(step: int, scores: Mapping[str, float]) -> None:
            value, number = float(scores[self.metric]), max(1, round(step / every)) if every else 1
            trial.set_user_attr("step", int(step))
            trial.set_user_attr("seconds", before + time.perf_counter() - began)
            if number not in known and math.isfinite(value):
                known.add(number)
                trial.report(value, number)
            if self.pruner and step < run.steps and trial.should_prune():
                raise _Pruned

        return on_scores

    def _tell(
        self, trial: optuna.Trial, state: TrialState, value: float | None = None, **about: object
    ) -> None:
        for key, what in about.items():
            trial.set_user_attr(key, " ".join(what.split()) if isinstance(what, str) else what)
        self.study.tell(trial, value, state)
        row = next(r for r in self.rows() if r["trial"] == trial.number)
        score = "" if row["value"] is None else f", {self.metric} {row['value']:.4f} at step {row['step']}"
        rank = f", rank {row['rank']}" if row["rank"] else ""
        _say(f"trial {trial.number}: {row['state']}{score}{rank}{': ' if row['note'] else ''}{row['note']}")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class _Pruned(Exception):
    """The trial is pruned."""


class _Grid(optuna.samplers.BaseSampler):
    """Trial n is point n of the grid."""

    def __init__(self, points: list[dict[str, Any]]) -> None:
        self._points = points

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._points[trial.number][param_name]


def _one_line(error: Exception) -> str:
    """What an error says; its type where it says nothing, or only the name of what is missing."""
    text = " ".join(str(error).split())[:200]
    return text if text and not isinstance(error, KeyError) else f"{type(error).__name__} {text}".strip()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
