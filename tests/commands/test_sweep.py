"""Sweeps in processes of their own: killed, two at once, real; the command line."""

import json
import math
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest

from fusionjax import arguments, main
from fusionjax import config as config_lib
from fusionjax.experiment import trainer
from fusionjax.train import checkpoint, metrics
from tests.support import process, sweep_config, sweep_runs, tiny
from tests.support.sweep_runs import board, config, found, sweep

pytestmark = pytest.mark.usefixtures("libraries_warn")

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def fake(monkeypatch):
    """See `sweep_runs.faked`."""
    return sweep_runs.faked(monkeypatch)


WORKER = """
import fcntl, os, pathlib, sys, time
from fusionjax import cli, sweep
from fusionjax.studies import search

class Run:
    steps, steps_per_epoch = 4, 1.0
    def __init__(self, config, folder):
        self.config, self.folder = config, pathlib.Path(folder)
    def train(self, on_scores):
        with (self.folder / "busy").open("a") as busy:
            try:
                fcntl.flock(busy, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                (self.folder / "clash").touch()
            (self.folder / "runner").write_text(str(os.getpid()))
            path = self.folder / "steps"
            start = len(path.read_text().splitlines()) if path.exists() else 0
            rate = self.config.optim.learning_rate
            for step in range(start + 1, 5):
                time.sleep(0.15)
                with path.open("a") as f:
                    f.write(f"{step} {rate!r}\\n")
                on_scores(step, {"val/accuracy": -rate})
        return {"val/accuracy": -rate, "step": 4, "seconds": 1.0}

search.prepare = Run
gate = pathlib.Path(os.environ["GATE"])
(gate / f"ready_{os.getpid()}").touch()
while not (gate / "go").exists():
    time.sleep(0.01)
cli.run(sweep.COMMAND)
"""


def start(folder, *more):
    arguments = ["--config=tests/support/sweep_config.py", f"--workdir={folder}", "--sampler=random", *more]
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "GATE": str(folder.parent)},
    )


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_killed_workers_lose_nothing_and_double_nothing(tmp_path, fake):
    """Two at once; one is killed, the other goes on with what it left; it is killed too, and a third ends the sweep."""
    folder = tmp_path / "s"
    one, two = (start(folder, "--trials=12") for _ in range(2))

    def mine(worker):
        """Trials that it runs: begun by it last, and not at the end."""
        began = [p.parent for p in folder.glob("trial_*/runner") if p.read_text() == str(worker.pid)]
        return [p for p in began if (p / "steps").exists() and (p / "steps").read_text().count("\n") < 4]

    try:
        wait_for(lambda: len(list(tmp_path.glob("ready_*"))) == 2)
        (tmp_path / "go").touch()
        wait_for(lambda: len(list(folder.glob("trial_*/steps"))) >= 3 and mine(one) and mine(two))
        one.send_signal(signal.SIGKILL)
        one.wait()
        wait_for(lambda: len(list(folder.glob("trial_*/steps"))) >= 7 and mine(two))
        two.send_signal(signal.SIGKILL)
        two.wait()
        assert len(list(folder.glob("trial_*"))) < 12, "killed in the middle"
    finally:
        for worker in (one, two):
            worker.kill()
            worker.communicate()
    three = start(folder, "--trials=12")
    out, err = three.communicate(timeout=300)
    assert three.returncode == 0, err
    assert "the best: python -m fusionjax.main" in out
    assert sorted(p.name for p in folder.glob("trial_*")) == [f"trial_{n:05d}" for n in range(12)]
    assert not list(folder.glob("trial_*/clash")), "no trial is run by two"
    rates = set()
    for path in sorted(folder.glob("trial_*/steps")):
        lines = [line.split() for line in path.read_text().splitlines()]
        assert [int(step) for step, _ in lines] == [1, 2, 3, 4]
        assert len({rate for _, rate in lines}) == 1, "it goes on with its own parameters"
        rates.add(lines[0][1])
    assert len(rates) == 12
    rows = board(folder)
    assert [r["rank"] for r in rows] == [str(n) for n in range(1, 13)]
    undisturbed = sweep(tmp_path / "w", sweep_config.sweep(), base=config(), trials=12)
    assert {float(r) for r in rates} == {p["optim.learning_rate"] for p in found(undisturbed).values()}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.pictures(tmp_path_factory.mktemp("pictures") / "root")


def command(*arguments, module="sweep", **settings):
    return process.python("-m", f"fusionjax.{module}", *arguments, **settings)


