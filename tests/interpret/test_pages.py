"""The page that reports and comparisons extend, and how it takes the place of an older one."""

import os

import jinja2
import pytest

from fusionjax.interpret import pages


def names(folder):
    return sorted(os.listdir(folder))


def test_number_and_share():
    assert pages.number(0.125) == "12.5\N{NO-BREAK SPACE}%" and pages.number("3 s") == "3 s"
    assert pages.share(0.125) == "12.5"


@pytest.mark.parametrize("template", ["report.html", "comparison.html"])
def test_templates_refuse_a_missing_value(template):
    with pytest.raises(jinja2.UndefinedError):
        pages.render(template, warnings=["<b>careful</b>"])


def test_a_page_takes_the_place_of_the_older_one(tmp_path):
    folder = tmp_path / "page"
    for number in (1, 2):
        with pages.replacing(folder, "x", pictures=("figure_*.png",), beside=("x.csv",)) as made:
            for name in (f"figure_{number}.png", f"own_{number}.png", "x.csv", "index.html"):
                (made / name).write_text(str(number))
        if number == 1:
            (folder / "mine.txt").write_text("")
            (folder / ".x-killed").mkdir()
    # A picture that matches no pattern may be somebody else's.
    assert names(folder) == ["figure_2.png", "index.html", "mine.txt", "own_1.png", "own_2.png", "x.csv"]
    assert (folder / "index.html").read_text() == (folder / "x.csv").read_text() == "2"


def test_a_page_that_cannot_be_made_leaves_the_older_one(tmp_path):
    (tmp_path / "index.html").write_text("old")
    with pytest.raises(ZeroDivisionError), pages.replacing(tmp_path, "x", pictures=("*.png",)) as made:
        (made / "index.html").write_text("new")
        raise ZeroDivisionError
    assert names(tmp_path) == ["index.html"] and (tmp_path / "index.html").read_text() == "old"
