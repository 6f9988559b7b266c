"""What `--check` says of a run before it starts."""

import re

import pytest

from fusionjax.experiment import overview, trainer
from tests.support import tiny


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return tiny.pictures(tmp_path_factory.mktemp("pictures"), per_class=10)


@pytest.fixture(autouse=True)
def _fixed_speed(monkeypatch):
    monkeypatch.setattr(overview, "multiplication_rate", lambda dtype: 1e9)


def test_the_overview_ends_with_classes_steps_memory_and_time(pictures, tmp_path):
    run = trainer.Experiment(tiny.get_config(f"root={pictures}"), tmp_path)
    lines = run.describe().splitlines()
    assert lines[:-7] == list(run.notes) and lines[-7] == "3 classes"
    assert [line.split() for line in lines[-6:-2]][0] == ["class", "training", "val", "test"]
    assert sum(int(line.split()[1]) for line in lines[-5:-3]) <= len(run.source)
