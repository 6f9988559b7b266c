"""Figures that compare several runs. A run, or a group of seeds, has the same colour and line style in all of them."""

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fusionjax.interpret.figures import PALETTE, apply_style, label, points_by_step

if TYPE_CHECKING:
    from fusionjax.interpret.comparison import Comparison

DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D")
"""Of the first six runs, the next six, and so on: together with the colours, they distinguish 24 runs."""
PANELS = 6
_INK, _SOFT = "#333333", "#777777"
_PERCENT = FuncFormatter(lambda value, position: f"{100 * value:.6g}".replace("-", "−"))


def all_of(comparison: "Comparison") -> dict[str, Figure | None]:
    """Draws the figures "intervals", "seeds" and "curves"; None for one that has nothing to show."""
    return {
        "intervals": intervals(comparison),
        "seeds": seeds(comparison) if comparison.groups else None,
        "curves": curves(comparison),
    }


def intervals(comparison: "Comparison") -> Figure:
    """Draws scores with intervals, one row of panels per measure: the score, and the difference to the first run."""
    rows, several = comparison.rows, len(comparison.rows) > 1
    tall = 1.0 + 0.36 * len(rows)
    figure, grid = _grid(len(comparison.measures), 1 + several, 5.2, tall)
    at = range(len(rows))
    names = [
        label(row.name, 30) + (" (baseline)" if several and i == 0 else "") for i, row in enumerate(rows)
    ]
    for panels, measure in zip(grid, comparison.measures, strict=True):
        scores = [row.scores[measure] for row in rows]
        apply_style(panels[0], f"{measure}, {comparison.split}", grid="x", colour="#EEEEEE")
        for i, s in enumerate(scores):
            _whisker(panels[0], i, s.value, s.interval, _look(comparison, i))
        panels[0].set(
            xlabel="%, with its 95 % interval over the test examples"
        )  # the title names the measure
        if several:
            panels[0].axvline(scores[0].value, color=_SOFT, lw=1, ls="--", zorder=0)
            apply_style(
                panels[1], f"{measure}: difference to {label(rows[0].name, 24)}", grid="x", colour="#EEEEEE"
            )
            panels[1].axvline(0, color=_SOFT, lw=1, ls="--", zorder=0)
            for i, s in enumerate(scores):
                if s.difference is not None and s.difference_interval is not None:
                    _whisker(panels[1], i, s.difference, s.difference_interval, _look(comparison, i))
            panels[1].set(xlabel="percentage points, with 95 % interval; right of the line: better")
            panels[1].set_yticks(at, [""] * len(rows))
            panels[1].text(0, 0, " baseline", va="center", fontsize=9, color=_SOFT)
        panels[0].set_yticks(at, names, fontsize=9)
        for axes in panels:
            axes.set_ylim(len(rows) - 0.4, -0.6)  # the first on top
            axes.tick_params(axis="y", length=0)
            axes.xaxis.set_major_formatter(_PERCENT)
            axes.margins(x=0.08)
    return figure


