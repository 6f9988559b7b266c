"""The hook that evaluates and saves: where both are due together, so that a checkpoint knows its score."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fusionjax.config import impossible
from fusionjax.evaluation.collect import collect
from fusionjax.train import checkpoint, loop, metrics, state


class Judge:
    """Evaluates every `train.eval_every_epochs`, saves every `train.checkpoint_every` steps and at the end.

    Args:
        config: of the run.
        task: see `fusionjax.tasks`.
        predict: the task's, compiled.
        feed: see `fusionjax.experiment.input_pipeline`.
        sources: evaluation source by split.
        mesh: of the devices.
        keeper: takes the checkpoints.
        writer: takes the scores, or None on processes that do not write.
        batches: the training batches, whose position is saved.
        meter: shows a line for every evaluation.
        steps, steps_per_epoch: of the run.
        seconds_before: spent by earlier starts of the run.
        on_scores: called after each evaluation, when all is saved; what it raises ends the run.

    Attributes:
        outputs: predictions of the last evaluation, by split.
    """

    def __init__(
        self,
        config: ConfigDict,
        task: Any,
        predict: Callable[..., Any],
        feed: Any,
        sources: Mapping[str, Any],
        mesh: Mesh,
        keeper: checkpoint.Checkpointer,
        writer: metrics.Writer | None,
        batches: Any,
        meter: loop.Meter,
        *,
        steps: int,
        steps_per_epoch: float,
        seconds_before: float = 0.0,
        on_scores: Callable[[int, dict[str, float]], None] | None = None,
    ):
        self.config, self.task, self.predict, self.feed, self.mesh = config, task, predict, feed, mesh
        self.sources = sources
        self.keeper, self.writer, self.batches, self.meter = keeper, writer, batches, meter
        self.steps, self.steps_per_epoch, self.seconds_before = steps, steps_per_epoch, seconds_before
        self.on_scores = on_scores
        self.outputs: dict[str, dict[str, np.ndarray]] = {}
        self._began = time.perf_counter()
        c = config.train
        every = max(1.0, c.eval_every_epochs * steps_per_epoch) if c.eval_every_epochs else math.inf
        # At the end the run evaluates anyway, what it reports; here only where the best is looked for.
        self._evaluate = {round(every * (i + 1)) for i in range(math.floor(steps / every))} - {steps}
        self._evaluate |= {steps} if c.best_metric else set()
        self._save = set(range(c.checkpoint_every, steps, c.checkpoint_every)) | {steps}

    def due(self, step: int) -> bool:
        """See `loop.Hook`."""
        return step in self._evaluate or step in self._save

    def run(self, step: int, current: state.TrainState) -> None:
        """See `loop.Hook`."""
        best = None
        if step in self._evaluate:
            scalars, _ = self.evaluate(current.averaged)
            if self.writer is not None:
                self.writer.write(step, scalars)
            best = best_score(self.config, self.task, scalars)
            self._show(step, scalars)
        if step in self._save or best is not None:
            self.save(current, best)
        if step in self._evaluate and self.on_scores is not None:
            self.on_scores(step, scalars)

    def evaluate(self, variables: Any) -> tuple[dict[str, float], dict[str, Any]]:
        """Scores by name, such as test/accuracy, and the full results by split and branch."""
        for split in self.config.data.eval_splits:
            self.outputs[split] = collect(
                self.predict, variables, self.feed.evaluation(split), self.mesh, output_names=self.task.keep
            )
        results = self.task.evaluate(self.outputs, self.sources)
        return {name: float(value) for name, value in self.task.scalars(results).items()}, results

    def save(self, current: state.TrainState, best: float | None = None) -> None:
        """A checkpoint of the state and of the position in the data."""
        step = int(current.step)
        seconds = self.seconds_before + time.perf_counter() - self._began
        data = {"iterator": self.batches.get_state(), "step": step, "seconds": seconds}
        self.keeper.save(step, current, data, best)

    def save_good(self, current: state.TrainState) -> None:
        """What is kept when a step was not finite: the state that it left as it was, unless that is saved already."""
        if int(current.step) not in self.keeper.steps():
            self.save(current)

    def _show(self, step: int, scalars: dict[str, float]) -> None:
        shown = ", ".join(
            f"{k} {100 * v:.1f} %" for k, v in scalars.items() if k.split("/")[1] in self.task.shown
        )
        loss = self.meter.last.get("train/loss")
        text = f"epoch {step / self.steps_per_epoch:.1f}, step {step}/{self.steps}: {f'loss {loss:.3f}, ' if loss else ''}"
        self.meter.note(f"{text}{shown}, {time.perf_counter() - self._began:.0f} s")


def best_score(config: ConfigDict, task: Any, scalars: dict[str, float]) -> float | None:
    """What the best checkpoint has most of: `train.best_metric`, negated where the lowest is best; None without one."""
    name = config.train.best_metric
    if not name:
        return None
    return -scalars[name] if name.partition("/")[2] in task.lower_is_better else scalars[name]


def check_best_metric(config: ConfigDict, task: Any) -> None:
    """A UserError where `train.best_metric` is no score of the task."""
    metric = config.train.best_metric.partition("/")[2]
    if metric and metric not in task.score_names:
        raise impossible(config, "train.best_metric", f"this task's scores are {', '.join(task.score_names)}")
