"""What scripts and notebooks use."""

import subprocess
import sys

import pytest

import fusionjax
from fusionjax import api
from fusionjax.errors import UserError
from tests.support import tiny


@pytest.fixture(autouse=True)
def libraries_warn(recwarn):
    """Orbax and Grain warn about their own internals; ours are errors elsewhere."""


def test_every_public_name_is_listed_and_there():
    assert set(fusionjax.__all__) <= set(dir(fusionjax))
    assert all(getattr(fusionjax, name) is not None for name in fusionjax.__all__)
    assert fusionjax.UserError is UserError and fusionjax.load.__module__ == "fusionjax.experiment.inference"
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        fusionjax.lode  # noqa: B018


def test_names_in_a_fresh_process():
    program = "import fusionjax; from fusionjax import api, load, losses; print(losses.focal.__name__, api.train.__name__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "focal train\n", done.stderr


def test_a_config_with_overrides():
    made = api.config("quickstart:seed=3", {"optim.learning_rate": 0.5, "data.eval_splits": ("val",)})
    assert made.seed == 3 and made.optim.learning_rate == 0.5 and made.data.eval_splits == ("val",)
    with pytest.raises(UserError, match="did you mean"):
        api.config("quikstart")


def test_train_open_and_inspect(tmp_path):
    root = tiny.pictures(tmp_path / "pictures", per_class=8)
    made = tiny.get_config(f"root={root}")
    with made.unlocked():
        made.train.steps, made.report.enabled = 2, False
    run = api.train(made, tmp_path / "run")
    assert run.step == 2 and run.predict(root)[0].classes
    assert api.train(made, tmp_path / "run").step == 2, "a finished run is opened"
    assert api.inspect(root).layout == "folder"
