"""The training loop that all tasks share. A task differs in its step and its hooks, never in the loop."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from types import MappingProxyType
from typing import Any, Protocol

import jax
import numpy as np
from clu import metrics as clu_metrics

from fusionjax import interruption, progress
from fusionjax.distributed import hosts
from fusionjax.errors import UserError
from fusionjax.train import metrics as metrics_lib
from fusionjax.train.state import TrainState
from fusionjax.train.step import TrainStep
from fusionjax.types import Metrics, PyTree

Batch = dict[str, np.ndarray]


STOP = "stop"
"""What a process asks for that got a signal."""


class Hook(Protocol):
    """Something that runs periodically: an evaluation, a checkpoint, a profile."""

    def wish(self) -> str:
        """What this process asks all processes for at the next step because of its own clock, or ""."""

    def due(self, step: int, asked: Set[str] = frozenset()) -> bool:
        """Returns whether to run after `step` updates in all; `asked` are the wishes of all processes."""

    def run(self, step: int, state: TrainState) -> None:
        """Runs with the state after `step` updates, whose metrics are known to be finite."""


class Diverged(UserError):
    """The loss, the gradient or the new parameters are NaN or Inf. The state is the last finite one."""

    def __init__(self, step: int, what: str):
        super().__init__(
            f"{what} not finite at step {step}; the state before it is kept, and a restart meets the same batch again. Lower "
            "config.optim.learning_rate, set config.optim.clip_norm or use --config.precision=float32, with a new --workdir; "
            "or let --config.train.skip_nonfinite=N pass over up to N such batches"
        )
        self.step = step


def fit(
    state: TrainState,
    train_step: TrainStep,
    batches: Iterator[Batch],
    *,
    place: Callable[[Batch], PyTree],
    start: int,
    steps: int,
    hooks: Sequence[Hook],
    meter: "Meter",
    skips: jax.Array,
    save: Callable[[TrainState], None],
) -> TrainState:
    """Runs `train_step` from `start` to `steps`.

    Args:
        state: the initial state, whose buffers are donated.
        train_step: compiled, (state, batch, skips) → (state, metrics).
        batches: host batches; a hook saves the position of the iterator.
        place: puts a batch on the devices.
        start, steps: number of updates done, and in all.
        hooks: called after every step at which they are due, in order.
        meter: records the metrics with a delay of one step: those of step n are fetched while step n + 1 runs.
        skips: float32 scalar on the devices, how many steps that are not finite may be passed over.
        save: saves the last finite state before `Diverged` or `Interrupted` is raised.

    Returns:
        The state after the last step.

    Raises:
        Diverged: the loss, the gradient or the new parameters are NaN or Inf.
        Interrupted: a signal arrived; see `fusionjax.interruption`.
    """
    with contextlib.ExitStack() as compiled:
        for step in range(start, steps):
            batch = place(next(batches))
            agreed = _agreed(step + 1, hooks) if hosts.several() else None
            # An implicit copy between host and device in the hot path is an error.
            with compiling(step == start), jax.transfer_guard("disallow"):
                state, metrics = train_step(state, batch, skips)
                skips = skips - metrics["nonfinite"].total
            if step == start:  # from here on a signal is answered within a step
                compiled.enter_context(interruption.deferred())
            asked = _wishes(hooks) if agreed is None else agreed
            due, stop = [hook for hook in hooks if hook.due(step + 1, asked)], STOP in asked
            try:
                meter.push(step + 1, metrics)
                if due or stop or step + 1 == steps:
                    meter.flush()
                for hook in due:
                    began = time.perf_counter()
                    hook.run(step + 1, state)
                    meter.skip(time.perf_counter() - began)
                if stop:
                    interruption.request()
                    raise interruption.Interrupted
            except (Diverged, interruption.Interrupted):
                save(state)
                raise
    return state


def _wishes(hooks: Sequence[Hook]) -> frozenset[str]:
    own = {STOP} if interruption.requested() else set()
    return frozenset(own | {wish for hook in hooks if (wish := hook.wish())})


def _agreed(step: int, hooks: Sequence[Hook]) -> frozenset[str]:
    """What any of the processes asks for, once all of them are ready for a step."""
    said = hosts.meet(f"step {step}", wish=" ".join(_wishes(hooks)))
    return frozenset(word for words in said.values() for word in words.split())


def compiling(first: bool) -> contextlib.AbstractContextManager[object]:
    """Announces the first call of a step, which compiles it."""
    return progress.phase("compiling the training step") if first else contextlib.nullcontext()


class Meter:
    """Averages the metrics between two log lines, shows progress, and stops on NaN or Inf.

    Args:
        writer: of metrics.jsonl, or None on processes that do not write.
        start, steps: as for `fit`.
        log_every: steps between two log lines.
        batch_size: images per step, over all devices.
        show: announce the training and its progress, see `fusionjax.progress`.
        allowed: number of steps that are not finite to pass over before `Diverged` is raised.
        record: of an earlier start, from `record`.

    Attributes:
        last: the last log line.
        skipped: steps that were passed over, in all starts of the run.
    """

    def __init__(
        self,
        writer: metrics_lib.Writer | None,
        *,
        start: int,
        steps: int,
        log_every: int,
        batch_size: int,
        show: bool,
        allowed: int = 0,
        record: Mapping[str, Any] = MappingProxyType({}),
    ):
        self._writer, self._log_every, self._batch_size = writer, log_every, batch_size
        self._pending: tuple[int, Metrics] | None = None
        window = {name: _average(*pair) for name, pair in record.get("window", {}).items()}
        self._window: list[Metrics] = [window] if window else []
        self._allowed, self.skipped = allowed, list[int](record.get("skipped", ()))
        self._since = (start, time.perf_counter())
        self.last: dict[str, float] = {}
        self._words = ""
        self._show, self._open = show, contextlib.ExitStack()
        self._phase = (
            self._open.enter_context(progress.phase("training", steps, "steps", done=start)) if show else None
        )

    def push(self, step: int, metrics: Metrics) -> None:
        """Takes the metrics of `step`, which may still be in computation, and records those of the previous step.

        Raises:
            Diverged: the previous step was not finite.
        """
        previous, self._pending = self._pending, (step, metrics)
        if previous is not None:
            self._take(*previous)

    def flush(self) -> None:
        """Records the last step too; called before a checkpoint, so that no diverged state is ever saved.

        Raises:
            Diverged: the last step was not finite.
        """
        previous, self._pending = self._pending, None
        if previous is not None:
            self._take(*previous)

    def skip(self, seconds: float) -> None:
        """Excludes the time of an evaluation or a checkpoint, in seconds, from images/s."""
        self._since = (self._since[0], self._since[1] + seconds)

    def note(self, text: str) -> None:
        """Prints a line, above the live line if there is one."""
        if self._show:
            progress.line(text)

    def record(self) -> dict[str, Any]:
        """What a later start needs to log the same numbers; JSON-serialisable, without the step that is in computation."""
        merged = metrics_lib.merge(self._window)
        window = {name: [float(value.total), float(value.count)] for name, value in merged.items()}
        return {"window": window, "skipped": self.skipped}

    def close(self) -> None:
        """Ends the phase."""
        self._open.close()

    def _take(self, step: int, metrics: Metrics) -> None:
        metrics = jax.device_get(metrics)
        if self._phase is not None:
            self._phase.advance(note=self._words)
        if float(metrics["nonfinite"].total):
            self._pass_over(step, metrics)
        else:
            self._window.append(metrics)
        if step % self._log_every == 0:
            self._log(step)

    def _pass_over(self, step: int, metrics: Metrics) -> None:
        found = [float(metrics[name].total) for name in ("loss", "grad_norm")]
        words = ("the loss is", "the gradient is", "the parameters after the update are")
        what = next((w for w, x in zip(words, found, strict=False) if not math.isfinite(x)), words[-1])
        if len(self.skipped) >= self._allowed:
            raise Diverged(step, what)
        self.skipped.append(step)
        self.note(f"{what} not finite at step {step}: its batch is passed over, no. {len(self.skipped)}")

    def _log(self, step: int) -> None:
        values = metrics_lib.compute(metrics_lib.merge(self._window))
        values.pop("nonfinite", None)
        if self.skipped:
            values["skipped"] = float(len(self.skipped))
        self._window.clear()
        now = time.perf_counter()
        before, then = self._since
        self._since = (step, now)
        rate = (step - before) * self._batch_size / max(now - then, 1e-9)
        self.last = {f"train/{name}": value for name, value in values.items()} | {
            "train/images_per_second": rate
        }
        if self._writer is not None:
            self._writer.write(step, self.last)
        self._words = f"loss {values.get('loss', math.nan):.4f}, {rate:.0f} images/s"


def _average(total: float, count: float) -> clu_metrics.Average:
    return clu_metrics.Average(total=np.float32(total), count=np.float32(count))
