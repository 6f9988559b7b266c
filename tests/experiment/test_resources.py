"""A run that the machine's memory cannot hold is refused in one line, before anything is allocated."""

import re
import resource

import jax
import numpy as np
import pytest

from fusionjax import config as config_lib
from fusionjax.errors import UserError
from fusionjax.experiment import resources, trainer
from fusionjax.experiment.evaluation_hook import Schedule
from tests.support import tiny


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return tiny.pictures(tmp_path_factory.mktemp("pictures"), per_class=6)


def config(pictures, fields):
    c = tiny.get_config(f"root={pictures}")
    for key, value in fields.items():
        section, name = key.split(".")
        c[section][name] = value
    return c


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train.batch_size": 10**8}, r"a training batch \(config.train.batch_size=100000000, config.data.image_size=32\)"),
        ({"evaluation.batch_size": 10**9}, r"an evaluation batch \(config.evaluation.batch_size=1000000000"),
        ({"data.prefetch": 10**9}, r"read ahead \(config.data.prefetch=1000000000"),
        ({"data.resize": 200_000, "data.image_size": 200_000}, r"config.data.image_size=200000\)"),
        ({"model.width": 3_000_000}, r"parameters and optimiser state \(config.model.name=.*width=3000000\)"),
        ({"data.threads": 10**6}, r"config.data.threads=1000000 is not possible: allowed is \[1, 1024\]"),
        ({"train.epochs": 1e300, "train.steps": 0}, r"config.train.epochs=1e\+300 is not possible"),
        ({"train.epochs": 2e9, "train.steps": 0}, r"config.train.epochs=2000000000.0 is not possible: .* steps, more than"),
        ({"train.steps": 10**10}, r"config.train.steps=10000000000 is not possible"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_it_is_allocated(pictures, tmp_path, fields, message):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=message) as e:
        trainer.Experiment(config(pictures, fields), tmp_path)
    assert "\n" not in str(e.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1e6, "in KiB"


def test_a_run_of_a_thousand_million_steps_can_be_described(pictures, tmp_path):
    run = trainer.Experiment(config(pictures, {"train.steps": 10**9}), tmp_path)
    assert "1,000,000,000 steps of 8" in run.describe()
    schedule = Schedule.of(run.config, run.steps, run.steps_per_epoch)
    due = [step for step in range(10**9 - 100, 10**9) if schedule.evaluates(step)]
    assert len(due) in (66, 67), "an epoch is 1.5 steps"


def test_the_limit_of_the_control_group_counts(monkeypatch):
    machine = resources.host_memory()
    assert 2**28 < machine < 2**50
    monkeypatch.setattr(resources, "_group_limits", lambda: iter([machine // 2, 2**63 - 1]))
    assert resources.host_memory() == machine // 2


def test_sizes_and_devices(monkeypatch):
    tree = {"a": jax.ShapeDtypeStruct((3, 5), np.float32), "b": jax.ShapeDtypeStruct((), np.int8)}
    assert resources.size_of(tree) == 61
    sizes = (2**20, 2**30 * 3 // 2, 2**30 * 2_500)
    assert [resources.shown(size) for size in sizes] == ["1.0 MiB", "1.5 GiB", "2,500 GiB"]
    c = config_lib.default()
    monkeypatch.setattr(resources, "host_memory", lambda: 61 + 60)
    devices = len(jax.local_devices())
    if devices == 1:
        resources.check_state(c, tree, {"a": tree["a"]})
    monkeypatch.setattr(resources, "host_memory", lambda: 61 * devices + 59)
    with pytest.raises(
        UserError, match=re.escape("0.0 MiB are parameters and optimiser state (config.model.name=")
    ):
        resources.check_state(c, tree, {"a": tree["a"]})
