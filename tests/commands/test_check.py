"""Whatever the fields of a config hold, --check succeeds or says in one line what is wrong."""

import functools
import random

import jax
import pytest

from fusionjax import config as config_lib
from fusionjax.errors import UserError
from fusionjax.experiment import trainer
from tests.support import nasty


@pytest.fixture(autouse=True)
def libraries_warn(recwarn):
    """Orbax and Grain warn about their own internals; ours are errors elsewhere."""


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    return nasty.configs(tmp_path_factory.mktemp("nasty"))


def draws(configs, seed, count):
    """(config, what was changed) of random tasks."""
    rng = random.Random(seed)
    for _ in range(count):
        config = configs[rng.choice(sorted(configs))].copy_and_resolve_references()
        yield config, nasty.draw(rng, config)


def holds(run, fields):
    """Whether `run` succeeds; it may fail with one line only."""
    try:
        run()
    except UserError as e:
        assert str(e) and "\n" not in str(e) and len(str(e)) < 3_000, fields
        return False
    except Exception as e:
        raise AssertionError(f"{type(e).__name__}: {e}, with {nasty.shown(fields)}") from e
    return True


def test_what_the_fields_are_changed_of_is_a_run(configs):
    for config in configs.values():
        config_lib.validate(config.copy_and_resolve_references())


def test_rules_on_all_fields(configs):
    held = [
        holds(functools.partial(config_lib.validate, config), fields)
        for config, fields in draws(configs, 1, 300)
    ]
    assert 15 < sum(held) < 150


def test_the_whole_check(configs, tmp_path):
    def check(config):
        trainer.Experiment(config, tmp_path).describe()

    held = [holds(functools.partial(check, config), fields) for config, fields in draws(configs, 2, 40)]
    assert sum(held) > 2


@pytest.mark.parametrize("task", ["classification", "spectral", "vqa"])
def test_the_compiled_step_holds_no_array_of_a_device(configs, tmp_path, task):
    """Such a constant is copied to the host when the step is lowered, which the transfer guard refuses on a GPU."""
    config = configs[task].copy_and_resolve_references()
    if task != "spectral":
        config.loss.class_weights = (1.0, 2.0, 3.0)
    if task == "classification":
        config.loss.focal_gamma, config.optim.layer_decay, config.optim.ema_decay = 2.0, 0.8, 0.9
    run = trainer.Experiment(config, tmp_path)
    optimizer = run.optimizer()
    state = jax.eval_shape(functools.partial(run.create_state, optimizer), run.abstract_variables())
    traced = jax.make_jaxpr(run.train_step(optimizer, 1))(state, run.abstract_batch())
    assert traced.consts and not any(isinstance(constant, jax.Array) for constant in traced.consts)
