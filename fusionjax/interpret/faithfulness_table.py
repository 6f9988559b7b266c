"""The measures of explanations as a table: text for a terminal, cells for a report."""

import dataclasses
import textwrap
from collections.abc import Mapping

import numpy as np

from fusionjax.evaluation import significance

HEADS = {
    "deletion": "deletion ↓",
    "insertion": "insertion ↑",
    "pointing": "pointing game ↑",
    "energy": "energy inside ↑",
    "randomised": "randomised weights ↓",
}
"""Measure → head of its column; the arrow points to the better side."""
BETTER = {"deletion": -1, "insertion": 1, "pointing": 1, "energy": 1}
"""Sign of the better side, of measures that are compared with the controls."""
_LEAST = 6
"""Images from which a difference may be called one: five of one sign are no rarer than 5 % by chance, on either side."""
CONTROLS = {"random": "random (control)", "centre": "centre prior (control)"}
MEANING = {
    "deletion": "Deletion: area under the score while the most relevant pixels are removed (Petsiuk et al., 2018).",
    "insertion": "Insertion: the same while they are added to a blurred image.",
    "pointing": "Pointing game: the largest value lies on the object (Zhang et al., 2016).",
    "energy": "Energy: share of the map on the object.",
    "randomised": "Randomised weights: rank correlation with the map of the same network with fresh weights (Adebayo et al., "
    "2018); a map that stays the same does not show what was learned.",
}
INTERVALS = (
    "95 % bootstrap intervals over images. "
    "A map that does not beat both controls does not show what the prediction rests on."
)


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Measures of some methods on the same images.

    Attributes:
        values: method → measure → (N,) float, one value per image; nan where an image has none.
        titles: method → its name.
        about: what was measured, one line.
    """

    values: Mapping[str, Mapping[str, np.ndarray]]
    titles: Mapping[str, str]
    about: str

    @property
    def measures(self) -> list[str]:
        """Those that some image has."""
        return [m for m in HEADS if any(np.isfinite(v[m]).any() for v in self.values.values() if m in v)]

    @property
    def heads(self) -> list[str]:
        """Of the columns."""
        return ["map", *(HEADS[m] for m in self.measures)]

    @property
    def rows(self) -> list[list[str]]:
        """Cells as text."""
        named = {**CONTROLS, **self.titles}
        return [
            [named[method], *(_cell(by.get(measure)) for measure in self.measures)]
            for method, by in self.values.items()
        ]

    def verdicts(self) -> list[str]:
        """In plain words: by which measures a map beats the controls, by the paired interval of the difference."""
        lines = []
        for method in (m for m in self.values if m not in CONTROLS):
            said: dict[str, list[str]] = {}
            for measure in (m for m in self.measures if m in BETTER):
                against = [c for c in CONTROLS if not self._beats(method, c, measure)]
                names = " and ".join(CONTROLS[c].removesuffix(" (control)") for c in against)
                verdict = f"not shown to be better than {names}" if against else "better than both controls"
                said.setdefault(verdict, []).append(HEADS[measure][:-2])
            parts = (f"{verdict} in {', '.join(measures)}" for verdict, measures in said.items())
            lines.append(f"{self.titles[method]}: {'; '.join(parts)}")
        return lines

    def _beats(self, method: str, control: str, measure: str) -> bool:
        own, other = (BETTER[measure] * self.values[m][measure] for m in (method, control))
        known = np.isfinite(own) & np.isfinite(other)
        if known.sum() < _LEAST:
            return False
        low, _ = significance.difference_interval(own[known], other[known])
        return low > 0

    def text(self) -> str:
        """The table for a terminal, with what it says."""
        lines = [self.heads, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.heads))]
        made = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        ]
        return "\n".join([self.about, "", *made, "", *self.verdicts(), "", *textwrap.wrap(self.legend, 100)])

    @property
    def legend(self) -> str:
        """What the columns are."""
        return " ".join([*(MEANING[m] for m in self.measures), INTERVALS])


def _cell(values: np.ndarray | None) -> str:
    values = np.zeros(0) if values is None else np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return "–"
    low, high = significance.mean_interval(values)
    return f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"