def test_a_real_sweep_and_the_command_of_its_best(data, tmp_path):
    folder = tmp_path / "s"
    done = command(
        f"--config=tests/support/sweep_config.py:root={data},steps=2",
        f"--workdir={folder}",
        "--trials=2",
        "--prune",
        "--config.data.threads=1",
    )
    rows = board(folder)
    assert [r["state"] for r in rows] == ["complete"] * 2
    for row in rows:
        where = folder / f"trial_{int(row['trial']):05d}"
        results = json.loads((where / "results.json").read_text())
        assert results["val/accuracy"] == float(row["val/accuracy"]) and results["step"] == int(row["step"])
        stored = config_lib.from_json(json.loads((where / "config.json").read_text())["config"])
        assert stored.optim.learning_rate == float(row["optim.learning_rate"]) and stored.data.threads == 1
        assert not (where / "report").exists()
    best = shlex.split(done.stdout.splitlines()[-1].removeprefix("the best: "))
    parsed = arguments.parse(main.COMMAND, [w for w in best if w.startswith("--")])
    again, first = config_lib.validate(parsed.config.value), folder / f"trial_{int(rows[0]['trial']):05d}"
    again.report.enabled = False
    assert again == config_lib.from_json(json.loads((first / "config.json").read_text())["config"])
    assert parsed.workdir == str(folder / "best")


def test_a_run_that_is_stopped_at_an_evaluation_ends_with_its_checkpoint(data, tmp_path):
    """And can go on."""
    c = sweep_config.get_config(f"root={data}")
    with c.unlocked():
        c.report.enabled = False

    class Stop(Exception):
        pass

    def stop(step, scores):
        raise Stop

    with pytest.raises(Stop):
        trainer.Experiment(c, tmp_path / "a").train(on_scores=stop)
    assert checkpoint.Checkpointer(tmp_path / "a" / "checkpoints", read_only=True).steps() == [2]
    assert [r["step"] for r in metrics.read(tmp_path / "a") if "val/accuracy" in r] == [2]
    seen = {}
    after = trainer.Experiment(c, tmp_path / "a").train(
        on_scores=lambda step, scores: seen.update({step: scores})
    )
    assert list(seen) == [4] and seen[4].keys() >= {"val/accuracy", "val/nll"}
    assert after["step"] in (2, 4) and math.isfinite(after["val/accuracy"])


CONFIG = "--config=tests/support/sweep_config.py"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([CONFIG], "--workdir is missing"),
        (["--config=configs/cars.py", "--workdir=s"], "configs/cars.py has no sweep()"),
        (["--config=configs/nothing.py", "--workdir=s"], "no such file"),
        ([CONFIG, "--workdir=s", "extra"], "unexpected argument 'extra'"),
        ([CONFIG, "--workdir=s", "--trials=0"], "argument --trials: '0' is no whole number of at least 1"),
        ([CONFIG, "--workdir=s", "--sampler=best"], "argument --sampler: invalid choice: 'best'"),
        ([CONFIG, "--workdir=s", "--workers=2"], "--workers does nothing without --launch"),
        ([CONFIG, "--workdir=s", "--launch=print", "--dry_run"], "--dry_run does nothing without --launch=slurm"),
        ([CONFIG, "--workdir=s", "--pruner=halving"], "--pruner does nothing without --prune"),
        ([CONFIG, "--workdir=s", "--config.optim.lr=1"], "config.optim.lr is not known"),
    ],
)  # fmt: skip
def test_mistakes_on_the_command_line(arguments, message):
    done = command(*arguments, expect=2)
    assert message in done.stderr and done.stderr.count("\n") == 1 and not done.stdout


def test_what_is_wrong_with_every_trial_is_said_before_there_is_one(tmp_path):
    done = command(
        f"{CONFIG}:root={tmp_path / 'nothing'}", f"--workdir={tmp_path / 's'}", "--trials=2", expect=2
    )
    assert "nothing" in done.stderr and done.stderr.count("\n") == 1 and not (tmp_path / "s").exists()


def test_workers_are_launched_elsewhere(tmp_path):
    common = [
        f"{CONFIG}:root=a b",
        f"--workdir={tmp_path / 's'}",
        "--trials=9",
        "--prune",
        "--config.data.threads=1",
    ]
    lines = command(*common, "--launch=print", "--workers=3").stdout.splitlines()
    assert len(lines) == 3 and len(set(lines)) == 1
    words = shlex.split(lines[0])
    assert words[:3] == ["python", "-m", "fusionjax.sweep"] and set(words[3:]) == set(common)
    slurm = [*common, "--launch=slurm", "--workers=5", "--sbatch=--gres=gpu:1"]
    script = command(*slurm, "--dry_run").stdout
    assert script.startswith("#!/bin/bash\n#SBATCH --job-name=sweep-s\n#SBATCH --array=0-4\n")
    assert "#SBATCH --gres=gpu:1\n" in script and "--requeue" in script
    last = shlex.split(script.splitlines()[-1])
    assert last[:2] == ["exec", sys.executable] and set(common) == set(last[4:])


def test_without_optuna_it_is_a_line(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['optuna'] = None")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = command(CONFIG, f"--workdir={tmp_path / 's'}", "--trials=2", expect=2, PYTHONPATH=path)
    assert (
        'a sweep needs Optuna: python -m pip install -e ".[sweep]"' in done.stderr
        and done.stderr.count("\n") == 1
    )
