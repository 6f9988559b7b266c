"""Rules on values: strict, locked, and wrong in one line."""

import importlib
import json
import pathlib

import pytest

from fusionjax import config as config_lib
from fusionjax.config import ownership, schema
from fusionjax.errors import UserError
from fusionjax.models import registry

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = sorted(
    p.stem for p in (ROOT / "configs").glob("*.py") if not p.stem.startswith(("__init__", "common", "folder"))
)
"""All but configs/folder.py, which reads the data it is for: tests/docs/test_own_data.py."""


def load(name, arg=None):
    return importlib.import_module(f"configs.{name}").get_config(arg)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_validates_and_survives_json(name):
    config = config_lib.validate(load(name))
    again = config_lib.from_json(json.loads(config.to_json_best_effort()))
    assert again.to_json_best_effort() == config.to_json_best_effort()
    assert importlib.import_module(f"configs.{name}").__doc__.count("--config=configs/" + name)
    config_lib.validate(load(name, "runlocal"))


@pytest.mark.parametrize("name", ["quickstart", "openmoji_reid", "openmoji_fusion", "openmoji_spectral", "stamps_vqa",
                                  "stamps_trimodal", "stamps_audiovisual"])  # fmt: skip
def test_pictures_are_normalised_as_the_published_weights_want_them(name):
    c = load(name)
    assert c.pretrained.source == "package:efficientnet_lite0"
    published = registry.preprocessing(c.model.trunk or c.model.name)
    assert set(c.data.mean) == set(published.mean) == {0.5} and set(c.data.std) == set(published.std) == {0.5}
    assert c.data.interpolation == published.interpolation == "bicubic"


@pytest.mark.parametrize("name", CONFIGS)
def test_pictures_are_resized_by_the_filter_of_the_published_weights(name):
    c = load(name)
    assert c.data.interpolation == registry.preprocessing(c.model.trunk or c.model.name).interpolation


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.ratio", 0.0, r"config.model.ratio=0.0 is not possible: allowed is \(0, 1\]"),
        ("model.ratio", 1.5, r"config.model.ratio=1.5 is not possible"),
        ("optim.learning_rate", -1.0, r"config.optim.learning_rate=-1.0"),
        ("optim.learning_rate", float("nan"), r"config.optim.learning_rate=nan"),
        ("optim.name", "adamm", "allowed are adamw, adam, sgd"),
        ("precision", "fp8", "allowed are float32, bfloat16"),
        ("data.fractions", (0.5, 0.5, 0.5), "add up to 1"),
        ("data.image_size", 600, "cannot be larger than data.resize=550"),
        ("data.std", (0.0, 1.0, 1.0), "three positive numbers"),
        ("optim.accumulate", 3, "multiple of optim.accumulate=3"),
        ("optim.accumulate", 0, r"config.optim.accumulate=0 is not possible: allowed is \[1"),
        ("loss.pair_group", 3, "a divisor of the micro-batch 16"),
        ("train.batch_size", 1, "PWCA and mixing pair images"),
        ("train.best_metric", "val/accuracy", "a split of data.eval_splits"),
        ("data.cache.enabled", True, "frozen model.trunk, or of model.frozen_blocks"),
        ("model.frozen_blocks", -1, r"allowed is \[0"),
        ("pretrained.into", "trunk", "names no trunk"),
        ("optim.lr_rules", ("bias",), "'bias' is no possible element"),
        ("data.eval_splits", (), "at least one split"),
        ("seed", -1, r"allowed is \[0, 4.29"),
    ],
)
def test_impossible_values_name_key_value_and_what_is_allowed(key, value, message):
    config = load("cub")
    section, field = config, key.split(".")
    with config.unlocked():
        for part in field[:-1]:
            section = section[part]
        section[field[-1]] = value
    with pytest.raises(UserError, match=message) as e:
        config_lib.validate(config)
    assert "\n" not in str(e.value)


