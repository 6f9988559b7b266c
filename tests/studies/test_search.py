"""Sweeps: trials that are interrupted, pruned, impossible; where they are stored; what is written of them."""

import json
import math
import os
import pickle
import shlex

import jax
import numpy as np
import pytest

from fusionjax.errors import UserError
from fusionjax.evaluation.collect import NotFinite
from fusionjax.studies import leaderboard, search_space
from fusionjax.train import loop
from tests.support import sweep_runs
from tests.support.sweep_runs import SPEC, board, config, found, sweep


@pytest.fixture
def fake(monkeypatch):
    """See `sweep_runs.faked`."""
    return sweep_runs.faked(monkeypatch)


def test_trials_are_a_function_of_the_seed_however_often_it_stops(tmp_path, fake):
    whole = found(sweep(tmp_path / "whole"))
    assert sorted(whole) == list(range(6))
    assert len({p["optim.learning_rate"] for p in whole.values()}) == 6, "six different draws"
    for count in (1, 3, 6):
        parts = sweep(tmp_path / "parts", trials=count)
    assert found(parts) == whole
    assert found(sweep(tmp_path / "other", seed=1)) != whole
    again = sweep(tmp_path / "parts", trials=6)
    assert len(again.rows()) == 6, "nothing is left to do"
    assert not list(tmp_path.glob("*/trial_00006"))


def test_tpe_looks_where_it_was_good(tmp_path, fake):
    spec, distance = {"optim.learning_rate": search_space.log(1e-4, 1.0)}, {}
    for sampler in ("tpe", "random"):
        tried = found(sweep(tmp_path / sampler, spec, sampler=sampler, trials=40))
        distance[sampler] = [abs(math.log10(tried[n]["optim.learning_rate"]) + 2) for n in range(10, 40)]
    assert np.median(distance["tpe"]) < 0.6 * np.median(distance["random"])


def test_an_interrupted_trial_goes_on_with_its_own_parameters(tmp_path, fake):
    def interrupt(run, step):
        if run.folder.name == "trial_00002" and step == 3:
            raise KeyboardInterrupt

    fake.at = staticmethod(interrupt)
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path / "part")
    left = sweep(tmp_path / "part", work=False)
    assert [r["state"] for r in sorted(left.rows(), key=lambda r: r["trial"])] == ["complete"] * 2 + [
        "running"
    ]
    assert (tmp_path / "part" / "trial_00002" / "step").read_text() == "2"
    steps = []
    fake.at = staticmethod(lambda run, step: steps.append((run.folder.name, step)))
    done = sweep(tmp_path / "part")
    assert steps[:3] == [("trial_00002", 3), ("trial_00002", 4), ("trial_00003", 1)]
    assert found(done) == found(sweep(tmp_path / "whole"))
    trial = done.study.get_trials()[2]
    assert sorted(trial.intermediate_values) == [1, 2, 3, 4] and trial.state.name == "COMPLETE"


def test_half_drawn_parameters_are_completed(tmp_path, fake):
    """Killed between the draws of two parameters: the first stays, the second is drawn."""
    made = sweep(tmp_path, work=False)
    first = made.study.ask().suggest_float("optim.learning_rate", 1e-4, 1e-1, log=True)
    assert found(sweep(tmp_path))[0]["optim.learning_rate"] == first
    assert len(found(made)) == 6 and all(len(p) == 2 for p in found(made).values())


@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_a_bad_trial_is_pruned(tmp_path, fake, pruner):
    good = [0.01, 0.011, 0.012, 0.013, 0.014, 0.015]
    made = sweep(tmp_path, {"optim.learning_rate": [*good, 10.0]}, sampler="grid", trials=None, pruner=pruner)
    rows = {r["trial"]: r for r in made.rows()}
    assert rows[6]["state"] == "pruned" and rows[6]["step"] == 1 and rows[6]["rank"] is None
    assert rows[6]["value"] == pytest.approx(-3) and rows[0]["state"] == "complete" and rows[0]["rank"] == 1
    assert (tmp_path / "trial_00006" / "step").read_text() == "1", "its checkpoint stays"
    unpruned = sweep(tmp_path / "u", {"optim.learning_rate": [*good, 10.0]}, sampler="grid", trials=None)
    assert {r["state"] for r in unpruned.rows()} == {"complete"}


