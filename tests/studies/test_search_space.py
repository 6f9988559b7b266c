"""What a sweep may search, what it may choose by, and the scripts that start its workers."""

import importlib
import math
import pathlib

import optuna
import pytest

from fusionjax.errors import UserError
from fusionjax.studies import search_space
from tests.support import sweep_config
from tests.support.sweep_runs import SPEC, config

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: search_space.log(0.0, 1.0), r"search_space.log\(0.0, 1.0\): .* above 0"),
        (lambda: search_space.uniform(2, 1), r"uniform\(2, 1\): low must be below high"),
        (lambda: search_space.uniform(1, 1), "write a single value as a list"),
        (lambda: search_space.uniform(0, math.inf), "inf is not a finite number"),
        (lambda: search_space.uniform(True, 2), "True is not a finite number"),
        (lambda: search_space.uniform("1", 2), "'1' is not a finite number"),
        (lambda: search_space.integers(1, 2.5), "2.5 is not a whole number"),
        (lambda: search_space.integers(0, 4, log=True), "above 0"),
    ],
)
def test_ranges_are_checked(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "must return a dict of config fields"),
        ([("optim.learning_rate", [1.0])], "must return a dict"),
        ({"optim.lerning_rate": [1.0]}, "config.optim.lerning_rate is not known .*learning_rate"),
        ({"optim": [1.0]}, "config.optim is a section, not a field"),
        ({3: [1.0]}, "3 is not a field name"),
        ({"optim.learning_rate": []}, "list of choices is empty"),
        ({"optim.learning_rate": [1e-3, "x"]}, "'x' must be of type float, like 0.003"),
        ({"optim.learning_rate": [1e-3, 1e-3]}, "0.001 is listed twice"),
        ({"optim.learning_rate": (1e-3, 1e-2)}, "must be a list of choices"),
        ({"optim.learning_rate": [True]}, "True must be of type float"),
        ({"model.heads": [2, True]}, "True must be of type int"),
        ({"model.heads": search_space.uniform(1, 4)}, "an integer: use search_space.integers"),
        ({"optim.name": search_space.uniform(1, 4)}, "config.optim.name='adamw' is not a number"),
        ({"model.remat": search_space.integers(0, 1)}, "config.model.remat=False is not a number"),
        ({"data.augment.scale": [[0.5, 1.0]]}, "must be of type tuple"),
        ({"data.eval_splits": [("val",)]}, "must be the same in all trials"),
        ({"train.best_metric": ["val/nll"]}, "must be the same in all trials"),
    ],
)
def test_the_space_is_checked(spec, message):
    with pytest.raises(UserError, match=message):
        search_space.Space(spec, config())


def test_values_keep_their_types_and_reach_the_config():
    base = config()
    space = search_space.Space(sweep_config.sweep(), base)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    seen = []
    for _ in range(30):
        values = space.suggest(study.ask())
        filled = search_space.fill(base, values)
        assert 1e-4 <= filled.optim.learning_rate <= 1e-1 and 0 <= filled.model.drop_path <= 0.3
        assert type(filled.model.heads) is int and filled.data.augment.scale in [(0.5, 1.0), (0.08, 1.0)]
        assert type(filled.data.augment.scale) is tuple
        seen.append((filled.optim.name, filled.model.heads))
        filled.model.heads, filled.data.augment.scale = base.model.heads, base.data.augment.scale
        with filled.unlocked():
            for name in ("learning_rate", "name"):
                filled.optim[name] = base.optim[name]
            filled.model.drop_path = base.model.drop_path
        assert filled == base, "no other field changes"
    assert set(seen) == {(name, heads) for name in ("adamw", "sgd") for heads in (2, 3)}


