"""Where a classifier errs, as lines of text."""

from collections.abc import Mapping
from typing import Any

from fusionjax.errors import UserError
from fusionjax.evaluation.classification import Result

SHOWN = 10
"""Classes that are listed."""


def lines(results: Mapping[str, Any]) -> list[str]:
    """The classes with the lowest recall of each split, and the class that they are taken for most often.

    Args:
        results: of `Run.evaluate`, of a run that classifies.

    Raises:
        UserError: a run whose results have no classes.
    """
    found: list[str] = []
    for split, by_branch in results.items():
        result = by_branch.get("combined") if isinstance(by_branch, Mapping) else None
        if not isinstance(result, Result):
            raise UserError("--analysis lists the classes of a classifier: this run's results have none")
        rows = sorted(
            (row for row in result.per_class if row.support), key=lambda row: (row.recall, -row.support)
        )
        shown = rows[:SHOWN]
        width = max((len(row.name) for row in shown), default=5)
        which = f"{len(shown)} of {len(rows)} classes" if len(rows) > len(shown) else "classes"
        found.append(f"{split}: {which}, the lowest recall first")
        found.append(f"  {'class':<{width}}  recall  precision  images  most often taken for")
        found += [
            f"  {row.name:<{width}}  {row.recall:6.3f}  {row.precision:9.3f}  {row.support:6}  "
            + (f"{row.confused_with} ({row.confused})" if row.confused_with else "–")
            for row in shown
        ]
    return found
