"""Comparison of several runs: tables as text, Markdown and CSV, and a page with the figures."""

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fusionjax import files
from fusionjax.errors import UserError, folder_errors
from fusionjax.interpret import comparison_figures, figures, pages

FIELDS_BESIDE = 3
"""Maximum number of config fields shown in the tables of results; more are shown in a separate table."""
WIDTH = 110
"""Width of wrapped text on a terminal, in characters."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Table:
    """A table of text: title, column heads and rows; `words`: for each column, whether it contains words, else numbers."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Sequence[bool]


@dataclass(frozen=True)
class Score:
    """A measure of one run, or its mean over the runs of a group; fractions.

    Attributes:
        value: on the test examples.
        interval: 95 % interval over the test examples.
        difference: to the first run or group; None for the first itself.
        difference_interval: 95 % interval over the test examples.
        p: two-sided p-value of "no difference"; None if the examples are not paired, or for a group.
        test: name of the test that computed `p`.
        gained, lost: number of examples that only this run, or only the first run, gets right; None for measures that are not
            binary.
    """

    value: float
    interval: Interval
    difference: float | None = None
    difference_interval: Interval | None = None
    p: float | None = None
    test: str = ""
    gained: int | None = None
    lost: int | None = None


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        name: short and unique.
        folder: the workdir, as given.
        fields: config field → value, for the fields in which the runs differ.
        examples: number of test examples.
        scores: measure → Score.
        group: index of its group in `Comparison.groups`, 0 if there are none.
        details: name → text, such as the step of the weights.
    """

    name: str
    folder: str
    fields: Mapping[str, Any]
    examples: int
    scores: Mapping[str, Score]
    group: int = 0
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """Runs of one config with several seeds.

    Attributes:
        name: the fields that distinguish it from other groups.
        members: names of its runs.
        values: measure → one value per run.
        scores: measure → Score of the mean over the runs.
    """

    name: str
    members: Sequence[str]
    values: Mapping[str, Sequence[float]]
    scores: Mapping[str, Score]

    def deviation(self, measure: str) -> float | None:
        """Computes the standard deviation over the runs (with n − 1); None for a single run."""
        values = self.values[measure]
        return float(np.std(values, ddof=1)) if len(values) > 1 else None


@dataclass(frozen=True)
class Comparison:
    """A comparison of runs.

    Attributes:
        split: the evaluated split.
        measures: names of the scores.
        rows: the runs; the others are compared with the first.
        groups: runs that differ only in the seed; empty if they are not grouped.
        records: run → records of metrics.jsonl.
        warnings: reasons why the numbers are less comparable than they look.
        notes: how to read the numbers.
        further: name → one value per run, of scores without per-example values, and thus without intervals.
        pictures: title → one file per run, copied to the folder of the page.
    """

    split: str
    measures: Sequence[str]
    rows: Sequence[Row]
    groups: Sequence[Group] = ()
    records: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()
    further: Mapping[str, Sequence[float]] = field(default_factory=dict)
    pictures: Mapping[str, Sequence[Path]] = field(default_factory=dict)

    @property
    def fields(self) -> dict[str, str]:
        """Config fields in which the runs differ → short name."""
        return short_names([*self.rows[0].fields])


def short_names(fields: Sequence[str]) -> dict[str, str]:
    """Shortens dotted fields to their last component where it is unique: field → short name.

    >>> short_names(["optim.name", "model.name", "optim.learning_rate"])
    {'optim.name': 'optim.name', 'model.name': 'model.name', 'optim.learning_rate': 'learning_rate'}
    """
    last = [f.rpartition(".")[2] for f in fields]
    return {f: word if last.count(word) == 1 else f for f, word in zip(fields, last, strict=True)}


def tables(comparison: Comparison) -> list[Table]:
    """Builds the tables: results by measure, groups by measure, further scores, and the differing fields if there are many."""
    made = []
    beside = comparison.fields if len(comparison.fields) <= FIELDS_BESIDE else {}
    several = len(comparison.rows) > 1
    paired = any(s.p is not None for r in comparison.rows for s in r.scores.values())
    counts = sorted({row.examples for row in comparison.rows})
    n = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    for measure in comparison.measures:
        scores = [row.scores[measure] for row in comparison.rows]
        binary = any(s.gained is not None for s in scores)
        heads = [f"{measure} %", "95 % interval", *("difference", "95 % interval") * several]
        heads += ["p"] * (several and paired) + ["gained : lost"] * (several and binary)
        rows = []
        for row, s in zip(comparison.rows, scores, strict=True):
            cells = [
                row.name,
                *(shown(row.fields[f]) for f in beside),
                pages.share(s.value),
                _range(s.interval),
            ]
            cells += _difference(s) * several
            cells += [_p(s.p)] * (several and paired)
            cells += ["" if s.gained is None else f"{s.gained} : {s.lost}"] * (several and binary)
            rows.append(cells)
        words = ["run", *beside.values()]
        title = f"{measure}, {comparison.split}, {n} examples"
        made.append(Table(title, words + heads, rows, [True] * len(words) + [False] * len(heads)))
    for measure in comparison.measures if comparison.groups else ():
        heads = ["seeds", f"mean {measure} %", "standard deviation", "lowest – highest"]
        heads += ["difference", "95 % interval"] * (len(comparison.groups) > 1)
        rows = []
        for group in comparison.groups:
            values, deviation = group.values[measure], group.deviation(measure)
            cells = [group.name, str(len(values)), pages.share(group.scores[measure].value)]
            cells += [
                "–" if deviation is None else pages.share(deviation),
                _range((min(values), max(values))),
            ]
            cells += _difference(group.scores[measure]) * (len(comparison.groups) > 1)
            rows.append([*cells, ", ".join(group.members)])
        title = f"{measure}, {comparison.split}: mean over training seeds"
        made.append(Table(title, ["config", *heads, "runs"], rows, [True, *[False] * len(heads), True]))
    if comparison.further:
        rows = [[name, *(f"{v:.3f}" for v in values)] for name, values in comparison.further.items()]
        heads = ["score", *(row.name for row in comparison.rows)]
        title = f"Further scores, {comparison.split}, without intervals"
        made.append(Table(title, heads, rows, [True, *[False] * len(comparison.rows)]))
    if comparison.fields and not beside:
        rows = [[f, *(shown(row.fields[f]) for row in comparison.rows)] for f in comparison.fields]
        heads = ["field", *(row.name for row in comparison.rows)]
        made.append(Table("Where the configs differ", heads, rows, [True] * len(heads)))
    return made


def text(comparison: Comparison) -> str:
    """Formats the tables and notes for a terminal, with aligned columns."""
    parts = []
    for table in tables(comparison):
        cells = [[plain(c) for c in line] for line in (table.heads, *table.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(
                c.ljust(w) if left else c.rjust(w)
                for c, w, left in zip(line, widths, table.words, strict=True)
            )
            for line in cells
        ]
        parts.append("\n".join([plain(table.title), *(line.rstrip() for line in lines)]))
    for mark, remarks in (("! ", comparison.warnings), ("· ", comparison.notes)):
        parts.append(
            "\n".join(
                textwrap.fill(plain(x, 2_000), WIDTH, initial_indent=mark, subsequent_indent="  ")
                for x in remarks
            )
        )
    return "\n\n".join(filter(None, parts)) + "\n"


def markdown(comparison: Comparison) -> str:
    """Formats the tables and notes as Markdown."""
    parts = [f"**{_escaped(w)}**" for w in comparison.warnings]
    for table in tables(comparison):
        lines = [table.heads, None, *table.rows]
        rule = "| " + " | ".join(":--" if left else "--:" for left in table.words) + " |"
        drawn = [rule if line is None else "| " + " | ".join(map(_escaped, line)) + " |" for line in lines]
        parts.append("\n".join([_escaped(table.title), "", *drawn]))
    return "\n\n".join([*parts, "\n".join(f"- {_escaped(note)}" for note in comparison.notes)]) + "\n"


def comma_separated(comparison: Comparison) -> str:
    """Formats the comparison as CSV, one line per run and measure; fractions in full precision, missing values empty."""
    heads = ("split", "measure", "examples", "value", "low", "high", "difference", "difference_low", "difference_high", "p",
             "test", "gained", "lost")  # fmt: skip
    rows: list[list[object]] = [["run", "workdir", *comparison.fields, *heads]]
    for measure in comparison.measures:
        for row in comparison.rows:
            s = row.scores[measure]
            low, high = s.difference_interval or ("", "")
            numbers = (s.value, *s.interval, s.difference, low, high, s.p, s.test, s.gained, s.lost)
            fields = (str(row.fields[f]) for f in comparison.fields)
            cells = (row.name, row.folder, *fields, comparison.split, measure, row.examples, *numbers)
            rows.append([plain(c, 10_000) if isinstance(c, str) else c for c in cells])
    return files.csv_text(rows)


def write(folder: Path, comparison: Comparison) -> Path:
    """Writes index.html, its pictures, comparison.md and comparison.csv; returns the path of index.html, which is moved last.

    Args:
        folder: made if absent; an earlier comparison in it is replaced.
        comparison: what to show.

    Raises:
        UserError: the folder is a file, holds a run or a page that is no comparison, or cannot be written.
    """
    folder = Path(folder)
    with folder_errors(f"--out={folder}"):
        folder.mkdir(parents=True, exist_ok=True)
    other = (folder / "index.html").exists() and not (folder / "comparison.csv").exists()
    if other or (folder / "config.json").exists():
        what = "a page that is no comparison" if other else "a run"
        raise UserError(f"--out={folder} holds {what}; name another folder")
    with pages.replacing(folder, "comparison") as made:
        drawn: dict[str, str | None] = {}
        for name, figure in comparison_figures.all_of(comparison).items():
            drawn[name] = (
                None if figure is None else figures.save(figure, made / f"comparison_{name}.png").name
            )
        shown_of: dict[str, list[str]] = {}
        for what, drawings in comparison.pictures.items():
            shown_of[what] = [f"comparison_{i:02d}_{file.name}" for i, file in enumerate(drawings)]
            for name, file in zip(shown_of[what], drawings, strict=True):
                shutil.copyfile(file, made / name)
        page = pages.render(
            "comparison.html",
            comparison=comparison,
            warnings=comparison.warnings,
            first=comparison.rows[0],
            drawn=drawn,
            pictures=shown_of,
            tables=tables(comparison),
            reports=_reports(folder, comparison.rows),
        )
        for name, content in (
            ("comparison.csv", comma_separated(comparison)),
            ("comparison.md", markdown(comparison)),
            (pages.PAGE, page),
        ):
            (made / name).write_text(content, encoding="utf-8", errors="replace")
    return folder / pages.PAGE


def _reports(folder: Path, rows: Sequence[Row]) -> dict[str, str]:
    """Run → relative URL of its report, of runs that have one."""
    found = {row.name: Path(row.folder) / "report" / pages.PAGE for row in rows}
    return {name: pages.link(folder, page) for name, page in found.items() if page.is_file()}


def signed(value: float) -> str:
    """Formats a difference of fractions in percentage points, with its sign."""
    rounded = f"{100 * value:+.1f}"
    return rounded.replace("-", "−") if float(rounded) else "0.0"


def shown(value: object, limit: int = 28) -> str:
    """Formats the value of a config field, shortened to `limit` characters."""
    return plain(f"{value:g}" if isinstance(value, float) else str(value) or "–", limit)


def plain(value: str, limit: int = 60) -> str:
    """Returns one printable line: other characters are replaced, and the middle of long text is elided."""
    value = "".join(
        c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(str(value).split())
    )
    return (
        value
        if len(value) <= limit
        else f"{value[: limit // 2]}…{value[len(value) - (limit - limit // 2 - 1) :]}"
    )


def _range(interval: Interval) -> str:
    """Formats an interval; "–" if its width is 0, in which case the bootstrap is not informative."""
    low, high = interval
    return f"{pages.share(low)} – {pages.share(high)}" if low < high else "–"


def _difference(score: Score) -> list[str]:
    if score.difference is None or score.difference_interval is None:
        return ["baseline", ""]
    low, high = score.difference_interval
    return [signed(score.difference), f"{signed(low)} … {signed(high)}" if low < high else "–"]


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _escaped(value: str) -> str:
    value = plain(value, 2_000).replace("&", "&amp;").replace("<", "&lt;")
    for sign in "\\|*`[]":
        value = value.replace(sign, f"\\{sign}")
    return value
