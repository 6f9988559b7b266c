"""Several processes of one run: how they start, agree before each step, and end together.

JAX's own runtime connects them. It ends a process whose peer is gone, after minutes and with a stack trace, and waits for
ever in a collective for a peer that lives and does not come. So the processes also

* tell each other every few seconds that they live; one that is silent for `Limits.silence` seconds ends all others in one
  line that names it, and so does one that ends with an error or a signal;
* meet on the host before each step (`meet`), where a late one delays the others, is named after a minute, and ends the run
  after `Limits.late` seconds; what one of them asks for there (to stop, to save), all of them do at the same step.

With one process nothing of this happens. Exit code 75 asks the launcher to start the same command again.
"""

import contextlib
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import jax

from fusionjax import interruption
from fusionjax.errors import UserError

RESTART = 75
"""EX_TEMPFAIL: what a launcher starts again."""
_BEAT = 2.0
"""Seconds between two signs of life."""
_NAMED_AFTER = 60.0
"""Seconds at a meeting after which those who are missing are named."""
_BEATS, _END, _LEFT, _NAMES, _LATE, _WISHES = (
    f"fusionjax/{kind}/" for kind in ("beat", "end", "left", "name", "late", "wish")
)


@dataclass(frozen=True)
class Limits:
    """What the processes allow each other.

    Attributes:
        silence: seconds without a sign of life after which a process counts as gone.
        late: seconds for which a living process may keep the others waiting.
        start: seconds for all processes to start.
    """

    silence: float = 60.0
    late: float = 1800.0
    start: float = 300.0


def launched(environment: Mapping[str, str]) -> bool:
    """Whether a launcher that JAX knows started several processes.

    These are Slurm's srun, Open MPI's mpirun, a Cloud TPU slice of several hosts, and JAX_COORDINATOR_ADDRESS.
    """

    def many(name: str) -> bool:
        return environment.get(name, "").isdigit() and int(environment[name]) > 1

    slurm = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    return (
        "JAX_COORDINATOR_ADDRESS" in environment
        or (all(name in environment for name in slurm) and many("SLURM_NTASKS"))
        or many("OMPI_COMM_WORLD_SIZE")
        or many("MEGASCALE_NUM_SLICES")
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
    )


