"""The fingerprint of a run: what must be unchanged when it resumes, beside its config."""

import hashlib
import json
import shlex
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from fusionjax.data import fingerprint as contents
from fusionjax.data.source import Source
from fusionjax.tasks.base.protocol import Inputs


def fingerprint(
    train: Source, evaluation: Mapping[str, Source], inputs: Inputs, steps: int
) -> dict[str, Any]:
    """The fields that config.json stores beside the config.

    Args:
        train: the training split.
        evaluation: source by split.
        inputs: of the task.
        steps: of the run.
    """
    splits = {"train": train, **evaluation}
    return {
        "class_names": list(train.class_names),
        "data_set": train.name,
        "images": {name: len(source) for name, source in splits.items()},
        "examples": {name: _digest(source) for name, source in splits.items()},
        "steps": steps,
        **inputs.fingerprint(),
        "contents": {name: contents.contents(source) for name, source in splits.items()},
        "columns": {name: _columns(source) for name, source in splits.items()},
        "command": "python -m fusionjax.main " + shlex.join(sys.argv[1:]),
    }


def changed(stored: Mapping[str, Any], sources: Mapping[str, Source]) -> list[str]:
    """A line for each split whose data are not those that a run has seen.

    Args:
        stored: content of its config.json.
        sources: by split; those that the run has not seen are left out.
    """
    lines = []
    for split, source in sources.items():
        if stored.get("examples", {}).get(split, _digest(source)) != _digest(source):
            before = stored.get("images", {}).get(split)
            lines.append(
                f"split {split!r} of {source.name} has {len(source)} other examples (the run: {before})"
            )
            continue
        for what, digest in (("contents", contents.contents), ("columns", _columns)):
            before = stored.get(what, {}).get(split)
            if before is not None and before != digest(source):
                lines.append(f"the {what} of split {split!r} of {source.name} have changed since the run")
                break
    return lines


def _digest(source: Source) -> str:
    """Digest of a source's names and labels, equal if two runs read the same examples in the same order."""
    text = json.dumps([list(map(str, source.names)), np.asarray(source.labels).tolist()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _columns(source: Source) -> str:
    """Digest of a source's further columns, such as identities, cameras and captions."""
    columns = {name: np.asarray(values).tolist() for name, values in sorted(source.columns.items())}
    text = json.dumps(columns, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
