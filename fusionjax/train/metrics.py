"""Writes and reads the metrics of a run: metrics.jsonl and TensorBoard events; fractions, not per cent."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clu import metrics as clu_metrics
from tensorboardX import SummaryWriter

from fusionjax import files


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
    """

    def __init__(self, workdir: Path, *, start: int = 0):
        self._path = Path(workdir) / "metrics.jsonl"
        kept = [r for r in read(workdir) if r["step"] <= start]
        files.write_text(self._path, "".join(json.dumps(r) + "\n" for r in kept))
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

    def close(self) -> None:
        """Flushes and closes both files."""
        self._file.close()
        self._events.close()


def read(workdir: Path) -> list[dict[str, Any]]:
    """Reads the records of metrics.jsonl; an incomplete last line, left by a run that was killed, is skipped.

    Args:
        workdir: folder of the run.

    Returns:
        The records in order, each with "step" and flat keys; empty if there is no file.
    """
    path = Path(workdir) / "metrics.jsonl"
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records
