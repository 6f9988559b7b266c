"""The fields of a run and their defaults."""

import inspect
import json
import pathlib
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from fusionjax import config as config_lib
from fusionjax import register
from fusionjax.config import schema
from fusionjax.config.ownership import leaves
from fusionjax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]


def plain(value):
    return [plain(v) for v in value] if isinstance(value, tuple) else value


@pytest.fixture
def tasks(monkeypatch):
    """The registry, which forgets after the test what the test registers."""
    monkeypatch.setattr(register.tasks, "_found", dict(register.tasks._found))
    return register.tasks


def toy():
    c = ConfigDict()
    c.colours = ("red",)
    return c


def test_the_fields_and_their_defaults_are_those_that_are_stored():
    """A default that changes, changes runs: tests/config/defaults.json says so in the same commit."""
    stored = json.loads((ROOT / "tests" / "config" / "defaults.json").read_text())
    assert {key: plain(value) for key, value in leaves(config_lib.default())} == stored


def test_one_small_function_makes_a_section():
    for name, made in inspect.getmembers(schema, inspect.isfunction):
        if made.__module__ == schema.__name__:
            assert len(inspect.getsource(made).splitlines()) <= 60, name


def test_neither_the_fields_nor_the_tasks_rules_need_jax():
    program = (
        "import sys; from fusionjax import config, register, tasks; config.default(); list(register.tasks.records()); "
        "assert 'jax' not in sys.modules and 'flax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_a_registered_task_brings_its_section(tasks):
    register.task("shapes", sections={"shapes": toy}, reads=("shapes.*",))(lambda config, facts: None)
    config = config_lib.default()
    assert config.shapes.colours == ("red",)
    config_lib.check_key("config.shapes.colours")
    config.shapes.colours = ("blue",)
    with pytest.raises(UserError, match="the task 'shapes' reads it, not 'classification'"):
        config_lib.validate(config)
    config.task = "shapes"
    assert config_lib.validate(config).shapes.colours == ("blue",)


@pytest.mark.parametrize("name", ["fusion", "optim"])
def test_a_section_belongs_to_those_who_share_it(tasks, name):
    register.task("shapes", sections={name: toy})(lambda config, facts: None)
    with pytest.raises(UserError, match=f"the task 'shapes' has a section '{name}', and so has"):
        config_lib.default()
