"""SIGINT and SIGTERM: a command ends in one line at any moment, and a training run saves its state first.

`install` is called when a command starts, before anything is imported that takes time. From then on a signal

1. ends the process at once, while nothing is open (`install`);
2. raises `Interrupted` in the main thread, so that unfinished files are removed (`raising`, around a command). A thread
   ends the process when that takes too long: the main thread may be compiling, or a library swallowed the exception;
3. is noted, for whoever asks `requested` (`deferred`, around the training loop). It is raised at the end of the block.

A second SIGINT ends the process at once. In a process that has not called `install` nothing of this happens.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 75}
"""Interrupted by the user; EX_TEMPFAIL: terminated by the system, to be started again."""
_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_PATIENCE = 3.0
"""Seconds that a command may take to remove what is unfinished."""
_LEAVE, _RAISE, _DEFER = range(3)


class Interrupted(KeyboardInterrupt):
    """A signal asked the process to end. No `Exception`: handlers of failures do not take it for one."""


class _State:
    """What the handler, the watching thread and the main thread share."""

    installed = False
    mode = _LEAVE
    received: signal.Signals | None = None
    saved = ""
    stderr = 2
    leaving = threading.Lock()
    leaves = 0
    before = ""
    tell: Callable[[str], None] = staticmethod(lambda reason: None)


def install() -> None:
    """Takes over both signals. One that the process was started to ignore (nohup, a background job) stays ignored."""
    if _State.installed or threading.current_thread() is not threading.main_thread():
        return
    _State.installed = True
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    # The interpreter writes to it at once, whatever the main thread does.
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), daemon=True).start()
    for number in EXIT_CODES:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _handle)


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """Within the block a signal raises `Interrupted`; whatever exception that becomes, the process ends in one line."""
    before, _State.mode = _State.mode, _RAISE
    try:
        yield
    except BaseException:
        if _State.received is not None:
            leave()
        raise
    finally:
        _State.mode = before


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within the block a signal is only noted; `Interrupted` is raised at its end. Without `install`, nothing changes."""
    before, _State.mode = _State.mode, _DEFER
    try:
        yield
        if requested():
            raise Interrupted
    finally:
        _State.mode = before


def requested() -> bool:
    """Whether a signal has arrived."""
    return _State.received is not None


def request(number: signal.Signals = signal.SIGTERM) -> None:
    """Takes a signal as received by this process that another process of the run received."""
    _State.received = _State.received or number


def check() -> None:
    """Raises `Interrupted` if a signal has arrived."""
    if requested():
        raise Interrupted


def saved(what: str) -> None:
    """Notes what was saved, such as "step 40", for the last line of the process."""
    _State.saved = what


def tell_others(call: Callable[[str], None]) -> None:
    """Sets what is called, with a reason, when this process ends because of a signal; see `distributed.hosts`."""
    _State.tell = staticmethod(call)


def before_last_line(text: str) -> None:
    """Sets what is written before the last line of the process, such as what clears a line of a terminal."""
    _State.before = text


def leave() -> None:
    """Ends the process in one line, with the exit code of the signal and without the libraries' work at exit."""
    if not _State.leaving.acquire(blocking=False):
        while _State.leaves != threading.get_ident():  # the other thread ends the process in a moment
            time.sleep(0.1)
        return  # a second signal, within this function
    _State.leaves = threading.get_ident()
    number = _State.received or signal.SIGINT
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    what = f"{_State.saved} is saved, " if _State.saved else ""
    line = f"{_State.before}fusionjax: {_WORDS[number]}; {what}start the same command again to resume\n"
    with contextlib.suppress(OSError):
        os.write(_State.stderr, line.encode())
    _State.tell(_WORDS[number])
    os._exit(EXIT_CODES[number])


def _handle(number: int, frame: object) -> None:
    again, _State.received = _State.received, _State.received or signal.Signals(number)
    if _State.mode == _LEAVE or (again is not None and number == signal.SIGINT):
        leave()
    if _State.mode == _RAISE and again is None:
        _silence()
        raise Interrupted


def _silence() -> None:
    """Hides what fails because of the interruption, in callbacks, destructors and C extensions: only `leave` prints."""
    _State.stderr = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


def _watch(reading: int) -> None:
    """Ends the process if the main thread does not: it may be within a library, where no handler of Python runs."""
    while data := os.read(reading, 1):
        if data[0] not in EXIT_CODES or _State.mode == _DEFER:
            continue
        if _State.mode == _RAISE:
            time.sleep(_PATIENCE)
        if _State.mode != _DEFER:
            _State.received = _State.received or signal.Signals(data[0])
            leave()