def test_unknown_missing_and_mistyped_fields():
    for change, message in (
        (
            lambda c: c.optim.update({"lerning_rate": 1.0}),
            "config.optim.lerning_rate is not known .*learning_rate",
        ),
        (lambda c: c.optim.update({"b1": "x"}), "config.optim.b1='x' must be of type float"),
        (lambda c: c.optim.__delattr__("b1"), "config.optim.b1 is missing; its default is 0.9"),
        (lambda c: c.update({"seed": True}), "config.seed=True must be of type int"),
    ):
        config = config_lib.default()
        with config.unlocked(), config.optim.unlocked(), config.ignore_type():
            change(config)
        with pytest.raises(UserError, match=message):
            config_lib.validate(config)


def test_a_validated_config_is_locked():
    config = config_lib.validate(load("cub"))
    with pytest.raises(AttributeError):
        config.optim.new = 1


def put(config, key, value):
    *path, field = key.split(".")
    for part in path:
        config = config[part]
    with config.unlocked(), config.ignore_type():
        config[field] = value


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.carry", (1,), r"config.data.carry=\(1,\) is not possible: 1 is no possible element, e.g. \('camera',\)"),
        ("data.eval_splits", ("test", None), "None is no possible element, e.g. "),
        ("data.eval_splits", ("test", ("val",)), r"\('val',\) is no possible element"),
        ("data.mean", (0.5, float("nan"), 0.5), "nan is not a finite number"),
        ("data.std", (0.5, 0.5, float("inf")), "inf is not a finite number"),
        ("data.std", (0.5, 0.5, True), "True is no possible element"),
        ("data.image_shape", (32.0, 32), "32.0 is no possible element"),
        ("data.modalities", (("rgb", (0, 1.5)),), "1.5 is no possible element"),
        ("data.modalities", ((1, (0, 1)),), "1 is no possible element"),
        ("model.crossvit.depth", ((1, "4", 0),), "'4' is no possible element"),
        ("loss.class_weights", ("heavy",), "'heavy' is no possible element"),
        ("optim.no_decay", ("bias", b"scale"), "b'scale' is no possible element"),
        ("spectral.train_on", (0,), "0 is no possible element"),
        ("seed", 2**63, "9223372036854775808 does not fit into 64 bits"),
        pytest.param("data.max_pixels", -(10**5000), "integer of thousands of digits does not fit", id="digits"),
        ("data.mean", (0.5, 0.5, 10**400), "does not fit into 64 bits"),
        ("optim.weight_decay", float("inf"), "inf is not a finite number"),
        ("model.depth", 2**31, r"allowed is \[0, 1024\]"),
        ("model.crossvit.depth", ((1, 10**9, 0),), "at most 1024 blocks in a row"),
        ("optim.eps", 1e-300, "1e-300 is no number of 32 bits"),
        ("optim.weight_decay", -1e300, "is no number of 32 bits"),
        ("data.root", "a\0b", "a text cannot hold the character NUL"),
        ("data.selected_classes", ("a", "b\0"), "a text cannot hold the character NUL"),
        ("optim.b1", {}, r"config.optim.b1=\{\}  ?must be of type float"),
    ],
)  # fmt: skip
def test_types_of_elements_and_ranges_of_numbers_are_those_of_every_field(key, value, message):
    config = config_lib.default()
    put(config, key, value)
    with pytest.raises(UserError, match=message) as e:
        config_lib.validate(config)
    assert "\n" not in str(e.value) and len(str(e.value)) < 1500


def test_every_tuple_that_is_empty_by_default_has_an_example():
    empty = [key for key, value in ownership.leaves(config_lib.default()) if value == ()]
    assert sorted(schema.examples()) == sorted(empty)


def test_whole_numbers_stand_for_floats():
    config = load("cub")
    config.data.mean, config.optim.weight_decay = (0, 1, 0.5), 1
    config_lib.validate(config)
    assert config.data.mean == (0, 1, 0.5) and type(config.optim.weight_decay) is float


def test_regions_of_cached_tokens_are_not_cut():
    config = load("cub")
    with config.unlocked():
        config.model.frozen_blocks, config.data.cache.enabled, config.loss.mixup = 8, True, 0.2
    config_lib.validate(config.copy_and_resolve_references())
    with config.unlocked():
        config.loss.cutmix = 1.0
    with pytest.raises(UserError, match="cached tokens have no regions to cut"):
        config_lib.validate(config)