def test_evaluations_are_compared_by_their_number(tmp_path, fake):
    """A larger batch makes fewer steps an epoch, and is scored as often."""
    fake.steps_per_epoch = property(lambda run: 128 / run.config.train.batch_size)
    fake.steps = property(lambda run: 4 if run.config.train.batch_size == 64 else 8)
    spec = {"train.batch_size": [64, 32]}
    made = sweep(
        tmp_path,
        spec,
        base=config(train__eval_every_epochs=1.0),
        sampler="grid",
        trials=None,
        pruner="median",
    )
    assert [sorted(t.intermediate_values) for t in made.study.get_trials()] == [[1, 2], [1, 2]]


@pytest.mark.parametrize(
    ("raised", "state", "note"),
    [
        (loop.Diverged(3, "the loss is"), "failed", "the loss is not finite at step 3"),
        (
            NotFinite("probabilities/combined", 2, 9),
            "failed",
            "is not finite for 2 of 9 examples: training has diverged",
        ),
        (UserError("config.optim.accumulate=3 is not possible: x"), "pruned", "is not possible: x"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nmore"),
            "failed",
            "out of memory: RESOURCE",
        ),
    ],
)
def test_what_a_trial_is_to_blame_for_does_not_stop_the_sweep(tmp_path, fake, raised, state, note):
    def fail(run, step):
        if run.folder.name == "trial_00001":
            raise raised

    fake.at = staticmethod(fail)
    rows = {r["trial"]: r for r in sweep(tmp_path).rows()}
    assert rows[1]["state"] == state and note in rows[1]["note"] and "\n" not in rows[1]["note"]
    assert sum(r["state"] == "complete" for r in rows.values()) == 5


def test_three_starts_end_the_same(tmp_path, fake):
    def fail(run, step):
        if run.folder.name == "trial_00001":
            raise NotFinite("embedding", 1, 2)

    fake.at = staticmethod(fail)
    first, *others = (sweep(tmp_path).rows() for _ in range(3))
    assert all(rows == first for rows in others) and [r["state"] for r in first].count("failed") == 1


def folder_instead(path):
    path.unlink()
    path.mkdir()


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "one bit": flip,
    "cut": lambda p: os.truncate(p, p.stat().st_size // 2),
    "empty": lambda p: os.truncate(p, 0),
    "nested": lambda p: p.write_text("[" * 200_000 + "\n" + p.read_text()),
    "no text": lambda p: p.write_bytes(b"\xff\xfe\n" + p.read_bytes()),
    "other": lambda p: p.write_text("[1, 2]\n"),
    "folder": folder_instead,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["journal.jsonl", "sweep.json"])
def test_a_damaged_sweep_is_one_line(tmp_path, fake, name, damage):
    sweep(tmp_path)
    DAMAGE[damage](tmp_path / name)
    with pytest.raises(UserError, match=f"{name} is damaged .*restore it, or begin anew in another") as e:
        sweep(tmp_path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("damage", ["cut", "nested", "other", "folder"])
def test_a_journal_of_an_earlier_version_has_no_checksum(tmp_path, fake, damage):
    """It is read as it is: a cut one lacks its last trials, which run again; any other damage is one line."""
    sweep(tmp_path)
    (tmp_path / ".journal.sum").unlink()
    assert len(sweep(tmp_path).rows()) == 6
    (tmp_path / ".journal.sum").unlink()
    DAMAGE[damage](tmp_path / "journal.jsonl")
    if damage == "cut":
        assert {r["state"] for r in sweep(tmp_path).rows()} == {"complete"}
        return
    with pytest.raises(UserError, match="journal.jsonl is damaged"):
        sweep(tmp_path)


def test_what_a_killed_worker_wrote_after_the_checksum_is_read(tmp_path, fake):
    sweep(tmp_path, trials=3)
    kept = (tmp_path / ".journal.sum").read_bytes()
    done = sweep(tmp_path).rows()
    (tmp_path / ".journal.sum").write_bytes(kept)
    with (tmp_path / "journal.jsonl").open("a") as journal:
        journal.write('{"op_code": 4, "wor')  # half a line
    assert sweep(tmp_path).rows() == done


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (UserError("the split test has too many unreadable images"), "trial 1: the split test has too many"),
        (jax.errors.JaxRuntimeError("INTERNAL: ours"), "INTERNAL"),
        (OSError(28, "No space left on device"), "No space left"),
    ],
)
def test_what_no_trial_is_to_blame_for_stops_it_and_loses_nothing(tmp_path, fake, raised, expected):
    def fail(run, step):
        if run.folder.name == "trial_00001":
            raise raised

    fake.at = staticmethod(fail)
    with pytest.raises(type(raised), match=expected):
        sweep(tmp_path)
    fake.at = staticmethod(lambda run, step: None)
    assert {r["state"] for r in sweep(tmp_path).rows()} == {"complete"}


