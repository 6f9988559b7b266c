"""Figures of panels: their size, and that no text is clipped or overlaps."""

import io
import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from fusionjax.interpret import geometry, panel_figures
from fusionjax.interpret.charts import Chart
from fusionjax.interpret.panel_figures import Row
from fusionjax.interpret.panels import Panel, Picture

GRID = (4, 4)
LONG = "a very long name of a class that costs $5 or $6 and does not fit into the width of any column of a figure"


def row(columns, caption="photo.jpg · true: apple", title="attention rollout", size=(40, 60)):
    image = np.full((*size, 3), 220, np.uint8)
    shown = Picture("photo.jpg", image, geometry.whole(size, (32, 32)), caption)
    values = np.arange(1.0, 17.0).reshape(GRID)
    return Row(
        shown,
        [
            Panel("input", "input"),
            *(Panel(title, f"m{i}", "share", values, GRID) for i in range(columns - 1)),
        ],
    )


def boxes(figure):
    """(text, extent) of every text of a figure, in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = figure.findobj(lambda a: hasattr(a, "get_text") and a.get_text() and a.get_visible())
    return [(t.get_text(), t.get_window_extent(canvas.get_renderer())) for t in texts]


@pytest.mark.parametrize("width", [2.0, 3.4, 7.0])
@pytest.mark.parametrize(("caption", "title"), [("a.png", "input"), (LONG, LONG), ("漢字.png", "x" * 200)])
def test_no_text_leaves_the_figure_or_covers_another(width, caption, title):
    chart = Chart("words", "w", np.ones((1, 5)) / 5, labels=["a", "long" * 5, "$x$", "漢", "."], uniform=0.2)
    rows = [
        row(5, caption, title),
        Row(row(1).picture, [chart, Panel("input", "input")]),
        row(3, caption, title, (90, 30)),
    ]
    for figure in panel_figures.figures(rows, width=width):
        assert figure.get_size_inches()[0] == width
        found = boxes(figure)
        w, h = figure.get_size_inches() * figure.dpi
        for text, box in found:
            assert box.x0 > -1 and box.y0 > -1 and box.x1 < w + 1 and box.y1 < h + 1, text
        ours = [(t, b) for t, b in found if b.height < 30 and t[:1] not in "0.1a"]
        for (a, p), (b, q) in itertools.combinations(ours, 2):
            across, down = min(p.x1, q.x1) - max(p.x0, q.x0), min(p.y1, q.y1) - max(p.y0, q.y0)
            assert across < 1 or down < 3, f"{a!r} covers {b!r}"


def test_rows_that_do_not_fit_a_page_go_to_the_next():
    made = panel_figures.figures([row(3) for _ in range(20)], width=7.0)
    assert len(made) > 1 and all(f.get_size_inches()[1] <= panel_figures.HEIGHT + 1e-6 for f in made)
    images = sum(len([a for a in f.axes if a.images]) for f in made)
    assert images == 60


def test_a_row_with_more_panels_than_columns_is_continued_below():
    (figure,) = panel_figures.figures([row(7)], width=7.0, columns=3)
    lefts = sorted({round(a.get_position().x0, 3) for a in figure.axes if a.images})
    assert len(lefts) == 3 and sum(bool(a.images) for a in figure.axes) == 7


def test_text_of_an_svg_is_text():
    import matplotlib

    (figure,) = panel_figures.figures([row(2)], width=3.0)
    made = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(made, format="svg")
    assert "true: apple" in made.getvalue() and "attention rollout" in made.getvalue()
