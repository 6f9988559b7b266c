"""Experiment trackers in their offline modes: what is written, and that a resumed run continues its record."""

import importlib.util
import json
import sqlite3
import sys
from types import ModuleType

import pytest

from fusionjax.errors import UserError
from fusionjax.train import metrics, trackers

CONFIG = {"seed": 0, "optim": {"learning_rate": 0.001, "freeze": []}}
SCALARS = {"train/loss": 1.5, "test/recall@1/color_to_line": 0.25}


@pytest.fixture
def facts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    (tmp_path / "run").mkdir()
    return trackers.RunFacts(tmp_path / "run", "run-0123456789ab", "fusionjax-tests", CONFIG)


def test_the_writer_passes_records_on_and_closes(tmp_path):
    seen = []

    class Fake:
        def write(self, step, scalars):
            seen.append((step, dict(scalars)))

        def close(self):
            seen.append("closed")

    writer = metrics.Writer(tmp_path, trackers=[Fake()])
    writer.write(3, SCALARS)
    writer.write_once(3, SCALARS)
    writer.close()
    assert seen[0] == (3, SCALARS) and seen[-1] == "closed"
    assert metrics.read(tmp_path)[0]["step"] == 3


def test_a_tracker_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="mlflow, which is not installed: pip install mlflow"):
        trackers.check_installed(("mlflow",))


def test_what_weights_and_biases_is_given(facts, monkeypatch):
    """Its program is not needed for that: the calls are those of its documentation."""
    calls = []

    class Run:
        def log(self, scalars, step):
            calls.append(("log", scalars, step))

        def finish(self):
            calls.append("finish")

    fake = ModuleType("wandb")
    fake.init = lambda **given: calls.append(given) or Run()
    fake.Settings = lambda **given: given
    monkeypatch.setitem(sys.modules, "wandb", fake)
    (tracker,) = trackers.create(("wandb",), facts)
    tracker.write(4, SCALARS)
    tracker.close()
    assert (
        calls[0]["id"] == facts.identifier and calls[0]["resume"] == "allow" and calls[0]["config"] == CONFIG
    )
    assert calls[1:] == [("log", SCALARS, 4), "finish"]


@pytest.mark.filterwarnings("ignore")
def test_weights_and_biases_offline(facts):
    pytest.importorskip("wandb")
    (tracker,) = trackers.create(("wandb",), facts)
    tracker.write(4, SCALARS)
    tracker.close()
    assert list((facts.workdir / "wandb").glob("offline-run-*/run-*.wandb"))


@pytest.mark.filterwarnings("ignore")
def test_mlflow_in_a_folder_continues_a_run(facts):
    mlflow = pytest.importorskip("mlflow")
    for step in (4, 8):  # two starts of one run
        (tracker,) = trackers.create(("mlflow",), facts)
        tracker.write(step, {**SCALARS, "train/nan": float("nan")})
        tracker.close()
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(facts.project)
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params == {"seed": "0", "optim.learning_rate": "0.001", "optim.freeze": "[]"}
    assert run.data.metrics == {"train/loss": 1.5, "test/recall_1/color_to_line": 0.25}
    assert [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")] == [4, 8]


@pytest.mark.filterwarnings("ignore")
def test_trackio_keeps_a_local_database(facts, tmp_path):
    pytest.importorskip("trackio")
    (tracker,) = trackers.create(("trackio",), facts)
    tracker.write(4, SCALARS)
    tracker.close()
    found = []
    for path in (tmp_path / "trackio").rglob("*.db"):
        with sqlite3.connect(path) as database:
            found += [json.loads(row[0]) for row in database.execute("SELECT metrics FROM metrics")]
    assert any(row.get("train/loss") == 1.5 for row in found)
