"""Figures of panels: a row per image, a column per map, of a given width in inches, with text as text.

Every label is measured before it is drawn, and wrapped or shortened to its column, so that none is clipped.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ft2font import FT2Font

from fusionjax.interpret.charts import Chart
from fusionjax.interpret.figures import label
from fusionjax.interpret.panels import DIFFERENCE, SHARE, Panel, Picture

WIDTH = 7.0
"""Inches: the text width of a page with two columns."""
HEIGHT = 9.0
"""Largest height of a figure, in inches."""
_TITLE, _CAPTION, _SMALL = 7.0, 7.0, 5.5
"""Sizes of text, in points."""
_LINE = 1.25 / 72
"""Inches per point of a line of text."""
_MARGIN, _GAP = 0.06, 0.06
_ENTRY, _APART, _SPACE = 0.15, 0.22, 0.05
"""Inches: height of a line of the legend, between its entries, and beside a swatch."""
_DPI = 300
"""Pixels of an image per inch of its panel."""
_TALLEST = 1.6
_NARROWEST, _WIDEST = 0.52, 1.9
_CHART = 1.1
_TICKS = 0.3
"""Inches: width of a panel, at least, so that its numbers fit, and at most, where rows can stand side by side; least height of
a chart; room for the numbers at its left."""
_INK, _SOFT = "#333333", "#6b6b6b"


@dataclass(frozen=True, eq=False)
class Row:
    """A row of a figure.

    Attributes:
        picture: the image.
        panels: from left to right; rows of one figure may differ in number.
    """

    picture: Picture
    panels: Sequence[Panel | Chart]


@dataclass
class _Place:
    """A line of panels, its heights in inches.

    Attributes:
        row: its picture, and the panels of this line.
        image: height of a panel.
        captions, titles: lines of text above.
        left: of the first panel.
    """

    row: Row
    image: float
    captions: list[str]
    titles: list[list[str]]
    left: float = _MARGIN

    @property
    def columns(self) -> list[str]:
        """The titles of its panels."""
        return [panel.title for panel in self.row.panels]

    @property
    def height(self) -> float:
        above = len(self.captions) * _CAPTION + max((len(t) for t in self.titles), default=0) * _TITLE
        return above * _LINE + 2 * _SPACE + self.image + _SMALL * _LINE + _GAP


@dataclass(frozen=True)
class _Layout:
    """The columns of a figure.

    Attributes:
        width: of the figure, in inches.
        columns: of a row.
        tiles: rows side by side.
    """

    width: float
    columns: int
    tiles: int

    @property
    def cell(self) -> float:
        """Width of a panel, in inches."""
        count = self.columns * self.tiles
        return (self.width - 2 * _MARGIN - (count - 1) * _GAP) / count

    @property
    def tile(self) -> float:
        """Width of a row, in inches."""
        return self.columns * (self.cell + _GAP) - _GAP


def figures(
    rows: Sequence[Row], *, width: float = WIDTH, columns: int = 0, height: float = HEIGHT
) -> list[Figure]:
    """Draws rows of panels, on as many figures as their height needs.

    Short rows stand side by side where their panels would otherwise be very large.

    Args:
        rows: of panels.
        width: of a figure, in inches.
        columns: panels side by side, fewer where they would be too narrow for their numbers; a row with more is continued
            below. 0 for those of the longest row.
        height: largest height of a figure, in inches.

    Returns:
        The figures; none for no rows.
    """
    longest = max((sum(panel.span for panel in row.panels) for row in rows), default=1)
    fits = int((width - 2 * _MARGIN + _GAP) / (_NARROWEST + _GAP))
    columns = max(1, min(columns or longest, longest, fits))
    tiles = math.ceil(width / (columns * _WIDEST)) if columns >= longest else 1
    layout = _Layout(width, columns, max(1, min(tiles, len(rows))))
    pages: list[list[list[_Place]]] = []
    room = 0.0
    for start in range(0, len(rows), layout.tiles):
        bands = _bands([_placed(row, layout) for row in rows[start : start + layout.tiles]], layout)
        below = _without_titles(bands, pages[-1][-1] if pages else [])
        if not pages or sum(band[0].height for band in below) > room:
            pages.append([])
            room, below = height - 3 * _ENTRY - 2 * _MARGIN, _without_titles(bands, [])
        pages[-1] += below
        room -= sum(band[0].height for band in below)
    return [_page(page, layout) for page in pages]


def _placed(row: Row, layout: _Layout) -> list[_Place]:
    """The lines of a row: the first has its caption."""
    h, w = row.picture.original.shape[:2]
    image = layout.cell * min(h / w, _TALLEST)
    captions = wrapped(row.picture.caption, layout.tile, _CAPTION, 2)
    lines: list[_Place] = []
    for part in _split(row.panels, layout.columns):
        widths = [min(p.span, layout.columns) * (layout.cell + _GAP) - _GAP for p in part]
        titles = [wrapped(p.title, size, _TITLE, 3) for p, size in zip(part, widths, strict=True)]
        chart = _CHART if any(isinstance(p, Chart) for p in part) else 0.0
        lines.append(_Place(Row(row.picture, part), max(image, chart), captions if not lines else [], titles))
    return lines


def _bands(rows: Sequence[list[_Place]], layout: _Layout) -> list[list[_Place]]:
    """The lines of one row, or of several rows of one line each, side by side with the same heights."""
    if len(rows) == 1:
        return [[line] for line in rows[0]]
    band = [lines[0] for lines in rows]
    image, captions = max(line.image for line in band), max(len(line.captions) for line in band)
    for i, line in enumerate(band):
        line.left = _MARGIN + i * (layout.tile + _GAP)
        line.image, line.captions = image, line.captions + [""] * (captions - len(line.captions))
    return [band]


def _split(panels: Sequence[Panel | Chart], columns: int) -> list[list[Panel | Chart]]:
    """Panels in as many lines as they need."""
    lines: list[list[Panel | Chart]] = []
    room = 0
    for panel in panels:
        if panel.span > room or not lines:
            lines.append([])
            room = columns
        lines[-1].append(panel)
        room -= panel.span
    return lines


def _without_titles(bands: Sequence[list[_Place]], above: Sequence[_Place]) -> list[list[_Place]]:
    """Bands without the titles that the band above has too."""
    found, titles = [], [line.columns for line in above]
    for band in bands:
        own = [line.columns for line in band]
        same = own == titles[: len(own)]
        found.append([dataclasses.replace(line, titles=[]) if same else line for line in band])
        titles = own
    return found


def _page(bands: Sequence[list[_Place]], layout: _Layout) -> Figure:
    legend = _flowed(_entries([line for band in bands for line in band], layout.width), layout.width)
    height = 2 * _MARGIN + sum(band[0].height for band in bands) + len(legend) * _ENTRY
    figure = Figure(figsize=(layout.width, height))
    top = height - _MARGIN
    for band in bands:
        for line in band:
            _line(figure, line, top, layout)
        top -= band[0].height
    for k, entries in enumerate(reversed(legend)):
        left = _MARGIN
        for entry in entries:
            _swatch(figure, entry, left, _MARGIN + k * _ENTRY)
            left += entry.width + _APART
    return figure


def _line(figure: Figure, line: _Place, top: float, layout: _Layout) -> None:
    for text in line.captions:
        top -= _CAPTION * _LINE
        _text(figure, line.left, top, text, _CAPTION)
    above = max((len(t) for t in line.titles), default=0) * _TITLE * _LINE + _SPACE
    picture = line.row.picture.at_most(round(layout.cell * _DPI))
    left = line.left
    for j, panel in enumerate(line.row.panels):
        size = min(panel.span * (layout.cell + _GAP) - _GAP, line.left + layout.tile - left)
        for k, text in enumerate(reversed(line.titles[j] if line.titles else [])):
            _text(figure, left + size / 2, top - above + k * _TITLE * _LINE, text, _TITLE, centre=True)
        bottom = top - above - _SPACE - line.image
        _panel(figure, panel, picture, (left, bottom, size, line.image))
        left += size + _GAP


def _panel(
    figure: Figure, panel: Panel | Chart, picture: Picture, box: tuple[float, float, float, float]
) -> None:
    """One panel in a box (left, bottom, width, height) in inches, its range below."""
    left, bottom, width, height = box
    if isinstance(panel, Chart):
        foot = _foot(panel)
        panel.draw(
            figure.add_axes(_fraction(figure, (left + _TICKS, bottom + foot, width - _TICKS, height - foot)))
        )
        return
    axes = figure.add_axes(_fraction(figure, box))
    axes.imshow(panel.drawn(picture), interpolation="lanczos" if panel.kind == "image" else "nearest")
    bare(axes)
    found = panel.range()
    if found is not None:
        low, high = map(number, found)
        text = f"± {high} ×" if panel.kind == "difference" else f"{low} – {high} ×"
        _text(figure, left + width / 2, bottom - _SMALL * _LINE, text, _SMALL, centre=True, colour=_SOFT)


def _fraction(figure: Figure, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """(left, bottom, width, height) in inches as fractions of the figure."""
    width, height = figure.get_size_inches()
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height


def _foot(chart: Chart) -> float:
    """Room for the labels below a chart, in inches."""
    words = max((text_width(label(word, 14), _SMALL) for word in chart.labels), default=0.0) * 0.71
    return words + 0.1 + (_SMALL * _LINE if chart.axis else 0.0)


@dataclass(frozen=True)
class _Entry:
    """An entry of the legend: a swatch between two texts.

    Attributes:
        before, after: the texts.
        colours: a colour map, or (face, edge) of a mark.
        length: of the swatch, in inches.
    """

    before: str
    after: str
    colours: str | tuple[str, str]
    length: float

    @property
    def width(self) -> float:
        before = text_width(self.before, _SMALL) + _SPACE if self.before else 0.0
        return before + self.length + _SPACE + text_width(self.after, _SMALL)

    def fitting(self, width: float) -> "_Entry":
        """The same entry, its text elided where it is wider than the figure."""
        room = width - (self.width - text_width(self.after, _SMALL))
        return dataclasses.replace(self, after=wrapped(self.after, room, _SMALL, 1)[0])


def _entries(lines: Sequence[_Place], width: float) -> list[_Entry]:
    """The colour scales and marks that a figure uses."""
    kinds = {panel.kind for line in lines for panel in line.row.panels}
    bar = min(0.9, width / 6)
    known = {
        "share": _Entry("least", "most attention in the panel; below: its range, 1 is uniform", SHARE, bar),
        "difference": _Entry("less", "more; below: its range, 1 is uniform attention", DIFFERENCE, bar),
        "patches": _Entry("", "selected patches", ("white", "#E69F00"), 0.12),
    }
    found = [entry for kind, entry in known.items() if kind in kinds]
    if any(line.row.picture.cropped for line in lines):
        found.append(_Entry("", "faded: outside the network's input", ("#DDDDDD", "#5A5A5A"), 0.12))
    return [entry.fitting(width - 2 * _MARGIN) for entry in found]


def _flowed(entries: Sequence[_Entry], width: float) -> list[list[_Entry]]:
    """Entries in as many lines as they need."""
    lines: list[list[_Entry]] = []
    room = 0.0
    for entry in entries:
        if not lines or entry.width > room:
            lines.append([])
            room = width - 2 * _MARGIN
        lines[-1].append(entry)
        room -= entry.width + _APART
    return lines


def _swatch(figure: Figure, entry: _Entry, left: float, bottom: float) -> None:
    width, height = figure.get_size_inches()
    if entry.before:
        _text(figure, left, bottom, entry.before, _SMALL)
        left += text_width(entry.before, _SMALL) + _SPACE
    axes = figure.add_axes((left / width, (bottom + 0.01) / height, entry.length / width, 0.07 / height))
    axes.set(xticks=[], yticks=[])
    if isinstance(entry.colours, str):
        figure.colorbar(
            ScalarMappable(Normalize(0, 1), entry.colours), axes, orientation="horizontal", ticks=[]
        )
        axes.spines[:].set_visible(False)
    else:
        axes.set_facecolor(entry.colours[0])
        axes.spines[:].set_color(entry.colours[1])
    _text(figure, left + entry.length + _SPACE, bottom, entry.after, _SMALL)


def bare(axes: Axes) -> None:
    """Removes ticks, and draws a thin frame."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color="#CCCCCC", linewidth=0.4)