def test_impossible_combinations_are_told_in_a_line(tmp_path, fake):
    """Width 12 does not divide into 5 heads; a trial that is no number has no rank."""
    fake.value = staticmethod(lambda c: math.nan if c.model.heads == 2 else 0.5)
    made = sweep(tmp_path, {"model.heads": [2, 3, 5]}, sampler="grid", trials=None)
    rows = {r["trial"]: r for r in made.rows()}
    assert rows[0]["state"] == "failed" and rows[0]["note"] == "val/accuracy is nan"
    assert rows[1]["rank"] == 1
    assert rows[2]["state"] == "pruned" and rows[2]["note"].startswith("config.model.heads=5 is not possible")
    assert not (tmp_path / "trial_00002" / "step").exists()


def test_the_lowest_is_best_where_it_is(tmp_path, fake):
    fake.train = lambda self, on_scores: {
        "val/nll": self.config.optim.learning_rate,
        "step": 4,
        "seconds": 1.0,
    }
    made = sweep(
        tmp_path, {"optim.learning_rate": [0.3, 0.1, 0.2]}, sampler="grid", trials=None, metric="val/nll"
    )
    assert [r["parameters"]["optim.learning_rate"] for r in made.rows()] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("options", "base", "message"),
    [
        ({"metric": "test/accuracy"}, {}, "--allow_test"),
        (
            {"metric": "test/accuracy", "allow_test": True},
            {},
            "config.train.best_metric='test/accuracy' is not possible",
        ),
        ({"metric": "val/acuracy"}, {}, "this task's scores are"),
        ({}, {"train__best_metric": ""}, "--metric is missing"),
        ({"trials": None}, {}, "--trials is missing"),
        (
            {"pruner": "median"},
            {"train__eval_every_epochs": 0.0},
            "set config.train.eval_every_epochs above 0",
        ),
        ({"storage": "sqlite:////nowhere/at/all.db"}, {}, "--storage=.* cannot be opened .*unable to open"),
        ({"storage": "postgres"}, {}, "cannot be opened .*sqlite:///"),
    ],
)
def test_mistakes_are_one_line(tmp_path, fake, options, base, message):
    with pytest.raises(UserError, match=message) as e:
        sweep(tmp_path / "s", base=config(**base), **options)
    assert "\n" not in str(e.value)


def test_a_password_is_not_printed(tmp_path, fake):
    with pytest.raises(UserError) as e:
        sweep(tmp_path / "s", storage="nodialect://me:secret@host/db")
    assert "secret" not in str(e.value) and "nodialect" in str(e.value)


def test_a_folder_belongs_to_one_sweep(tmp_path, fake):
    folder = tmp_path / "s"
    sweep(folder, trials=1)
    for options, message in (
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"sampler": "tpe"}, "sampler is 'random' there"),
        ({"spec": {**SPEC, "model.heads": [3, 2]}}, r"space.model.heads is \[2, 3\] there"),
        ({"base": config(train__eval_every_epochs=2.0)}, "config.train.eval_every_epochs is 1.0 there"),
    ):
        with pytest.raises(UserError, match=f"belongs to another sweep: {message}"):
            sweep(folder, **options)
    sweep(folder, trials=2, base=config(train__eval_every_epochs=1.0, data__threads=1))
    (folder / "sweep.json").write_text("{")
    with pytest.raises(UserError, match="sweep.json is damaged"):
        sweep(folder)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file; name a folder"):
        sweep(tmp_path / "file")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="holds a run, not a sweep"):
        sweep(tmp_path / "run")


