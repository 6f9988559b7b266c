"""The hook that evaluates and saves; both in one, so that a checkpoint is stored with its score."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Set
from typing import Protocol

from jax.sharding import Mesh
from ml_collections import ConfigDict

from fusionjax import progress
from fusionjax.config import impossible
from fusionjax.data.loading.stream import TrainStream
from fusionjax.data.source import Source
from fusionjax.evaluation.collect import collect
from fusionjax.experiment.input_pipeline import ImageFeed
from fusionjax.tasks.base.class_scorer import Predict
from fusionjax.tasks.base.protocol import Outputs, Results, Scorer, Variables
from fusionjax.train import checkpoint, loop, metrics, state

_SAVE = "save"

OnScores = Callable[[int, dict[str, float]], None]
"""Takes the step and the scores of an evaluation."""


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """The evaluation of some weights.

    Attributes:
        scalars: e.g. test/accuracy.
        results: of the scorer.
        outputs: predictions by split.
    """

    scalars: dict[str, float]
    results: Results
    outputs: Mapping[str, Outputs]


class Evaluate(Protocol):
    """Variables → their evaluation over every split of `data.eval_splits`."""

    def __call__(self, variables: Variables) -> Evaluation: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator:
    """See `Evaluate`.

    Attributes:
        scorer: of the task.
        predict: the scorer's, compiled.
        feed: of batches.
        sources: by split.
        mesh: of the devices.
    """

    scorer: Scorer
    predict: Predict
    feed: ImageFeed
    sources: Mapping[str, Source]
    mesh: Mesh

    def __call__(self, variables: Variables) -> Evaluation:
        """All processes take part."""
        outputs = {split: self._outputs(split, variables) for split in self.sources}
        results = self.scorer.evaluate(outputs, self.sources)
        scalars = {name: float(value) for name, value in self.scorer.scalars(results).items()}
        return Evaluation(scalars, results, outputs)

    def _outputs(self, split: str, variables: Variables) -> Outputs:
        with progress.phase(f"evaluating {split}", len(self.sources[split]), "images", log=False) as phase:
            batches = phase.track(self.feed.evaluation(split), self.feed.eval_batch)
            return collect(self.predict, variables, batches, self.mesh, output_names=self.scorer.output_names)


class Saver:
    """Saves the state together with the position in the data and what else a restart continues from.

    Args:
        keeper: takes the checkpoints.
        batches: the training batches.
        meter: of the log.
        seconds_before: spent by earlier starts of the run.
    """

    def __init__(
        self, keeper: checkpoint.Checkpointer, batches: TrainStream, meter: loop.Meter, seconds_before: float
    ):
        self._keeper, self._batches, self._meter, self._before = keeper, batches, meter, seconds_before
        self._began = self._saved_at = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since this start of the run."""
        return time.perf_counter() - self._began

    @property
    def minutes_since(self) -> float:
        """Since the last checkpoint, or the start."""
        return (time.perf_counter() - self._saved_at) / 60

    def has(self, step: int) -> bool:
        """Whether there is a checkpoint of this step."""
        return step in self._keeper.steps()

    def save(self, current: state.TrainState, best: float | None = None, *, pending: bool = False) -> None:
        """Writes a checkpoint.

        Args:
            current: the state. The loop may have taken further batches; the position is that of the state.
            best: its score, where the best one is kept.
            pending: whether its evaluation is due and has not taken place.
        """
        step = int(current.step)
        data = {
            "iterator": self._batches.get_state(step),
            "step": step,
            "seconds": self._before + self.seconds,
            "meter": self._meter.record(),
            "pending": pending,
        }
        self._keeper.save(step, current, data, best)
        self._saved_at = time.perf_counter()


@dataclasses.dataclass(frozen=True)
class Schedule:
    """After which steps a run evaluates and saves.

    Attributes:
        steps: of the run.
        evaluate_every: in steps, not a whole number in general; infinity for no evaluation during training.
        save_every: in steps.
        minutes: after which the state is saved in any case; infinity for never.
        at_end: whether the last step is evaluated here; the reported weights are evaluated after the run anyway.
    """

    steps: int
    evaluate_every: float
    save_every: int
    minutes: float
    at_end: bool

    @classmethod
    def of(cls, config: ConfigDict, steps: int, steps_per_epoch: float) -> "Schedule":
        """The schedule of `config.train`."""
        c = config.train
        every = max(1.0, c.eval_every_epochs * steps_per_epoch) if c.eval_every_epochs else math.inf
        minutes = c.checkpoint_minutes or math.inf
        return cls(steps, every, c.checkpoint_every, minutes, bool(c.best_metric))

    def evaluates(self, step: int) -> bool:
        """Whether the weights after `step` steps are evaluated."""
        if step == self.steps:
            return self.at_end
        if math.isinf(self.evaluate_every):
            return False
        near = round(step / self.evaluate_every)
        return any(k > 0 and round(self.evaluate_every * k) == step for k in (near - 1, near, near + 1))

    def saves(self, step: int) -> bool:
        """Whether the state after `step` steps is saved, whatever its score."""
        return step == self.steps or (step > 0 and step % self.save_every == 0)


