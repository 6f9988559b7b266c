"""python -m fusionjax.table: rows × seeds trained once, compared example by example, written as text."""

import numpy as np
import pytest

from fusionjax.errors import UserError
from fusionjax.evaluation import per_example
from fusionjax.studies import ablation_table
from tests.support import process
from tests.support.tiny import pictures

CONFIG = """
from fusionjax import config as base
from tests.support import tiny


def get_config(arg=None):
    arg = base.parse_arg(arg, root="", ablation=("sa_only", "full"), seed=0)
    c = tiny.get_config(f"root={arg.root},steps=2")
    c.seed, c.model.ablation, c.data.eval_splits = arg.seed, arg.ablation, ("test",)
    return c


def table():
    return {"self-attention": "ablation=sa_only", "DCAL, all branches": "ablation=full"}
"""


def command(folder, *more, expect=0):
    config = f"--config={folder / 'made.py'}:root={folder / 'pictures'}"
    return process.python("-m", "fusionjax.table", config, *more, expect=expect, PYTHONPATH=str(process.ROOT))


def test_rows_and_seeds_become_a_table(tmp_path):
    pictures(tmp_path / "pictures", per_class=8)
    (tmp_path / "made.py").write_text(CONFIG)
    done = command(tmp_path, f"--workdir={tmp_path / 'out'}", "--seeds=0,3")
    text = (tmp_path / "out" / "table.md").read_text()
    assert text in done.stdout and text.count("\n") == 4
    runs = sorted(
        str(p.parent.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("results.json")
    )
    assert runs == [
        "DCAL_all_branches/seed0",
        "DCAL_all_branches/seed3",
        "self-attention/seed0",
        "self-attention/seed3",
    ]
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("results.json")}
    again = command(tmp_path, f"--workdir={tmp_path / 'out'}", "--seeds=0,3")
    assert text in again.stdout and stamps == {
        p: p.stat().st_mtime_ns for p in stamps
    }  # nothing is trained twice
    one = command(
        tmp_path, f"--workdir={tmp_path / 'out' / '..' / 'out'}", "--seeds=0", "--row=DCAL, all branches"
    )
    assert one.stdout.count("| DCAL, all branches |") == 1 and "self-attention" not in one.stdout
    for arguments, said in (
        (["--workdir=x", "--seeds=0,0"], "whole numbers, each once"),
        (["--workdir=x", "--row=nothing"], "is no row of the table"),
        (["--workdir=x", "more"], "unexpected argument"),
    ):
        error = command(tmp_path, *arguments, expect=2).stderr
        assert said in error and error.count("\n") == 1
    (tmp_path / "made.py").write_text(CONFIG.partition("def table")[0])
    assert "has no table()" in command(tmp_path, "--workdir=x", expect=2).stderr


class Run:
    """As `run_record.load` gives it."""

    def __init__(self, folder, names, correct, split="test"):
        self.folder, self.results = folder, {"seconds": 2.0}
        self.per_example = per_example.PerExample(
            tuple(names), split, (split,), {"correct": np.asarray(correct, float)}
        )


def measured(monkeypatch, runs):
    monkeypatch.setattr(ablation_table.run_record, "load", runs.get)
    titles = dict.fromkeys(key[0] for key in runs)
    return ablation_table.measures({title: [key for key in runs if key[0] == title] for title in titles})


def test_differences_are_paired_within_a_seed(monkeypatch):
    runs = {
        ("a", 0): Run("a0", "xyz", [1, 0, 0]), ("a", 1): Run("a1", "wxy", [1, 1, 0]),
        ("b", 0): Run("b0", "xyz", [1, 1, 0]), ("b", 1): Run("b1", "wxy", [0, 1, 1]),
    }  # fmt: skip
    found = measured(monkeypatch, runs)
    first, second = found["accuracy"]
    assert list(found) == ["accuracy"] and first.difference is None
    assert first.scores == pytest.approx((1 / 3, 2 / 3)) and second.scores == pytest.approx((2 / 3, 2 / 3))
    assert second.difference == pytest.approx(1 / 6) and second.better == 1
    low, high = second.interval
    assert low <= 1 / 6 <= high and 0 < second.p <= 1
    assert "| b | 66.7 | 66.7, 66.7 | +16.7 |" in ablation_table.markdown(found)


def test_an_example_of_several_seeds_is_drawn_as_one(monkeypatch):
    """The same examples in every seed say no more than once: the interval does not shrink with the seeds."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2, 60), rng.integers(0, 2, 60)
    names = [str(i) for i in range(60)]
    widths = []
    for seeds in (1, 4):
        runs = {(t, s): Run(t, names, x) for t, x in (("a", a), ("b", b)) for s in range(seeds)}
        low, high = measured(monkeypatch, runs)["accuracy"][1].interval
        widths.append(high - low)
    assert widths[0] == pytest.approx(widths[1], rel=1e-9)


def test_other_examples_are_refused(monkeypatch):
    runs = {("a", 0): Run("a0", "xy", [1, 0]), ("b", 0): Run("b0", "xz", [1, 0])}
    with pytest.raises(UserError, match="a0 and b0 were scored on different examples"):
        measured(monkeypatch, runs)


def test_folders_of_titles_are_apart(tmp_path):
    assert ablation_table.folder_of("cross-attention, low_rank head") == "cross-attention_low_rank_head"
    with pytest.raises(UserError, match="would share a folder"):
        ablation_table.train(tmp_path, {"a b": "", "a, b": ""}, [0], lambda arg: None)