class _Peers:
    """This process among the others: its thread, and JAX's key–value store that all of them share."""

    def __init__(self, client: Any, index: int, count: int, limits: Limits):
        self.client, self.index, self.count, self.limits = client, index, count, limits
        self.ending, self._answered = threading.Lock(), time.monotonic()
        self._seen: dict[int, tuple[str, float]] = {}
        self._stop = threading.Event()
        self.client.key_value_set(f"{_NAMES}{index}", socket.gethostname(), allow_overwrite=True)
        for work in (self._beat, self._watch):
            threading.Thread(target=work, daemon=True).start()

    def close(self) -> None:
        self._stop.set()

    def read(self, place: str) -> dict[int, str]:
        """What the processes wrote to a place, by process."""
        return {int(key.rpartition("/")[2]): value for key, value in self.client.key_value_dir_get(place)}

    def named(self, index: int) -> str:
        """A process in words, with the name of its host."""
        with contextlib.suppress(Exception):
            return f"process {index} of {self.count} ({self.read(_NAMES)[index]})"
        return f"process {index} of {self.count}"

    def tell(self, reason: str) -> None:
        """Ends the other processes, with this line."""
        self.client.key_value_set(f"{_END}{self.index}", reason, allow_overwrite=True)

    def leave(self, reason: str) -> NoReturn:
        """Ends this process in one line, whatever its main thread waits for."""
        self.ending.acquire()  # and never released: the first line counts
        sys.stdout.flush()
        line = (
            f"fusionjax: error: {reason}; start the same command again to resume from the last checkpoint\n"
        )
        with contextlib.suppress(OSError):
            os.write(2, line.encode())
        self.outlive_the_others()
        os._exit(RESTART)

    def outlive_the_others(self) -> None:
        """Before an end without `finish`: that of process 0 takes the store away, from which the others read the reason."""
        with contextlib.suppress(Exception):
            if self.index:
                self.client.key_value_set(f"{_LEFT}{self.index}", "left", allow_overwrite=True)
            until = time.monotonic() + 5 * _BEAT
            while self.index == 0 and len(self.read(_LEFT)) < self.count - 1 and time.monotonic() < until:
                time.sleep(_BEAT / 4)

    def _beat(self) -> None:
        beats = 0
        while not self._stop.wait(_BEAT):
            beats += 1
            try:
                self.client.key_value_set(f"{_BEATS}{self.index}", str(beats), allow_overwrite=True)
                told = self.read(_END)
                if self.index == 0 and not told:
                    self._look_for_silence()
            except Exception:  # the coordinator does not answer: `_watch` ends the process if that lasts
                continue
            self._answered = time.monotonic()
            for sender, reason in told.items():
                if sender != self.index and not self._stop.is_set():
                    self.leave(reason)

    def _look_for_silence(self) -> None:
        """On process 0. Beats are counted, no clocks are compared."""
        now, beats = time.monotonic(), self.read(_BEATS)
        for index in range(1, self.count):
            beat = beats.get(index, "")
            if self._seen.setdefault(index, (beat, now))[0] != beat:
                self._seen[index] = (beat, now)
            if now - self._seen[index][1] > self.limits.silence:
                reason = f"{self.named(index)} is gone: no sign of life for {self.limits.silence:.0f} s"
                self.tell(reason)
                self.leave(reason)

    def _watch(self) -> None:
        """Ends the process when the coordinator, which is process 0, does not answer any more."""
        while not self._stop.wait(_BEAT):
            if time.monotonic() - self._answered > self.limits.silence:
                self.leave(
                    f"process 0 of {self.count}, the coordinator, has not answered for {self.limits.silence:.0f} s"
                )


_peers: _Peers | None = None


def start(
    coordinator: str = "",
    processes: int = 0,
    index: int = -1,
    *,
    wanted: bool = False,
    limits: Limits | None = None,
) -> None:
    """Connects this process with the others of the run; before anything is computed.

    Args:
        coordinator: host:port of process 0; "" where JAX finds it (Slurm, Open MPI, Cloud TPU).
        processes, index: number of processes, and which of them this is; 0 and -1 where JAX finds them.
        wanted: start even where no launcher is recognised, for JAX to find what it needs, as on a Cloud TPU VM.
        limits: see `Limits`.

    Raises:
        UserError: the arguments do not fit, or the others cannot be reached.
    """
    global _peers
    given = [bool(coordinator), processes > 0, index >= 0]
    if any(given) and not all(given):
        raise UserError("--coordinator, --processes and --process belong together: give all three, or none")
    if all(given) and index >= processes:
        raise UserError(f"--process={index} must be below --processes={processes}: they are counted from 0")
    if all(given) and not re.fullmatch(r".+:\d{1,5}", coordinator):
        raise UserError(f"--coordinator={coordinator} must be host:port of process 0")
    if _peers is not None or not (wanted or all(given) or launched(os.environ)):
        return
    limits = limits or Limits()
    # Its handler of SIGTERM would replace `fusionjax.interruption`.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator or None,
            processes or None,
            index if index >= 0 else None,
            initialization_timeout=max(1, round(limits.start)),
            heartbeat_timeout_seconds=max(100, round(2 * limits.silence)),
        )
    except (RuntimeError, ValueError, OSError) as e:
        text = " ".join(str(e).split())[:300]
        raise UserError(f"the processes of the run cannot be connected: {text}") from None
    if several():
        from jax._src import distributed  # the store and its barriers have no public name

        _peers = _Peers(distributed.global_state.client, jax.process_index(), jax.process_count(), limits)
        interruption.tell_others(failed)
        meet("start", limit=limits.start)


