"""A config file's own argument, names of overrides, and the config.json of a run."""

import json

import pytest

from fusionjax import config as config_lib
from fusionjax.errors import UserError


def test_arguments():
    spec = dict(size=224, rate=0.1, fast=False, name="x", kind=("a", "b"))
    got = config_lib.parse_arg("size=32,fast,kind=b", **spec)
    assert (got.size, got.rate, got.fast, got.name, got.kind) == (32, 0.1, True, "x", "b")
    assert config_lib.parse_arg(None, **spec).kind == "a"
    assert config_lib.parse_arg("fast=false", **spec).fast is False


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("sise=3", "'sise' is not known; allowed: .*did you mean 'size'"),
        ("size=big", "size='big' is not a int"),
        ("kind=c", "allowed are a, b"),
        ("fast=perhaps", "allowed are true and false"),
        ("size", "is not a int"),
        ("size=3,/y/z", "'/y/z' is not known; .*; a value with a comma is set by an override"),
        ("fast=", "allowed are true and false"),
    ],
)
def test_wrong_arguments(arg, message):
    with pytest.raises(UserError, match=message):
        config_lib.parse_arg(arg, size=1, kind=("a", "b"), fast=False)


def test_an_argument_that_is_given_twice():
    """The last one would win in silence."""
    with pytest.raises(UserError, match="config argument root is given twice: give it once"):
        config_lib.parse_arg("root=x,size=3,root=y", root="", size=1)


def test_names_of_fields():
    config_lib.check_key("config.optim.b1")
    for name, message in (
        ("config.optm.b1", "did you mean 'optim'"),
        ("config.seed.x", "config.seed is a field"),
    ):
        with pytest.raises(UserError, match=message):
            config_lib.check_key(name)


def test_a_config_survives_json():
    config = config_lib.default()
    config.optim.lr_rules = (("bias$", 2.0),)
    again = config_lib.from_json(json.loads(config.to_json_best_effort()))
    assert again == config and again.is_locked
    with pytest.raises(UserError, match=r"config.optim.lr is not a field of this version"):
        config_lib.from_json({"optim": {"lr": 1.0}})


def test_a_run_that_holds_an_unread_field_can_still_be_evaluated():
    stored = json.loads(config_lib.default().to_json_best_effort())
    stored["fusion"]["rank"] = 8
    assert config_lib.from_json(stored).fusion.rank == 8
    with pytest.raises(UserError, match=r"config.model.ratio=0.0 is not possible"):
        config_lib.from_json({**stored, "model": {"ratio": 0.0}})
