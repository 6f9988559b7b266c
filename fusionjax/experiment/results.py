"""The results of a finished run in its workdir: results.json, outcomes.npz, and their checksums in sums.json."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fusionjax import disk_cache, files
from fusionjax.errors import UserError
from fusionjax.evaluation import per_example
from fusionjax.evaluation.per_example import PerExample

FILE = "results.json"
_SUMS = "sums.json"
_AGAIN = "run the training command of the run again: it evaluates the trained weights anew"


def write(
    folder: Path, scores: Mapping[str, object], arrays: Mapping[str, np.ndarray | Sequence[str] | str]
) -> None:
    """Writes the results; results.json comes after outcomes.npz, so where it exists, the run is finished.

    Args:
        folder: the workdir.
        scores: content of results.json: numbers by name, and "cautions", sentences.
        arrays: see `per_example.write`.
    """
    (folder / _SUMS).unlink(
        missing_ok=True
    )  # a process that is killed here leaves no sums rather than wrong ones
    per_example.write(folder, arrays)
    files.write_text(folder / FILE, json.dumps(scores, indent=1))
    sums = disk_cache.sums(folder, (per_example.FILE, FILE))
    disk_cache.write_json(folder / _SUMS, {"files": sums})


def read(folder: Path) -> tuple[dict[str, Any], PerExample]:
    """The content of results.json, and the per-example results.

    Raises:
        UserError: the run is not finished, or a file is missing or damaged. A run of an earlier version has no checksums; its
            files are read with the checks of `per_example.read` alone.
    """
    scores = _scores(folder)
    try:
        disk_cache.verify(folder, disk_cache.read_json(folder / _SUMS)["files"])
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        per_example.read(folder, scores)  # where it sees the damage, it names it more exactly
        raise UserError(f"the results in {folder} are damaged ({e}); {_AGAIN}") from None
    return scores, per_example.read(folder, scores)


def _scores(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    try:
        content = files.read_json(path)
    except FileNotFoundError:
        raise UserError(
            f"the run in {folder} is not finished: {FILE} is missing; run its training command again to resume"
        ) from None
    except ValueError as e:
        raise UserError(f"{path} is damaged ({e}); {_AGAIN}") from None
    if not isinstance(content, dict) or not isinstance(content.get("seconds", 0.0), int | float):
        raise UserError(f"{path} is damaged (it does not hold the scores of a run); {_AGAIN}")
    return content
