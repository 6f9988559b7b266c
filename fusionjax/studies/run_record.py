"""Reads the record of a finished run from its workdir."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax import traverse_util

from fusionjax.errors import UserError
from fusionjax.evaluation import per_example
from fusionjax.evaluation.per_example import PerExample
from fusionjax.experiment import results, workdir
from fusionjax.train import metrics

# Fields that do not affect results: runs that differ only in these are the same.
_IDLE = ("data.root", "data.threads", "data.prefetch", "data.max_bad_fraction", "train.log_every", "train.checkpoint_every",
         "train.checkpoint_minutes", "evaluation.batch_size", "evaluation.probe", "report.")  # fmt: skip


@dataclass(frozen=True, eq=False)
class RunRecord:
    """The record of a finished run.

    Attributes:
        folder: the workdir.
        fields: dotted config field → value, without fields that do not affect results.
        content: content of config.json.
        results: content of results.json.
        per_example: content of outcomes.npz.
        records: content of metrics.jsonl.
    """

    folder: Path
    fields: Mapping[str, Any]
    content: Mapping[str, Any]
    results: Mapping[str, float]
    per_example: PerExample
    records: Sequence[Mapping[str, Any]]

    @property
    def cautions(self) -> tuple[str, ...]:
        """What its report says before the scores."""
        found: Any = self.results.get("cautions", ())
        return tuple(map(str, found)) if isinstance(found, list) else ()

    @property
    def digests(self) -> tuple[str | None, ...]:
        """Digests of the examples of the scored splits."""
        return tuple(self.content.get("examples", {}).get(split) for split in self.per_example.read)

    def has_images_of(self, other: "RunRecord") -> bool:
        """Whether the images of the scored splits have the contents of another run's, as far as both runs say."""
        pairs = [
            [run.content.get("contents", {}).get(split) for run in (self, other)]
            for split in self.per_example.read
        ]
        # Contents that were sampled in different ways, such as of prepared and of plain files, cannot be compared.
        return all(
            a == b or a is None or b is None or a.partition(":")[0] != b.partition(":")[0] for a, b in pairs
        )


def load(folder: str | Path) -> RunRecord:
    """Reads the record of a finished run.

    Raises:
        UserError: the folder has no run, the run is not finished, or a file is damaged.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} has no config.json, so it is not a workdir; give the workdir of a finished run"
        )
    content = workdir.read(folder)
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
        raise UserError(
            f"{folder} is not a workdir: its config.json has no config; give the workdir of a finished run"
        )
    if "exported" in content:
        raise UserError(
            f"{folder} is an exported run, without its results by example: compare its own workdir"
        )
    for key in ("examples", "contents", "environment"):
        if not isinstance(content.get(key, {}), dict):
            raise UserError(f"{folder / 'config.json'} is damaged: {key} is no JSON object; restore it")
    scores, found = results.read(folder)
    # Via the schema, so that a field that was added after the run has its default.
    try:
        config = workdir.config_of(content).to_dict()
    except UserError as e:
        raise UserError(f"{folder}: {e}") from None
    fields = {
        name: value
        for name, value in traverse_util.flatten_dict(config, sep=".").items()
        if not name.startswith(_IDLE)
    }
    return RunRecord(folder, fields, content, scores, found, metrics.read(folder))


PICTURES = {
    "confusion_matrix": "Confusion matrix",
    "joint_map": "Joint map of the embeddings",
    "similarities": "Similarities between the modalities",
}
"""Figures of a report that are compared side by side: beginning of the file name → title."""


def further_scores(runs: Sequence[RunRecord]) -> dict[str, list[float]]:
    """Returns scores in results.json that all runs have and that are not per-example measures: name → one value per run."""
    prefix = f"{runs[0].per_example.split}/"
    measured = {per_example.score_of(name) for name in runs[0].per_example.measures}

    def numeric(run: RunRecord, key: str) -> bool:
        return isinstance(run.results.get(key), int | float)

    return {
        key.removeprefix(prefix): [float(run.results[key]) for run in runs]
        for key in runs[0].results
        if key.startswith(prefix)
        and key.removeprefix(prefix).removesuffix("_low").removesuffix("_high") not in measured
        and all(numeric(run, key) for run in runs)
    }


def pictures(runs: Sequence[RunRecord]) -> dict[str, list[Path]]:
    """Returns report figures that all runs have: title → one file per run."""
    found = {}
    for path in sorted((runs[0].folder / "report").glob("figure_*.png")):
        kind = next((k for k in PICTURES if path.stem.startswith(f"figure_{k}")), None)
        files = [run.folder / "report" / path.name for run in runs]
        if kind and all(file.is_file() for file in files):
            rest = path.stem.removeprefix(f"figure_{kind}").replace("_", " ")
            found[f"{PICTURES[kind]}{':' if rest else ''}{rest}"] = files
    return found
