"""The report of a run: a folder with index.html and its pictures, to be read in a browser without a network.

Everything that comes from data (class names, file names, config) is escaped by the template and never becomes
a path.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from fusionjax.evaluation.classification import ClassRow, Result
from fusionjax.interpret import figures, pages
from fusionjax.interpret.faithfulness_table import Table
from fusionjax.interpret.maps import Example

BRANCHES = {
    "sa": ("SA", "self-attention branch"),
    "glca": ("GLCA", "global-local cross-attention branch"),
    "combined": ("SA + GLCA", "mean of both branches' probabilities"),
}
"""Branch → its short and long name in the report. Other branches are shown by their own name."""
SIDE = 320
"""Longest side of an example's pictures, pixels."""
CONFUSIONS = 10
"""Maximum number of class pairs in the list of confusions."""

Headline = tuple[str, float | str, tuple[float, float] | None, str]
Baseline = tuple[str, float | str, str]


@dataclass(frozen=True)
class ReportContent:
    """Content of a report. Empty parts are left out of the page. Floats are fractions, shown in per cent; numbers with another
    unit are given as text.

    Attributes:
        title: of the page, such as the name of the config.
        task: one line: what is predicted from what.
        headline: (name, value, 95 % interval or None, note) each; empty to take the accuracy of every split.
        baselines: (name, value, note) each, shown beside the headline.
        results: split → branch (sa, glca, combined, or any name) → Result. `combined`, or else the last
            branch, is the model's answer; the split `test`, or else the last one, is described in full.
        records: of metrics.jsonl, see figures.curves.
        right, wrong: examples of that split.
        tables: (title, heads, rows) each; a cell is text, or a fraction that is shown in per cent.
        figures: (title, text, figure) each, shown below the tables.
        map_name, map_text: of the examples' maps: what they are called, and what a high value means.
        measured: measures of those maps; None for none.
        config_json: the resolved config.
        environment: versions, device, git revision: name → value; None is left out.
        command: how to run it again, a shell line or several.
        warnings: shown before anything else, such as classes that are never predicted or unreadable images.
        notes: how the data were read.
        others: (name, relative URL) of the reports of other runs.
        train_seconds: wall time of training.
        n_parameters: of the model.
    """

    title: str
    task: str = ""
    headline: Sequence[Headline] = ()
    baselines: Sequence[Baseline] = ()
    results: Mapping[str, Mapping[str, Result]] = field(default_factory=dict)
    records: Sequence[Mapping[str, Any]] = ()
    right: Sequence[Example] = ()
    wrong: Sequence[Example] = ()
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[float | str]]]] = ()
    figures: Sequence[tuple[str, str, Figure]] = ()
    map_name: str = "attention rollout"
    map_text: str = "how much each patch contributes to the class token through all blocks"
    measured: Table | None = None
    config_json: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()
    others: Sequence[tuple[str, str]] = ()
    train_seconds: float | None = None
    n_parameters: int | None = None


