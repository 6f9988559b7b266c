"""What scripts and notebooks use."""

import json
import subprocess
import sys

import pytest

import fusionjax
from fusionjax import api, arguments, evaluate
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


def test_train_open_and_inspect(tmp_path, caplog, capsys):
    root = tiny.pictures(tmp_path / "pictures", per_class=8)
    made = tiny.get_config(f"root={root}")
    with made.unlocked():
        made.train.steps, made.report.enabled = 2, False
    run = api.train(made, tmp_path / "run")
    assert run.step == 2 and run.predict(root)[0].classes
    assert api.train(made, tmp_path / "run").step == 2, "a finished run is opened"
    assert api.inspect(root).layout == "folder"
    with pytest.raises(UserError, match="this config is read already, set its fields"):
        api.train(made, tmp_path / "other", {"train.steps": 1})
    for wrong in ({"top": 0}, {"top": "3"}, {"batch": -1}, {"batch": 0}):
        with pytest.raises(UserError, match="is no whole number of at least 1"):
            run.predict(root, **wrong)
    with pytest.raises(UserError, match="is a file: name the folder of a run"):
        fusionjax.load(run.folder / "config.json")
    _evaluates_what_it_was_scored_on(run, root, tmp_path, caplog, capsys)


def _evaluates_what_it_was_scored_on(run, root, tmp_path, caplog, capsys):
    """Scores of other data are said to be that, and data that have moved can be found again."""
    caplog.clear()
    assert list(run.evaluate("test")) == ["test"] and not caplog.records
    changed = root / run.source("test").names[0]
    kept = changed.read_bytes()
    changed.write_bytes((root / run.source("train").names[0]).read_bytes())
    run.evaluate()
    assert [r.getMessage() for r in caplog.records] == [
        "the contents of split 'test' of pictures have changed since the run: these are scores of other data than those in "
        "its report"
    ]
    changed.unlink()
    caplog.clear()
    run.evaluate(["test"])
    assert "split 'test' of pictures has 3 other examples" in caplog.text
    changed.write_bytes(kept)
    _says_what_training_says(run, capsys)
    root.rename(tmp_path / "moved")
    with pytest.raises(
        UserError, match=r"if the data of .*run have moved, start its training command again"
    ) as e:
        run.evaluate()
    assert "\n" not in str(e.value)


def _says_what_training_says(run, capsys):
    """The command's notes, recall and cautions come on stderr, its scores alone on stdout."""
    capsys.readouterr()
    evaluate.main(arguments.parse(evaluate.COMMAND, [f"--workdir={run.folder}"]))
    said = capsys.readouterr()
    assert "Before you use these numbers:" in said.err and "most often taken for" in said.err
    stored = json.loads((run.folder / "results.json").read_text())["cautions"]
    assert [line for line in stored if "from scratch" not in line] == [
        line[2:] for line in said.err.splitlines() if line.startswith("- ")
    ]
    assert all(len(line.split()) == 2 for line in said.out.splitlines())


def test_odd_overrides_and_configs(tmp_path):
    """A path, values that a command line cannot hold, and a config of one's own after a packaged one."""
    with pytest.raises(
        UserError, match="the override 'data.root' is None: give a value to each dotted field"
    ):
        api.config("quickstart", {"data.root": None})
    with pytest.raises(UserError, match="the override 'optim' is {'learning_rate': 1}"):
        api.config("quickstart", {"optim": {"learning_rate": 1}})
    own = tmp_path / "own.py"
    own.write_text(
        "from configs import quickstart\n\n\ndef get_config(arg=None):\n    return quickstart.get_config(arg)\n"
    )
    assert api.config(own).task == api.config("quickstart").task == "classification"
    with pytest.raises(UserError, match="a value of the wrong type"):
        arguments.read_config("quickstart", ["--config.optim={'learning_rate': 1}"])
