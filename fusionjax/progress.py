"""What a command is doing: a live line on a terminal, lines with the time elsewhere, nothing where no command runs.

`showing` is entered by a command. Code below it announces its phases with `phase`, whoever called it; in a notebook or a test
that costs nothing and prints nothing.
"""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from fusionjax import interruption

if TYPE_CHECKING:
    from rich.progress import TaskID

EVERY = 15.0
"""Seconds between two lines of a phase where there is no terminal."""
_WORTH = 2.0
"""Seconds from which on a phase that has ended gets a line."""


class Phase:
    """A part of the work.

    Args:
        name: e.g. "training".
        total: how much there is to do; None if unknown.
        unit: plural noun of what is counted, e.g. "images".
        done: how much an earlier start has done.
        log: whether it gets lines where there is no terminal.

    Attributes:
        done: how much is done.
        note: a few words on how it goes, e.g. "loss 1.234".
    """

    def __init__(self, name: str, total: int | None, unit: str, done: int, log: bool):
        self.name, self.total, self.unit, self.done, self.log = name, total, unit, done, log
        self.note, self.began = "", time.monotonic()
        self._first: tuple[float, int] | None = (
            None  # the first piece of work, which may compile, says nothing of the rest
        )

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Counts what was done since the last call."""
        self.done += count
        if self.total is not None:
            self.done = min(self.done, self.total)
        self.note = self.note if note is None else note
        self._first = self._first or (time.monotonic(), self.done)
        _State.display.update(self)

    def track(self, items: Iterable[Any], count: int = 1) -> Iterator[Any]:
        """The items, each of which counts as `count` when the next is asked for."""
        for item in items:
            yield item
            self.advance(count)

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.began

    def text(self) -> str:
        """How far it is, in words."""
        parts = [self.name]
        if self.total:
            parts[0] += f" {self.done:,} of {self.total:,} {self.unit}".rstrip()
        if self.note:
            parts.append(self.note)
        if self.total and self._first and self._first[1] < self.done < self.total:
            seconds = (time.monotonic() - self._first[0]) / (self.done - self._first[1])
            parts.append(f"{clock(seconds * (self.total - self.done))} left")
        return ", ".join(parts)


class Display(Protocol):
    """Shows phases."""

    def enter(self, phase: Phase) -> None: ...

    def update(self, phase: Phase) -> None: ...

    def leave(self, phase: Phase) -> None: ...

    def line(self, text: str) -> None: ...


class _Nothing:
    """Outside of a command: lines are printed, phases are not shown."""

    def enter(self, phase: Phase) -> None: ...

    def update(self, phase: Phase) -> None: ...

    def leave(self, phase: Phase) -> None: ...

    def line(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class _Lines(_Nothing):
    """Where there is no terminal: a line when a phase begins, and every `EVERY` seconds."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()

    def enter(self, phase: Phase) -> None:
        if phase.log:
            self._say(phase.text())

    def update(self, phase: Phase) -> None:
        if phase.log and time.monotonic() - self._last > EVERY:
            self._say(phase.text())

    def _say(self, text: str) -> None:
        self._last = time.monotonic()
        self.line(f"[{clock(self._last - self._began)}] {text}")


class _Terminal:
    """A line that is drawn anew several times a second, by a thread: it lives while a library computes."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        class Plain(Console):
            def show_cursor(
                self, show: bool = True
            ) -> bool:  # a process that is killed must not leave it hidden
                return False

        self._console = Plain(stderr=True, highlight=False)
        self._progress: Progress = Progress(
            SpinnerColumn(), TextColumn("{task.fields[clock]}"), BarColumn(bar_width=20), TextColumn("{task.fields[words]}"),
            console=self._console, transient=True, refresh_per_second=4, get_time=time.monotonic,
        )  # fmt: skip
        self._open: list[tuple[Phase, TaskID]] = []
        self._progress.start()

    def enter(self, phase: Phase) -> None:
        for _, task in self._open:
            self._progress.update(task, visible=False)
        task = self._progress.add_task("", total=phase.total, clock="0:00", words=phase.text())
        self._open.append((phase, task))
        self.update(phase)

    def update(self, phase: Phase) -> None:
        for one, task in self._open:
            if one is phase:
                self._progress.update(
                    task, completed=phase.done, clock=clock(phase.seconds), words=phase.text()
                )

    def leave(self, phase: Phase) -> None:
        for one, task in self._open:
            if one is phase:
                self._progress.remove_task(task)
        self._open = [(one, task) for one, task in self._open if one is not phase]
        if self._open:
            self._progress.update(self._open[-1][1], visible=True)
        elif phase.seconds >= _WORTH:
            count = f": {phase.done:,} {phase.unit}" if phase.total else ""
            self.line(f"{phase.name}{count} in {clock(phase.seconds)}")

    def line(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def close(self) -> None:
        self._progress.stop()


class _State:
    display: Display = _Nothing()


@contextlib.contextmanager
def showing() -> Iterator[None]:
    """Shows phases within the block, on stderr."""
    before = _State.display
    terminal = _Terminal() if sys.stderr.isatty() else None
    _State.display = terminal or _Lines()
    if terminal:
        interruption.before_last_line("\r\x1b[2K")  # takes the place of the live line
    try:
        yield
    finally:
        _State.display = before
        if terminal:
            terminal.close()
            interruption.before_last_line("")


@contextlib.contextmanager
def phase(
    name: str, total: int | None = None, unit: str = "", *, done: int = 0, log: bool = True
) -> Iterator[Phase]:
    """Announces a part of the work; arguments as for `Phase`. Within another phase it takes its place until it ends."""
    one = Phase(name, total, unit, done, log)
    _State.display.enter(one)
    try:
        yield one
    finally:
        _State.display.leave(one)


def hide() -> None:
    """Shows nothing from here on, in a process that does not report."""
    _State.display = _Nothing()


def line(text: str) -> None:
    """Prints a line on stderr, above the live line if there is one."""
    _State.display.line(text)


def clock(seconds: float) -> str:
    """`3:05`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