def write(workdir_report: Path, content: ReportContent) -> Path:
    """Writes the report.

    Everything is written to a temporary folder first; then the pictures are moved into place, and index.html last, so that the
    page is either complete or missing if the process is killed. Pictures that an earlier report wrote and this one does not
    have are removed; other files in the folder are left alone.

    Args:
        workdir_report: folder, created if missing.
        content: what to show.

    Returns:
        The path of index.html.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = Path(workdir_report)
    with pages.replacing(folder, "report") as made:
        page = _page(content, made)
        (made / pages.PAGE).write_bytes(page.encode("utf-8", "replace"))  # a file name may not be text
    return folder / pages.PAGE


def _page(content: ReportContent, folder: Path) -> str:
    split, result = _main(content.results)
    names = {name for branches in content.results.values() for name in branches}
    examples = [
        ("Wrong answers", "wrong", content.wrong),
        ("Right answers", "right", content.right),
    ]
    return pages.render(
        "report.html",
        content=content,
        warnings=content.warnings,
        headline=_headline(content),
        split=split,
        result=result,
        trivial=_trivial(result),
        branches={name: _branch(name, names) for name in names},
        confusions=_confusions(result),
        worst_first=_worst_first(result),
        figures=_figures(content, split, result, folder),
        examples=[(title, [_pictures(e, f"{key}_{i:02d}", folder) for i, e in enumerate(group)])
                  for title, key, group in examples if group],
        shown={kind: any(getattr(e, kind) is not None for e in (*content.right, *content.wrong))
               for kind in ("rollout", "selected")},
        drawn=_drawn(content.figures, folder),
        facts=_facts(content),
    )  # fmt: skip


def _branch(name: str, names: Collection[str]) -> tuple[str, str]:
    """Short and long name of a branch: `combined` is the sum of SA and GLCA only where there are these branches."""
    if name == "combined" and "glca" not in names:
        return "model", ""
    return BRANCHES.get(name, (name, ""))


def _main(results: Mapping[str, Mapping[str, Result]]) -> tuple[str, Result | None]:
    filled = {split: branches for split, branches in results.items() if branches}
    if not filled:
        return "", None
    split = "test" if "test" in filled else list(filled)[-1]
    return split, _answer(filled[split])


def _answer(branches: Mapping[str, Result]) -> Result:
    return branches["combined"] if "combined" in branches else list(branches.values())[-1]


def _headline(content: ReportContent) -> list[Headline]:
    if content.headline:
        return list(content.headline)
    answers = {split: _answer(branches) for split, branches in content.results.items() if branches}
    return [
        (f"accuracy, {split}", r.accuracy, r.accuracy_interval, f"{r.n:,} images")
        for split, r in answers.items()
    ]


def _trivial(result: Result | None) -> tuple[str, float] | None:
    """Returns the majority class of the split and its share."""
    if result is None:
        return None
    row = max(result.per_class, key=lambda row: row.support)
    return row.name, row.support / result.n


def _confusions(result: Result | None) -> list[tuple[str, str, int, int]]:
    """Lists confusions that occur at least twice: (true, predicted, images, images of the true class), by frequency."""
    if result is None:
        return []
    wrong = result.confusion.copy()
    np.fill_diagonal(wrong, 0)
    rows = result.per_class
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    pairs = np.transpose(np.unravel_index(order, wrong.shape))
    return [
        (rows[i].name, rows[j].name, int(wrong[i, j]), rows[i].support) for i, j in pairs if wrong[i, j] > 1
    ]


def _worst_first(result: Result | None) -> list[ClassRow]:
    return (
        []
        if result is None
        else sorted(result.per_class, key=lambda row: (not row.support, row.f1, row.name))
    )


def _figures(
    content: ReportContent, split: str, result: Result | None, folder: Path
) -> dict[str, str | None]:
    """Draws the figures; returns name → file, None for one that has nothing to show."""
    drawn: dict[str, Figure | None] = {
        "curves": figures.curves(content.records),
        "attention_right": figures.attention_rows(content.right, "Right answers", map_name=content.map_name),
        "attention_wrong": figures.attention_rows(content.wrong, "Wrong answers", map_name=content.map_name),
        "confusion_matrix": None,
        "per_class": None,
    }
    if result is not None:
        title = f"Confusion matrix, split {split}, {result.n:,} images"
        drawn["confusion_matrix"] = figures.confusion_matrix(result.confusion, result.class_names, title)
        drawn["per_class"] = figures.per_class_bars(result.per_class)
    return {
        k: None if f is None else figures.save(f, folder / f"figure_{k}.png").name for k, f in drawn.items()
    }


def _drawn(further: Sequence[tuple[str, str, Figure]], folder: Path) -> list[tuple[str, str, str]]:
    """Saves figures under names derived from their titles, so that those of several runs match: (title, text, file)."""
    made: list[tuple[str, str, str]] = []
    for title, text, figure in further:
        stem = "figure_" + (re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")[:60] or "untitled")
        taken = sum(name.startswith(stem) for _, _, name in made)
        path = folder / f"{stem}{f'_{taken + 1}' if taken else ''}.png"
        made.append((title, text, figures.save(figure, path).name))
    return made


def _pictures(example: Example, stem: str, folder: Path) -> dict[str, Any]:
    """Saves the pictures of an example: the example, and kind → file, None if it has no such picture."""
    arrays = {"image": example.image, "rollout": example.overlay(), "selected": example.selection()}
    files: dict[str, str | None] = dict.fromkeys(arrays)
    for kind, array in arrays.items():
        if array is not None:
            picture = Image.fromarray(array)
            picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            files[kind] = name = f"{stem}_{kind}.png"
            picture.save(folder / name)
    return {"example": example, "files": files}


def _facts(content: ReportContent) -> list[tuple[str, str]]:
    facts = []
    if content.n_parameters is not None:
        facts.append(("parameters", f"{content.n_parameters:,}"))
    if content.train_seconds is not None:
        facts.append(("training time", duration(content.train_seconds)))
    return facts + [(str(k), str(v)) for k, v in content.environment.items() if v is not None]


def duration(seconds: float) -> str:
    """Formats seconds in at most two units: "45 s", "12 min 3 s", "5 h 7 min"."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    if hours:
        return f"{hours} h {m} min"
    return f"{m} min {s} s" if m else f"{s} s"