def test_the_journal_is_lines_of_json_and_survives_half_a_line(tmp_path, fake, monkeypatch):
    made = sweep(tmp_path, trials=2)
    path = tmp_path / "journal.jsonl"
    assert all(isinstance(json.loads(line), dict) for line in path.read_text().splitlines())
    before = found(made)
    with path.open("a") as f:
        f.write('{"op_code":5,"worker')

    def never(*arguments):
        raise AssertionError("a journal is not unpickled")

    monkeypatch.setattr(pickle, "loads", never)
    monkeypatch.setattr(pickle, "load", never)
    after = found(sweep(tmp_path, trials=4))
    assert {n: after[n] for n in before} == before and len(after) == 4
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{broken", *lines[2:]]) + "\n")
    with pytest.raises(UserError, match="journal.jsonl is damaged"):
        sweep(tmp_path)


def test_a_database_holds_a_study_too(tmp_path, fake):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    in_journal = found(sweep(tmp_path / "journal", trials=3))
    sweep(tmp_path / "s", storage=url, trials=1)
    assert found(sweep(tmp_path / "s", storage=url, trials=3)) == in_journal, "bit for bit"
    assert not (tmp_path / "s" / "journal.jsonl").exists()
    assert len(found(sweep(tmp_path / "t", storage=url, trials=2))) == 2, "two sweeps may share one"
    with pytest.raises(UserError, match="is not in that storage; give the --storage it was begun with"):
        sweep(tmp_path / "s")


def test_the_leaderboard(tmp_path, fake):
    spec = {
        "optim.learning_rate": [0.1, 0.01, 1.0],
        "data.augment.scale": [(0.5, 1.0)],
        "model.heads": [2, 5],
    }
    made = sweep(tmp_path, spec, sampler="grid", trials=None)
    rows = board(tmp_path)
    assert [r["rank"] for r in rows] == ["1", "2", "3", "", "", ""]
    assert [r["trial"] for r in rows] == ["2", "0", "4", "1", "3", "5"]
    assert [float(r["val/accuracy"]) for r in rows[:3]] == pytest.approx([0, -1, -2])
    assert (
        rows[0]["data.augment.scale"] == "(0.5, 1.0)"
        and rows[0]["step"] == "4"
        and rows[0]["seconds"] == "0.5"
    )
    assert "config.model.heads=5 is not possible" in rows[3]["note"]
    page = (tmp_path / "leaderboard.md").read_text().splitlines()
    assert len(page) == 8 and page[0].startswith("| rank | trial | state | val/accuracy | step | seconds |")
    assert len({line.replace(r"\|", "").count("|") for line in page}) == 1
    said = leaderboard.finish(made, "configs/x.py:small", {"optim.learning_rate": 5.0, "data.root": "a b"})
    first = said.splitlines()[1].split()
    assert first[:3] == ["1", "2", "complete"] and float(first[3]) == 0 and first[4] == "4"
    words = shlex.split(said.splitlines()[-1].removeprefix("the best: "))
    assert words[:4] == ["python", "-m", "fusionjax.main", "--config=configs/x.py:small"]
    assert set(words[4:]) == {"--config.optim.learning_rate=0.01", "--config.data.root=a b", "--config.model.heads=2",
                              "--config.data.augment.scale=(0.5, 1.0)", "--config.train.best_metric=val/accuracy",
                              f"--workdir={tmp_path / 'best'}"}  # fmt: skip
    assert "… and 4 more" in leaderboard.table(made.rows(), list(spec), "val/accuracy", most=2)


def test_importance_and_history(tmp_path, fake):
    spec = {
        "optim.learning_rate": search_space.log(1e-4, 1.0),
        "model.drop_path": search_space.uniform(0, 0.5),
    }
    made = sweep(tmp_path, spec, trials=30)
    shares = leaderboard.importances(made.study)
    assert list(shares) == list(spec) and shares["optim.learning_rate"] > 3 * shares["model.drop_path"]
    drawn = leaderboard.draw(made.study, tmp_path, made.metric)
    assert [p.name for p in drawn] == ["history.png", "importance.png"]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in drawn)
    fake.value = staticmethod(lambda c: 0.5)
    same = sweep(tmp_path / "same", spec, trials=3)
    assert leaderboard.importances(same.study) == {}
    assert [p.name for p in leaderboard.draw(same.study, tmp_path / "same", "m")] == ["history.png"]
    none = sweep(tmp_path / "none", {"model.heads": [5]}, sampler="grid", trials=None)
    assert "no trial finished" in leaderboard.finish(none, "c.py", {})
