"""Writes and reads the metrics of a run: metrics.jsonl and TensorBoard events; fractions, not per cent."""

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clu import metrics as clu_metrics
from tensorboardX import SummaryWriter

from fusionjax import files
from fusionjax.errors import UserError
from fusionjax.train.trackers import Tracker

log = logging.getLogger(__name__)


def merge(parts: Iterable[Mapping[str, clu_metrics.Average]]) -> dict[str, clu_metrics.Average]:
    """Adds up (sum, count) pairs by name.

    Args:
        parts: metrics by name; a metric may be absent from some parts.

    Returns:
        name → Average over all parts.
    """
    total: dict[str, clu_metrics.Average] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total[name].merge(value) if name in total else value
    return total


def compute(metrics: Mapping[str, clu_metrics.Average]) -> dict[str, float]:
    """Divides each sum by its count: name → mean."""
    return {name: float(value.total) / max(float(value.count), 1e-12) for name, value in metrics.items()}


class Writer:
    """Appends records to metrics.jsonl and TensorBoard events; on one process only.

    Args:
        workdir: folder of the run.
        start: step from which the run resumes; later records, left by a run that was killed, are removed.
        trackers: that take the records too.
    """

    def __init__(self, workdir: Path, *, start: int = 0, trackers: Sequence[Tracker] = ()):
        self._trackers = trackers
        self._path = Path(workdir) / "metrics.jsonl"
        kept = [r for r in read(workdir) if r["step"] <= start]
        files.write_text(self._path, "".join(json.dumps(r) + "\n" for r in kept))
        self._written = {(r["step"], name) for r in kept for name in r}
        self._file = self._path.open("a")
        self._events = SummaryWriter(str(Path(workdir) / "tensorboard"), purge_step=start + 1, flush_secs=10)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes one record, with flat keys such as train/loss; NaN and Inf become null in metrics.jsonl."""
        # JSON has no NaN; every parser reads null.
        clean = {k: (float(v) if math.isfinite(v) else None) for k, v in scalars.items()}
        self._file.write(json.dumps({"step": int(step), **clean}) + "\n")
        self._file.flush()
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)
        for tracker in self._trackers:
            tracker.write(step, scalars)

    def write_once(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes one record, unless an earlier start wrote these scores at this step."""
        if not all((step, name) in self._written for name in scalars):
            self.write(step, scalars)

    def close(self) -> None:
        """Flushes and closes both files, and the trackers."""
        self._file.close()
        self._events.close()
        for tracker in self._trackers:
            tracker.close()


def read(workdir: Path) -> list[dict[str, Any]]:
    """Reads the records of metrics.jsonl.

    A damaged line is named and left out; an incomplete last line, left by a run that was killed, is left out in silence.

    Args:
        workdir: folder of the run.

    Returns:
        The records in order, each with "step" and flat keys; empty if there is no file.

    Raises:
        UserError: it is not a file.
    """
    path = Path(workdir) / "metrics.jsonl"
    try:
        *lines, rest = files.read_bytes(path).split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror or e}; move it away and start again") from None
    records, damaged = [], []
    for number, line in enumerate((*lines, rest), 1):
        try:
            records.append(_record(line))
        except (ValueError, RecursionError):
            if line.strip() and number <= len(lines):
                damaged.append(str(number))
    if damaged:
        log.warning("%s: damaged lines are left out: %s", path, ", ".join(damaged))
    return records


def _record(line: bytes) -> dict[str, Any]:
    record = json.loads(line.decode("utf-8"))
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        raise ValueError("it has no step")
    return record
