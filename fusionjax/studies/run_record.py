"""What a workdir says of its finished run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax import traverse_util

from fusionjax.errors import UserError
from fusionjax.evaluation import per_example
from fusionjax.evaluation.per_example import PerExample
from fusionjax.experiment import workdir
from fusionjax.train import metrics

# Fields that change no number: two runs that differ in nothing else are the same.
_IDLE = ("data.root", "data.threads", "data.prefetch", "data.max_bad_fraction", "train.log_every", "train.checkpoint_every",
         "evaluation.batch_size", "evaluation.probe", "report.")  # fmt: skip


@dataclass(frozen=True, eq=False)
class RunRecord:
    """What a workdir says of its run.

    Attributes:
        folder: the workdir.
        fields: dotted config field → value, without those that change no number.
        content: of config.json.
        results: of results.json.
        per_example: of outcomes.npz.
        records: of metrics.jsonl.
    """

    folder: Path
    fields: Mapping[str, Any]
    content: Mapping[str, Any]
    results: Mapping[str, float]
    per_example: PerExample
    records: Sequence[Mapping[str, Any]]

    @property
    def digests(self) -> tuple[str | None, ...]:
        """Of the examples of the splits that were scored."""
        return tuple(self.content.get("examples", {}).get(split) for split in self.per_example.read)


def load(folder: str | Path) -> RunRecord:
    """Reads a workdir.

    Raises:
        UserError: no run there, one that is not finished, a damaged file.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no run: it has no config.json; name the workdir of a finished run")
    content = workdir.read(folder)
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
        raise UserError(
            f"{folder} holds no run: its config.json is not of one; name the workdir of a finished run"
        )
    path = folder / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(results, dict):
            raise ValueError("not names and numbers")
    except FileNotFoundError:
        raise UserError(
            f"the run in {folder} is not finished: results.json is missing; start its training command again to go on"
        ) from None
    except ValueError as e:  # JSON's and Unicode's among them
        raise UserError(f"{path} is damaged ({e}); start the run's training command again") from None
    # Through the schema: a field that is newer than a run has its default there.
    try:
        config = workdir.config_of(content).to_dict()
    except UserError as e:
        raise UserError(f"{folder}: {e}") from None
    fields = {
        name: value
        for name, value in traverse_util.flatten_dict(config, sep=".").items()
        if not name.startswith(_IDLE)
    }
    found = per_example.read(folder, results)
    return RunRecord(folder, fields, content, results, found, metrics.read(folder))


PICTURES = {
    "confusion_matrix": "Confusion matrix",
    "joint_map": "Joint map of the embeddings",
    "similarities": "Similarities between the modalities",
}
"""How the names of a report's figures begin that are worth seeing beside those of other runs, and what they show."""


def further_scores(runs: Sequence[RunRecord]) -> dict[str, list[float]]:
    """Scores of the split that every run has in results.json and that no example says by itself: name → a value a run."""
    prefix = f"{runs[0].per_example.split}/"
    measured = {per_example.score_of(name) for name in runs[0].per_example.measures}

    def numeric(run: RunRecord, key: str) -> bool:
        return isinstance(run.results.get(key), int | float)

    return {
        key.removeprefix(prefix): [float(run.results[key]) for run in runs]
        for key in runs[0].results
        if key.startswith(prefix)
        and key.removeprefix(prefix) not in measured
        and all(numeric(run, key) for run in runs)
    }


def pictures(runs: Sequence[RunRecord]) -> dict[str, list[Path]]:
    """Figures of the runs' reports that all of them have: what they show → a file a run."""
    found = {}
    for path in sorted((runs[0].folder / "report").glob("figure_*.png")):
        kind = next((k for k in PICTURES if path.stem.startswith(f"figure_{k}")), None)
        files = [run.folder / "report" / path.name for run in runs]
        if kind and all(file.is_file() for file in files):
            rest = path.stem.removeprefix(f"figure_{kind}").replace("_", " ")
            found[f"{PICTURES[kind]}{':' if rest else ''}{rest}"] = files
    return found