def number(value: float) -> str:
    """A number as it is read below a panel: two decimals below 2, one below 10, none above."""
    return f"{value:.{2 if abs(value) < 2 else 1 if abs(value) < 10 else 0}f}"


def text_width(text: str, size: float) -> float:
    """Width of a text of `size` points, in inches."""
    return sum(_advance(c) for c in text) * size / 72


def wrapped(text: str, width: float, size: float, lines: int) -> list[str]:
    """A text in at most `lines` lines of `width` inches, broken at spaces; what does not fit is elided."""
    found: list[str] = []
    words = [label(word, 400).replace(r"\$", "$") for word in text.split(" ") if word]
    while words and len(found) < lines:
        line = words.pop(0)
        while words and text_width(f"{line} {words[0]}", size) <= width:
            line += f" {words.pop(0)}"
        last = len(found) == lines - 1 and words
        if last:
            line += f" {' '.join(words)}"
        if text_width(line, size) > width:
            while line and text_width(f"{line}…", size) > width:
                line = line[:-1]
            line = f"{line.rstrip()}…"
        found.append(line)
    return found


def _text(
    figure: Figure, x: float, y: float, text: str, size: float, *, centre: bool = False, colour: str = _INK
) -> None:
    """Text with its descent at (x, y) inches from the lower left corner."""
    width, height = figure.get_size_inches()
    figure.text(
        x / width, y / height, text.replace("$", r"\$"), fontsize=size, color=colour,
        ha="center" if centre else "left", va="bottom",
    )  # fmt: skip


@functools.cache
def _font() -> FT2Font:
    font = FT2Font(findfont(FontProperties(family="DejaVu Sans")))
    font.set_size(100, 72)
    return font


@functools.cache
def _advance(character: str) -> float:
    """Width of a character, in multiples of the size of its font."""
    return float(_font().load_char(ord(character)).linearHoriAdvance) / 65536 / 100