def seeds(comparison: "Comparison") -> Figure:
    """Draws, for every group, one dot per run, their mean and a bar of one standard deviation to each side."""
    groups = comparison.groups
    figure, grid = _grid(1, len(comparison.measures), 5.2, 1.1 + 0.5 * len(groups))
    for axes, measure in zip(grid[0], comparison.measures, strict=True):
        apply_style(axes, f"{measure}, {comparison.split}: training seeds", grid="x", colour="#EEEEEE")
        for i, group in enumerate(groups):
            colour, _, marker = _cycle(i)
            values = np.asarray(group.values[measure])
            deviation = group.deviation(measure) or 0.0
            axes.errorbar(
                values.mean(),
                i + 0.16,
                xerr=deviation,
                fmt="|",
                ms=12,
                mew=2,
                color=colour,
                capsize=4,
                lw=1.6,
            )
            axes.plot(values, np.full(len(values), i - 0.16), marker, color=colour, ms=5.5, alpha=0.75, ls="")
        axes.set_yticks(range(len(groups)), [label(g.name, 40) for g in groups], fontsize=9)
        axes.set_ylim(len(groups) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_formatter(_PERCENT)
        axes.margins(x=0.08)
        axes.set(xlabel=f"{measure} in %. Dots: runs; bar: their mean ± one standard deviation")
    return figure


def curves(comparison: "Comparison") -> Figure | None:
    """Draws the training loss, and the measures and the loss of every evaluated split by step, one panel each.

    Scores that no run has at more than one step are left out. Returns None if nothing was logged.
    """
    series = {row.name: points_by_step(comparison.records.get(row.name, ())) for row in comparison.rows}
    logged = {key for found in series.values() for key in found}
    wanted = [k for k in ("train/loss",) if k in logged]
    for name in (*comparison.measures, "nll", "loss"):
        wanted += sorted(k for k in logged if not k.startswith("train/") and k.partition("/")[2] == name)
    wanted = [k for k in wanted if max(len(found[k][0]) for found in series.values() if k in found) > 1][
        :PANELS
    ]
    if not wanted:
        return None
    columns = min(3, len(wanted))
    figure, grid = _grid(math.ceil(len(wanted) / columns), columns, 3.8, 2.9)
    for axes in grid.flat[len(wanted) :]:
        axes.set_visible(False)
    for axes, key in zip(grid.flat, wanted, strict=False):
        split, _, name = key.partition("/")
        loss = name in ("loss", "nll")
        words = {"loss": "loss", "nll": "negative log likelihood in nats"}.get(name, f"{name} in %")
        apply_style(axes, f"{words}, {'training' if split == 'train' else split}", grid="x", colour="#EEEEEE")
        axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
        for i, row in enumerate(comparison.rows):
            if key in series[row.name]:
                steps, values = series[row.name][key]
                colour, dashes, marker = _look(comparison, i)
                few = len(steps) <= 25
                axes.plot(
                    steps,
                    values,
                    dashes,
                    color=colour,
                    marker=marker if few else None,
                    ms=4,
                    lw=1.3,
                    alpha=0.9,
                )
        axes.set(xlabel="step")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if not loss:
            axes.yaxis.set_major_formatter(_PERCENT)
    _legend(figure, comparison)
    return figure


def _legend(figure: Figure, comparison: "Comparison") -> None:
    names = [f"{label(g.name, 48)} ({len(g.members)} seeds)" for g in comparison.groups]
    keys = []
    for i, name in enumerate(names or [label(row.name, 48) for row in comparison.rows]):
        colour, dashes, marker = _cycle(i)
        keys.append(Line2D([], [], color=colour, ls=dashes, marker=marker, ms=4, label=name))
    longest = max(len(str(key.get_label())) for key in keys)
    columns = max(1, min(len(keys), 110 // (longest + 8)))
    figure.legend(handles=keys, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)


def _look(comparison: "Comparison", i: int) -> tuple[str, str, str]:
    """Returns colour, line style and marker of run `i`."""
    return _cycle(comparison.rows[i].group if comparison.groups else i)


def _cycle(i: int) -> tuple[str, str, str]:
    turn = i // len(PALETTE) % len(DASHES)
    return PALETTE[i % len(PALETTE)], DASHES[turn], MARKERS[turn]


def _whisker(
    axes: Axes, at: int, value: float, interval: tuple[float, float], look: tuple[str, str, str]
) -> None:
    colour, _, marker = look
    axes.plot(interval, (at, at), color=colour, lw=2, solid_capstyle="butt")
    axes.plot(interval, (at, at), "|", color=colour, ms=8, mew=1.6)
    axes.plot([value], [at], marker, color=colour, ms=7)


def _grid(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    figure = Figure(
        figsize=(max(width * columns, 9.5), height * rows + 0.4),
        layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1),
    )
    return figure, figure.subplots(rows, columns, squeeze=False)
