"""Rank lists: what they show, for colour-blind readers too, with any name that data may bring."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from fusionjax.interpret import figures
from fusionjax.interpret.rank_list import RIGHT, WRONG, Entry, rank_list

RNG = np.random.default_rng(0)


def picture(size=(32, 16)):
    return RNG.integers(0, 256, (*size, 3)).astype(np.uint8)


def entry(right=(True, False, True), name="identity 7", **parts):
    return Entry(name, picture(), [picture() for _ in right], right, **parts)


def test_right_and_wrong_differ_in_colour_line_and_mark():
    figure = rank_list([entry(scores=[0.9, 0.8, 0.7], average_precision=5 / 6, matches=3)])
    shown = [axes for axes in figure.axes if axes.get_title() not in ("", "query")]
    assert [axes.get_title() for axes in shown] == ["1 ✓", "2 ✗", "3 ✓"]
    for axes, right in zip(shown, (True, False, True), strict=True):
        spines = list(axes.spines.values())
        assert axes.axison and all(s.get_visible() for s in spines)
        assert {to_hex(s.get_edgecolor()).upper() for s in spines} == {RIGHT if right else WRONG}
        assert {s.get_linestyle() == "-" for s in spines} == {right}
    assert [axes.texts[0].get_text() for axes in shown] == ["0.900", "0.800", "0.700"]
    query = next(axes for axes in figure.axes if axes.get_title() == "query")
    assert query.texts[0].get_text() == "identity 7\nAP 0.83\n2 of 3 found here"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["✓ same identity", "✗ another identity", "number: similarity"]


def test_draws_lists_of_any_length_and_pictures_of_any_shape(tmp_path):
    hostile = "$\\frac{1}{0}$ <script> 日本\n\x07 " + "x" * 60
    entries = [
        entry([True] * 10, hostile, names=[hostile] * 10, scores=[0.5] * 10),
        entry([False], matches=0),
        Entry("wide", picture((16, 40)), [picture((40, 16)), picture((8, 8))], [False, True]),
        Entry("nothing found", picture(), [], []),
    ]
    path = figures.save(rank_list(entries, hostile, score_name=hostile), tmp_path / "list.png", dpi=60)
    with Image.open(path) as image:
        assert image.format == "PNG" and np.asarray(image.convert("L")).std() > 1
    captions = [axes.texts[0].get_text() for axes in rank_list(entries).axes if axes.get_title() == "query"]
    assert captions[1] == "identity 7\nno match in the gallery" and captions[2:] == ["wide", "nothing found"]
    assert rank_list([]) is None and rank_list(entries[3:]) is None


def test_borders_do_not_touch():
    figure = rank_list([entry([True, False, False, True])], "title")
    figure.draw_without_rendering()
    boxes = [axes.get_window_extent() for axes in figure.axes if axes.axison]
    line = 3 * figure.dpi / 72  # half of it on each side of the two edges
    for a in boxes:
        assert a.x0 > line / 2 and a.x1 < figure.bbox.x1 - line / 2
        for b in boxes:
            assert a is b or a.x1 + line < b.x0 or b.x1 + line < a.x0


def test_mistakes_name_what_does_not_fit():
    with pytest.raises(ValueError, match="2 right for 1 images"):
        Entry("a", picture(), [picture()], [True, False])
    with pytest.raises(ValueError, match="3 scores for 2 images"):
        Entry("a", picture(), [picture()] * 2, [True, False], scores=[1, 2, 3])
    with pytest.raises(ValueError, match="uint8"):
        Entry("a", picture(), [picture() / 255], [True])
