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


def test_a_link_is_relative_and_quoted(tmp_path):
    page = tmp_path / "runs" / "a #1?" / "report" / "index.html"
    page.parent.mkdir(parents=True)
    (tmp_path / "here").symlink_to(tmp_path / "runs")
    assert pages.link(tmp_path / "runs" / "b" / "report", page) == "../../a%20%231%3F/report/index.html"
    assert pages.link(tmp_path / "here" / "b", page) == "../a%20%231%3F/report/index.html"
    assert pages.link(tmp_path, tmp_path / "\udcff") == "%FF"


@pytest.mark.parametrize("template", ["report.html", "comparison.html"])
def test_templates_refuse_a_missing_value(template):
    with pytest.raises(jinja2.UndefinedError):
        pages.render(template, warnings=["<b>careful</b>"])


def write(folder, *files):
    with pages.replacing(folder, "x") as made:
        for name in (*files, "index.html"):
            (made / name).write_text(files[0])


def test_a_page_takes_the_place_of_the_older_one(tmp_path):
    write(tmp_path / "page", "figure_1.png", "x.csv")
    (tmp_path / "page" / ".x-killed").mkdir()
    write(tmp_path / "page", "figure_2.png", "x.csv")
    assert names(tmp_path / "page") == [".x.json", "figure_2.png", "index.html", "x.csv"]
    assert (tmp_path / "page" / "index.html").read_text() == "figure_2.png"


def test_what_no_page_wrote_is_left_alone(tmp_path):
    """Whatever its name: only the list of written files says what is removed."""
    mine = ["figure_mine.png", "right_now.png", "notes.txt"]
    for name in mine:
        (tmp_path / name).write_text("mine")
    write(tmp_path, "figure_1.png")
    write(tmp_path, "figure_2.png")
    assert names(tmp_path) == sorted([*mine, ".x.json", "figure_2.png", "index.html"])
    assert all((tmp_path / name).read_text() == "mine" for name in mine)


@pytest.mark.parametrize(
    "content", ["", "{", "{}", "[1, null]", '["../mine.png", "/mine.png", ".."]', "[" * 9999]
)
def test_a_damaged_list_removes_nothing(tmp_path, content):
    (tmp_path / "mine.png").write_text("mine")
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / ".x.json").write_text(content)
    write(tmp_path / "page", "figure_1.png")
    assert (tmp_path / "mine.png").read_text() == "mine"


def test_killed_between_two_files_the_next_page_removes_what_it_left(tmp_path, monkeypatch):
    write(tmp_path, "a.png", "b.png")
    replace = os.replace

    def killed(source, target):
        if target.name == "d.png":
            raise ZeroDivisionError
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(os, "replace", killed)
        write(tmp_path, "c.png", "d.png")
    assert "c.png" in names(tmp_path)
    write(tmp_path, "e.png")
    assert names(tmp_path) == [".x.json", "e.png", "index.html"]


def test_a_page_that_cannot_be_made_leaves_the_older_one(tmp_path):
    (tmp_path / "index.html").write_text("old")
    with pytest.raises(ZeroDivisionError), pages.replacing(tmp_path, "x") as made:
        (made / "index.html").write_text("new")
        raise ZeroDivisionError
    assert names(tmp_path) == ["index.html"] and (tmp_path / "index.html").read_text() == "old"
