"""A batch whose loss is NaN: the run stops before it as often as it is started, or passes over it and says so."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.errors import UserError
from fusionjax.experiment import trainer
from fusionjax.train import metrics
from tests.faults import smallest
from tests.support import tiny

BAD = 7
"""Index of the image whose loss is NaN: once per epoch, of five batches and a half."""


@pytest.fixture(autouse=True)
def libraries_warn(recwarn):
    """Orbax and Grain warn about their own internals."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.pictures(tmp_path_factory.mktemp("pictures") / "root")


def run(data, folder, **train):
    config = smallest.get_config(f"root={data}")
    config.train.update(train)
    made = trainer.Experiment(config, folder)
    objective = made.task.objective

    def poisoned(variables, batch, key, **arguments):
        loss, rest = objective(variables, batch, key, **arguments)
        return jnp.where((batch["index"] == BAD).any(), jnp.nan, loss), rest

    made.task = dataclasses.replace(made.task, objective=poisoned)
    return made


def stopped(made):
    with pytest.raises(UserError, match="the loss is not finite at step") as e:
        made.train()
    return e.value


def test_a_restart_meets_the_same_batch(data, tmp_path):
    first = stopped(run(data, tmp_path))
    assert "a restart meets the same batch again" in str(first)
    for _ in range(2):
        step, state, beside = smallest.final(tmp_path, run(data, tmp_path).config)
        assert step == int(state.step) == beside["iterator"]["batches"] == first.step - 1
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
        assert stopped(run(data, tmp_path)).step == first.step


def test_batches_may_be_passed_over_up_to_a_number(data, tmp_path):
    """Also by a restart of the run that stopped; counted in the log, said in the report."""
    first = stopped(run(data, tmp_path))
    second = stopped(run(data, tmp_path, skip_nonfinite=1))
    assert second.step > first.step
    made = run(data, tmp_path, skip_nonfinite=5)
    made.config.report.enabled = True
    made.train()
    step, state, beside = smallest.final(tmp_path, made.config)
    assert step == beside["iterator"]["batches"] == 12
    assert beside["meter"]["skipped"][:2] == [first.step, second.step]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    logged = [r for r in metrics.read(tmp_path) if "train/skipped" in r]
    assert logged[-1]["train/skipped"] == len(beside["meter"]["skipped"]) and np.isfinite(
        logged[-1]["train/loss"]
    )
    page = (tmp_path / "report" / "index.html").read_text()
    assert (
        f"batches were passed over (loss, gradient or update not finite), at steps {first.step}, {second.step}"
        in page
    )


def test_passing_over_in_one_start_or_in_three_gives_the_same_bits(data, tmp_path):
    for number in (0, 1):
        stopped(run(data, tmp_path / "three", skip_nonfinite=number))
    states = []
    for name in ("three", "one"):
        made = run(data, tmp_path / name, skip_nonfinite=5)
        made.train()
        states.append(smallest.final(tmp_path / name, made.config)[1])
    jax.tree.map(np.testing.assert_array_equal, *states)
