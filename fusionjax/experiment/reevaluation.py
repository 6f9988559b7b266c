"""The scores of a trained run computed again from its images, with what qualifies them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fusionjax import tasks
from fusionjax.data import datasets
from fusionjax.data.datasets import duplicates
from fusionjax.data.source import Source
from fusionjax.errors import UserError
from fusionjax.evaluation import cautions
from fusionjax.experiment import workdir
from fusionjax.experiment.fingerprint import changed
from fusionjax.tasks.base.protocol import Facts, Results

if TYPE_CHECKING:
    from fusionjax.experiment.inference import Run


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """An evaluation of a trained run.

    Attributes:
        results: of the task's scorer.
        notes: what the readers decided, as training says it.
        warnings: splits that are not the data of the run, and problems that affect every score, such as a text that leaks.
        cautions: what a reader must know before the scores, the warnings among them; references that only training measures,
            such as the frozen network's, are in its report.
        recall: lines of the recall of each class.
    """

    results: Results
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    cautions: tuple[str, ...]
    recall: tuple[str, ...]


def evaluate(run: "Run", splits: Sequence[str] | None = None) -> Evaluation:
    """Evaluates a run.

    Args:
        run: opened.
        splits: None for those of the config.

    Raises:
        UserError: a split that is not there, or whose classes are not the run's.
    """
    data, scorer = run.config.data, run.task.scorer
    names = [splits] if isinstance(splits, str) else splits or data.eval_splits
    sources = {split: run.source(split) for split in names}
    scored = {split: source for split, source in sources.items() if split in data.eval_splits}
    warnings = [
        f"{line}: these are scores of other data than those in its report"
        for line in changed(workdir.read(run.folder), scored)
    ]
    train = run.source(data.train_split) if scorer.reads_training else None
    task = tasks.create(run.config, Facts(run.task.class_names, train, sources))
    outputs = {split: run.outputs_of(task, split, source) for split, source in sources.items()}
    warnings += task.inputs.warnings()
    results = task.scorer.evaluate(outputs, sources)
    rows = task.scorer.per_example(results, outputs, sources)
    found = [
        *cautions.classes(rows, task.class_names),
        *cautions.not_above(rows, task.class_names),
        *_leaks(run, sources),
        *warnings,
        *cautions.few(rows),
    ]
    if run.bad.count:
        found.append(
            f"{run.bad.count} images could not be read and were left out: {'; '.join(run.bad.messages)}"
        )
    recall = tuple(cautions.recall_table(rows, task.class_names))
    return Evaluation(results, datasets.notes(sources.values()), tuple(warnings), tuple(found), recall)


def _leaks(run: "Run", sources: Mapping[str, Source]) -> tuple[str, ...]:
    """Lines on copies between the training split and the others, where the training split is still there."""
    name = run.config.data.train_split
    try:
        return duplicates.notes({name: run.source(name), **sources}, name)
    except UserError:
        return ()