class EvaluationHook:
    """Evaluates every `train.eval_every_epochs`; saves every `train.checkpoint_every` steps, after
    `train.checkpoint_minutes` without a checkpoint, and at the end.

    Args:
        config: of the run.
        scorer: of the task.
        schedule: when.
        evaluate: variables → evaluation.
        saver: takes the states.
        writer: takes the scores, or None on processes that do not write.
        meter: shows a line for every evaluation.
        steps_per_epoch: for that line.
        on_scores: called after each evaluation, when all is saved; an exception ends the run.
    """

    def __init__(
        self,
        config: ConfigDict,
        scorer: Scorer,
        schedule: Schedule,
        evaluate: Evaluate,
        saver: Saver,
        *,
        writer: metrics.Writer | None,
        meter: loop.Meter,
        steps_per_epoch: float,
        on_scores: OnScores | None = None,
    ):
        self._config, self._scorer, self._schedule = config, scorer, schedule
        self._evaluate, self._saver, self._writer, self._meter = evaluate, saver, writer, meter
        self._steps_per_epoch, self._on_scores = steps_per_epoch, on_scores
        self._evaluated, self._asked = -1, False

    def wish(self) -> str:
        """See `loop.Hook`."""
        return _SAVE if self._saver.minutes_since >= self._schedule.minutes else ""

    def due(self, step: int, asked: Set[str] = frozenset()) -> bool:
        """See `loop.Hook`."""
        self._asked = _SAVE in asked
        return self._schedule.evaluates(step) or self._saves(step)

    def _saves(self, step: int) -> bool:
        return self._schedule.saves(step) or self._asked

    def save(self, current: state.TrainState) -> None:
        """Saves the state with which a run ends early, unless it is saved already."""
        step = int(current.step)
        if not self._saver.has(step):
            pending = self._schedule.evaluates(step) and self._evaluated != step
            self._saver.save(current, pending=pending)

    def run(self, step: int, current: state.TrainState) -> None:
        """See `loop.Hook`."""
        best, scalars = None, {}
        if self._schedule.evaluates(step):
            scalars = self._evaluate(current.averaged).scalars
            best = best_score(self._config, self._scorer, scalars)
            if self._writer is not None:
                self._writer.write(step, scalars)
            self._show(step, scalars)
            self._evaluated = step
        if self._saves(step) or best is not None:
            self._saver.save(current, best)
        if scalars and self._on_scores is not None:
            self._on_scores(step, scalars)

    def _show(self, step: int, scalars: dict[str, float]) -> None:
        shown = ", ".join(
            f"{k} {100 * v:.1f} %" for k, v in scalars.items() if k.split("/")[1] in self._scorer.shown
        )
        loss = self._meter.last.get("train/loss")
        where = f"epoch {step / self._steps_per_epoch:.1f}, step {step}/{self._schedule.steps}"
        self._meter.note(
            f"{where}: {f'loss {loss:.3f}, ' if loss else ''}{shown}, {self._saver.seconds:.0f} s"
        )


def best_score(config: ConfigDict, scorer: Scorer, scalars: Mapping[str, float]) -> float | None:
    """The value that the best checkpoint maximises: `train.best_metric`, negated where lower is better; None without one."""
    name = config.train.best_metric
    if not name:
        return None
    return -scalars[name] if name.partition("/")[2] in scorer.lower_is_better else scalars[name]


def check_best_metric(config: ConfigDict, scorer: Scorer) -> None:
    """A UserError where `train.best_metric` is no score of the task."""
    metric = config.train.best_metric.partition("/")[2]
    if metric and metric not in scorer.score_names:
        raise impossible(
            config, "train.best_metric", f"this task's scores are {', '.join(scorer.score_names)}"
        )
