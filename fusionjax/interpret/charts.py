"""Panels that are charts: weights of words, weights over time, one number per layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from fusionjax.interpret.figures import PALETTE, label

_SMALL = 5.5
_SOFT = "#6b6b6b"


@dataclass(frozen=True, eq=False)
class Chart:
    """A panel with series of numbers.

    Attributes:
        title: of the panel.
        key: name of its values in the data file.
        values: (S, n) float, S series.
        names: of the series; none are drawn for a single one.
        labels: n words; empty for a chart over `positions`.
        positions: (n,) float; unused where there are labels.
        axis: label of the horizontal axis.
        uniform: a value to mark by a dotted line, e.g. that of uniform attention; None for none.
        sound: (frames, bands) log-mel spectrogram behind the series, over the whole horizontal axis; or None.
        limits: of the horizontal axis; None for those of the positions, whole numbers.
        top: of the vertical axis, which begins at 0; None for the largest value.
        span: columns of the figure that it fills.
    """

    title: str
    key: str
    values: np.ndarray
    names: Sequence[str] = ()
    labels: Sequence[str] = ()
    positions: Sequence[float] = ()
    axis: str = ""
    uniform: float | None = None
    sound: np.ndarray | None = None
    limits: tuple[float, float] | None = None
    top: float | None = None
    span: int = 3
    kind: str = "chart"

    def range(self) -> None:
        """None: its axis has numbers; see `Panel.range`."""
        return None

    def draw(self, axes: Axes) -> None:
        """Draws the chart."""
        values = np.atleast_2d(self.values)
        at = np.arange(values.shape[1]) if self.labels else np.asarray(self.positions)
        colours = [PALETTE[k % len(PALETTE)] for k in range(len(values))]
        if self.sound is not None and len(self.sound):
            self._spectrogram(axes)
        for k, (series, colour) in enumerate(zip(values, colours, strict=True)):
            name = label(self.names[k], 20) if self.names else None
            if self.labels:
                width = 0.8 / len(values)
                axes.bar(at - 0.4 + (k + 0.5) * width, series, width, color=colour, label=name)
            else:
                marker = "o" if len(at) <= 24 else None
                axes.plot(at, series, color=colour, marker=marker, ms=2, lw=1, label=name)
        if self.uniform is not None:
            axes.axhline(self.uniform, color=_SOFT, ls=":", lw=0.8)
        if self.labels:
            words = [label(word, 14) for word in self.labels]
            size = _SMALL if len(words) <= 24 else 4.0
            axes.set_xticks(at, words, rotation=45, ha="right", rotation_mode="anchor", fontsize=size)
            axes.set_xlim(-0.6, len(words) - 0.4)
        elif self.limits is not None:
            axes.set_xlim(*self.limits)
        axes.set_ylim(0, self.top)
        if not self.labels and self.limits is None:
            axes.set_xlim(at.min() - 0.5, at.max() + 0.5)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlabel(self.axis, fontsize=_SMALL, color=_SOFT, labelpad=1)
        axes.tick_params(labelsize=_SMALL, length=2, width=0.4, pad=1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_linewidth(0.4)
        if self.names and len(values) > 1:
            axes.legend(fontsize=_SMALL, frameon=False, handlelength=1, borderpad=0, labelspacing=0.2)

    def _spectrogram(self, axes: Axes) -> None:
        """The spectrogram in grey, on an axis of its own behind the series."""
        behind = axes.twinx()
        low, high = self.limits or (0.0, 1.0)
        behind.imshow(
            np.asarray(self.sound).T, origin="lower", aspect="auto", cmap="gray_r", alpha=0.45,
            extent=(low, high, 0.0, 1.0),
        )  # fmt: skip
        behind.set(yticks=[])
        behind.spines[:].set_visible(False)
        axes.set_zorder(behind.get_zorder() + 1)
        axes.patch.set_visible(False)
