"""The page that a run leaves."""

import dataclasses
import html
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from fusionjax.evaluation.classification import evaluate
from fusionjax.interpret import report
from fusionjax.interpret.report import ReportContent, write
from tests.support.pages import HOSTILE, NAMES, RNG, attention, blank, example, records, result


class Page(HTMLParser):
    """Tags, attributes and visible text; fails on a page that runs or fetches anything."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.alts, self.text = [], [], [], ""
        self.feed(text)
        assert "script" not in self.tags and "link" not in self.tags and "iframe" not in self.tags
        assert not re.search(r"https?://|@import|url\(", text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        assert not any(key.startswith("on") for key in attrs)
        if tag == "img":
            self.sources.append(attrs["src"])
            self.alts.append(attrs["alt"])

    def handle_data(self, data):
        self.text += data


def full(names=NAMES):
    branches = {name: result(names) for name in ("sa", "glca", "combined")}
    return ReportContent(
        title="DCAL on four groups",
        task="groups from pictures",
        headline=[
            ("accuracy, test", 0.8125, (0.77, 0.85), "both branches"),
            ("speed", "12 images/s", None, ""),
        ],
        baselines=[("linear probe", 0.5, "frozen trunk")],
        results={"val": branches, "test": branches},
        records=records(),
        right=[attention(), attention((600, 450))],
        wrong=[example(predicted="Activities")],
        config_json='{"seed": 0}',
        environment={"jax": "0.10", "git revision": None},
        command="python -m fusionjax.main --workdir=run",
        warnings=["2 images could not be read"],
        train_seconds=3723.4,
        n_parameters=1_234_567,
    )


def test_full_report(tmp_path):
    content = full()
    index = write(tmp_path / "run" / "report", content)
    assert index == tmp_path / "run" / "report" / "index.html"
    page = Page(index.read_text("utf-8"))
    for text in ("81.2", "77.0 to 85.0", "12 images/s", "1,234,567", "1 h 2 min", "Smileys & Emotion"):
        assert text in page.text
    for text in ("linear probe", "SA + GLCA", '{"seed": 0}', "most frequent class", "fusionjax.main"):
        assert text in page.text
    assert "git revision" not in page.text  # it is None: not known
    assert page.text.index("2 images could not") < page.text.index("81.2")
    assert len(page.sources) == 3 + 3 + 3 + 1 and all(page.alts)
    for source in page.sources:
        assert not blank(index.parent / source)
    with Image.open(index.parent / "right_01_selected.png") as picture:
        assert max(picture.size) == report.SIDE
    left = {path.name for path in index.parent.iterdir()} - set(page.sources)
    assert left == {".report.json", "index.html", "figure_attention_right.png", "figure_attention_wrong.png"}


def test_notes_and_other_runs_are_listed_at_the_end(tmp_path):
    content = ReportContent(
        "t", notes=["split 'train' is the folder x"], others=[("a&b", "../../a%26b/report/index.html")]
    )
    text = write(tmp_path, content).read_text("utf-8")
    assert "split &#39;train&#39; is the folder x" in text
    assert '<li><a href="../../a%26b/report/index.html">a&amp;b</a></li>' in text
    assert "Other runs" not in write(tmp_path, ReportContent("t")).read_text("utf-8")


@pytest.mark.parametrize(("names", "short"), [(("combined",), "model"), (("image", "combined"), "model"),
                                              (("sa", "glca", "combined"), "SA + GLCA")])  # fmt: skip
def test_the_mean_of_branches_is_named_where_there_are_branches(tmp_path, names, short):
    content = ReportContent("t", results={"test": {name: result(NAMES) for name in names}})
    text = Page(write(tmp_path, content).read_text("utf-8")).text
    assert short in text and ("both branches" in text) == (short == "SA + GLCA")


def test_tables_and_figures_scroll_on_a_narrow_screen(tmp_path):
    content = dataclasses.replace(full(), tables=[("T", ("a", "b"), [("x", 0.5)])])
    text = write(tmp_path, content).read_text("utf-8")
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text
    wide = re.findall(r"<h2>(?:T|Results by branch)</h2>\s*(<div class=\"scroll\">)", text)
    assert len(wide) == 2 and text.count('<figure class="wide"><a href="figure_curves.png">') == 1


def test_the_sentence_says_what_a_trivial_predictor_reaches(tmp_path):
    p = np.eye(4)[[0, 0, 0, 1, 2]]
    r = evaluate(p, np.array([0, 0, 1, 1, 1]), None, NAMES)
    page = Page(write(tmp_path, ReportContent("t", results={"test": {"sa": r}})).read_text("utf-8"))
    text = " ".join(page.text.split())
    assert "On the 5 images of the split “test”" in text and "“Animals & Nature”" in text
    assert "reaches 60.0 %; guessing at random reaches 25.0 %" in text
    assert "no image in this split" in text


ONE = evaluate(np.ones((3, 1)), np.zeros(3, int), None, ["x"])
PARTIAL = [
    ReportContent("bare"),
    ReportContent("no attention", results={"test": {"only": result(NAMES)}}, right=[example()]),
    ReportContent("rollout without GLCA", right=[example(rollout=RNG.random((2, 2)))], records=records()),
    ReportContent("another task", headline=[("mAP", 0.5, None, "")], results={"test": {}}, config_json="{}"),
    ReportContent("one class", results={"val": {"sa": ONE}}),
]


@pytest.mark.parametrize("content", PARTIAL, ids=lambda content: content.title)
def test_absent_parts_are_left_out(tmp_path, content):
    page = Page(write(tmp_path, content).read_text("utf-8"))
    assert content.title in page.text and "None" not in page.text and "nan" not in page.text.lower()
    assert all((tmp_path / source).exists() for source in page.sources)


def test_hostile_names_are_text(tmp_path):
    r = result(HOSTILE)
    bad = example(name='"><script>x</script>\udcff../../etc', true=HOSTILE[0], predicted=HOSTILE[1])
    content = ReportContent(
        title=HOSTILE[0],
        task=HOSTILE[1],
        headline=[(HOSTILE[0], HOSTILE[1], None, HOSTILE[2])],
        baselines=[(HOSTILE[0], HOSTILE[1], HOSTILE[0])],
        results={HOSTILE[0]: {HOSTILE[1]: r}},
        records=[{"step": 1, "train/loss/$<b>$": 1.0, "val/accuracy": 0.5, "val/$x/accuracy": 0.1}],
        right=[bad],
        wrong=[bad],
        config_json="</pre><script>",
        environment={HOSTILE[0]: HOSTILE[1]},
        command=HOSTILE[0],
        warnings=[HOSTILE[1]],
    )
    index = write(tmp_path, content)
    page = Page(index.read_text("utf-8"))
    assert HOSTILE[0] in page.text and "{{ 7 * 7 }}" in page.text
    assert html.escape("<script>", quote=False) in index.read_text("utf-8")
    assert all("/" not in source and "<" not in source for source in page.sources)


def test_rewriting_replaces_and_keeps_other_files(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "mine.png").write_text("mine")
    (tmp_path / ".report-killed").mkdir()
    write(tmp_path, full())
    write(tmp_path, ReportContent("second"))
    assert sorted(os.listdir(tmp_path)) == [".report.json", "index.html", "mine.png", "notes.txt"]


def test_a_failure_leaves_the_old_report(tmp_path, monkeypatch):
    before = write(tmp_path, full()).read_bytes()
    names = sorted(os.listdir(tmp_path))
    monkeypatch.setattr(report.figures, "curves", lambda records: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(tmp_path, full())
    assert sorted(os.listdir(tmp_path)) == names and (tmp_path / "index.html").read_bytes() == before


def test_a_kill_leaves_no_half_page(tmp_path, monkeypatch):
    write(tmp_path, full())
    replace, calls = os.replace, []

    def killed(source, target):
        calls.append(target)
        if len(calls) > 9:  # amid the pictures, after the figures were saved
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, full())
    assert not (tmp_path / "index.html").exists()
    monkeypatch.undo()
    assert write(tmp_path, full()).exists()


def test_duration():
    assert [report.duration(s) for s in (4.4, 59.6, 725, 18_420)] == [
        "4 s",
        "1 min 0 s",
        "12 min 5 s",
        "5 h 7 min",
    ]