def test_the_grid_is_the_product():
    space = search_space.Space(
        {"model.heads": search_space.integers(1, 3), "optim.learning_rate": [1, 2.0]}, config()
    )
    assert [tuple(p.values()) for p in space.grid()] == [(h, lr) for h in (1, 2, 3) for lr in (1.0, 2.0)]
    with pytest.raises(UserError, match="grid needs a list of values for optim.learning_rate"):
        search_space.Space(SPEC, config()).grid()


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.stem)
def test_the_spaces_of_the_configs_are_possible(path):
    """Every end and every choice by itself, but heads that do not divide a width; a config without a space says so."""
    if "def sweep(" not in path.read_text():
        with pytest.raises(UserError, match=r"has no sweep\(\): add a function"):
            search_space.spec_of(str(path))
        return
    base = importlib.import_module(f"configs.{path.stem}").get_config()
    for name, field in search_space.Space(search_space.spec_of(f"{path}:an=argument"), base).fields.items():
        for value in field if isinstance(field, tuple) else (field.low, field.high):
            if name == "model.width" and value % base.model.heads:
                with pytest.raises(UserError, match="must divide model.width"):
                    search_space.fill(base, {name: value})
            else:
                search_space.fill(base, {name: value})


@pytest.mark.parametrize(
    ("metric", "train", "allow", "message"),
    [
        ("test/accuracy", "train", False, "on 'test', which then is no longer a test set.*--allow_test"),
        ("query/mAP", "train", False, "on 'query'"),
        ("gallery/mAP", "train", False, "on 'gallery'"),
        ("train/accuracy", "train", True, "selects on training images"),
        ("train[90%:]/accuracy", "train", True, "selects on training images"),
        ("accuracy", "train", True, "is not <split>/<score>"),
        ("val/", "train", True, "is not <split>/<score>"),
        ("test/accuracy", "train", True, ""),
        ("val/accuracy", "train", False, ""),
        ("validation/accuracy", "train", False, ""),
        ("val_base/accuracy", "train_base", False, ""),
        ("train[90%:]/accuracy", "train[:90%]", False, ""),
    ],
)
def test_a_test_split_does_not_choose(metric, train, allow, message):
    base = config(data__train_split=train)
    if not message:
        search_space.check_metric(metric, base, allow_test=allow)
        return
    with pytest.raises(UserError, match=message):
        search_space.check_metric(metric, base, allow_test=allow)


def test_scripts_are_given_to_sbatch(tmp_path, monkeypatch):
    fake, folder = tmp_path / "bin" / "sbatch", tmp_path / "s"
    monkeypatch.setenv("PATH", str(fake.parent))
    with pytest.raises(UserError, match="needs sbatch, which is not on this machine; --dry_run"):
        search_space.submit("script", folder)
    assert not folder.exists()
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\n/bin/cat > '{tmp_path / 'given'}'\necho Submitted batch job 7\n")
    fake.chmod(0o755)
    assert search_space.submit("script", folder) == "Submitted batch job 7" and folder.exists()
    assert (tmp_path / "given").read_text() == "script"
    fake.write_text("#!/bin/sh\necho 'invalid partition' >&2\nexit 1\n")
    with pytest.raises(UserError, match="rejected the script: invalid partition"):
        search_space.submit("script", folder)


def test_a_script_carries_only_what_is_an_option():
    arguments = dict(workers=2, options=["--time=1:00:00"])
    assert "#SBATCH --time=1:00:00\n" in search_space.sbatch_script(
        "x", pathlib.Path("/s"), pathlib.Path("/w"), **arguments
    )
    for options, folder in ((["rm -rf"], "/s"), (["--a=1\nrm x"], "/s"), ([], "/s s"), ([], "/s$(x)")):
        with pytest.raises(UserError, match="not an option of sbatch|not allowed in #SBATCH"):
            search_space.sbatch_script(
                "x", pathlib.Path(folder), pathlib.Path("/w"), workers=2, options=options
            )


def test_a_field_that_a_combination_does_not_read_keeps_its_value():
    base = config()
    for name, momentum in (("sgd", 0.8), ("adamw", base.optim.momentum)):
        filled = search_space.fill(base, {"optim.name": name, "optim.momentum": 0.8})
        assert filled.optim.name == name and filled.optim.momentum == momentum


def test_a_combination_that_turns_a_switch_off_takes_its_fields_along():
    from configs import crossvit

    base = crossvit.get_config("root=x")
    off, on = (search_space.fill(base, {"data.augment.erase": share}) for share in (0.0, 0.5))
    assert (off.data.augment.erase_fill, on.data.augment.erase_fill) == ("mean", "noise")
