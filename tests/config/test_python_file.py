"""A config as a Python file gives the same config again."""

import importlib

import numpy as np
import pytest

from fusionjax import config as config_lib
from fusionjax.arguments import read_config


@pytest.mark.parametrize(
    "name", ["quickstart", "cub", "market1501", "spectral", "stamps_trimodal", "plant_village"]
)
def test_it_gives_the_same_config(name, tmp_path):
    config = config_lib.validate(importlib.import_module(f"configs.{name}").get_config(None))
    config.data.root = 'photos of "Jürgen\'s"\\\udcff'
    path = tmp_path / "config.py"
    path.write_text(config_lib.python_file(config), encoding="utf-8")
    assert read_config(str(path), []).value.to_json_best_effort() == config.to_json_best_effort()
    assert read_config(f"{path}", ["--config.seed=5"]).value.seed == 5


def test_numbers_and_tuples_of_any_kind(tmp_path):
    c = config_lib.default()
    c.optim.learning_rate, c.data.carry = np.float64(0.1), ("camera",)
    c.optim.lr_rules, c.optim.clip_norm = (("^neck/", 0.1),), float("inf")
    path = tmp_path / "config.py"
    path.write_text(config_lib.python_file(c))
    again = read_config(str(path), []).value
    assert again.to_dict() == c.to_dict() and again.data.carry == ("camera",)