def connected() -> bool:
    """Whether this process has others that it must not leave without a word."""
    return _peers is not None


def primary() -> bool:
    """Whether this is the process that reports and writes results."""
    return jax.process_index() == 0


def several() -> bool:
    """Whether the run has several processes."""
    return jax.process_count() > 1


def meet(what: str, *, wish: str = "", limit: float | None = None) -> dict[int, str]:
    """Waits on the host until all processes are here.

    Args:
        what: the same words in all processes, and new ones each time: "step 12".
        wish: what this process asks of all, e.g. "save"; "" for nothing.
        limit: seconds to wait; `Limits.late` by default.

    Returns:
        The wishes by process, the same in all of them.
    """
    if _peers is None:
        return {0: wish} if wish else {}
    place = f"{_WISHES}{what}/"
    try:
        if wish:
            _peers.client.key_value_set(f"{place}{_peers.index}", wish, allow_overwrite=True)
        with _naming_the_late(_peers, what):
            milliseconds = round(1000 * (_peers.limits.late if limit is None else limit))
            _peers.client.wait_at_barrier(f"fusionjax/{what}", milliseconds)
        return _peers.read(place)
    except Exception as e:
        missing = re.search(r"Some timed out task names:\s+((?:\d+\s+)+)", str(e))
        if missing is None:
            explain(e)
            raise
        late = ", ".join(_peers.named(int(i)) for i in missing[1].split())
        reason = f"{late} did not come to {what} in time"
        _peers.tell(reason)
        _peers.leave(reason)


@contextlib.contextmanager
def _naming_the_late(peers: _Peers, what: str) -> Iterator[None]:
    """After a minute within the block, process 0 names those that do not wait."""

    def here() -> None:
        with contextlib.suppress(Exception):
            peers.client.key_value_set(f"{_LATE}{what}/{peers.index}", "waits", allow_overwrite=True)
            if peers.index == 0:
                time.sleep(2 * _BEAT)
                for index in sorted(set(range(peers.count)) - set(peers.read(f"{_LATE}{what}/"))):
                    print(
                        f"fusionjax: {peers.named(index)} is late: the others wait for it at {what}",
                        file=sys.stderr,
                    )

    timer = threading.Timer(_NAMED_AFTER, here)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def explain(error: BaseException) -> None:
    """After an error that may come from a peer's end: ends this process too, in the line that names the peer.

    Returns where no peer is missing: then the error is this process's own, and the others are told.
    """
    if _peers is None:
        return
    if not isinstance(error, UserError):
        # A connection that breaks is noticed at once, the silence of the peer behind it only by and by.
        time.sleep(_peers.limits.silence + 4 * _BEAT if _broken(error) else 2 * _BEAT)
    failed(str(error) or type(error).__name__)


def failed(reason: str) -> None:
    """Tells the other processes that this one ends with an error, or because of a signal."""
    if _peers is None or not _peers.ending.acquire(timeout=10 * _BEAT):
        return
    telling = threading.Thread(target=_tell, args=(_peers, " ".join(reason.split())[:300]), daemon=True)
    telling.start()  # a store that does not answer delays nobody
    telling.join(5 * _BEAT)


def _tell(peers: _Peers, reason: str) -> None:
    with contextlib.suppress(Exception):
        peers.tell(f"{peers.named(peers.index)} ended: {reason}")
        peers.outlive_the_others()


def _broken(error: BaseException) -> bool:
    return bool(re.search(r"Gloo|NCCL|Connection|UNAVAILABLE|DEADLINE|socket", str(error), re.IGNORECASE))


def finish() -> None:
    """Waits for the others and disconnects; at the end of a command that `start` was called for."""
    global _peers
    if _peers is None:
        return
    meet("end")
    _peers.close()
    _peers = None
    jax.distributed.shutdown()
