"""A data set, a fusion head, a backbone family and a task of a user's own, outside the package and the repository."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.support import process, tiny_bert

HERE = Path(__file__).parent
TOYS = ("toy_dataset", "toy_fusion_head", "toy_backbone", "toy_task", "toy_config")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder that has nothing of the repository but copies of the toys."""
    folder = tmp_path_factory.mktemp("own")
    for name in TOYS:
        shutil.copy(HERE / f"{name}.py", folder)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny_bert.write(tmp_path_factory.mktemp("bert"), ["a", "blue", "green", "red", "square"])


def start(place, command, *arguments, expect=0):
    return process.python("-m", f"fusionjax.{command}", *arguments, cwd=place, expect=expect)


@pytest.fixture(scope="module")
def trained(place):
    start(place, "main", "--config=toy_config.py", "--workdir=own_task")
    return place / "own_task"


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_a_task_a_backbone_and_a_data_set_of_ones_own_train(trained):
    assert results(trained)["test/accuracy"] > 0.9, "the colour of a square is easy"
    content = json.loads((trained / "config.json").read_text())
    assert content["config"]["confident"] == {"penalty": 0.2} and content["data_set"] == "coloured squares"
    assert "classes, not too surely" in (trained / "report" / "index.html").read_text()


def test_the_run_is_evaluated_when_its_module_is_named(place, trained):
    said = start(place, "evaluate", f"--workdir={trained}", "--import=toy_config")
    scores = dict(line.split() for line in said.stdout.splitlines())
    assert float(scores["test/accuracy"]) == pytest.approx(results(trained)["test/accuracy"], abs=1e-3)
    said = start(place, "evaluate", f"--workdir={trained}", "--import=toy_config.py")
    assert "test/accuracy" in said.stdout
    said = start(place, "evaluate", f"--workdir={trained}", expect=2)
    assert "'confident'" in said.stderr and "--import" in said.stderr and said.stderr.count("\n") == 1


def test_a_backbone_of_ones_own_serves_the_tasks_that_are_there(place):
    start(place, "main", "--config=toy_config.py:task=classification", "--workdir=plain",
          "--config.optim.layer_decay=0.8")  # fmt: skip
    assert results(place / "plain")["test/accuracy"] > 0.9


def test_a_fusion_head_of_ones_own_trains(place, encoder):
    config = f"--config=toy_config.py:task=fusion,encoder={encoder}"
    table = start(place, "main", config, "--check", "-v").stdout
    assert "head/norm/scale" in table, "the head's own parameters are the model's"
    start(place, "main", config, "--workdir=head")
    found = results(place / "head")
    assert found["step"] == 24 and 0 < found["test/nll"] < 1.5, "the start is at log 3 = 1.1"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.confident.penalty=-1.0", "config.confident.penalty=-1.0 is not possible: 0 or more"),
        ("--config.confident.penalti=1.0", "did you mean 'penalty'?"),
        ("--config.fusion.head=bottleneck", "config.fusion.head='bottleneck' is not read by this run"),
        ("--config.model.heads=3", "model.heads"),
        ("--config.data.root=here", "config.data.root='here' is not read by this run"),
        ("--config.data.train_split=dev", "has the splits train, test, not 'dev'"),
    ],
)
def test_what_they_do_not_read_is_one_line(place, override, message):
    said = start(place, "main", "--config=toy_config.py", override, "--check", expect=2)
    assert message in said.stderr and said.stderr.count("\n") == 1


def test_the_named_file_is_imported_whatever_its_name(place):
    folder = place / "elsewhere"
    folder.mkdir()
    other = (
        (HERE / "toy_dataset.py")
        .read_text()
        .replace('"squares"', '"circles"')
        .replace("'squares'", "'circles'")
    )
    (folder / "statistics.py").write_text(other)  # as a module of Python's own is called
    said = start(
        place, "main", "--import", "elsewhere/statistics.py", "--config", "toy_config.py", "--check",
        "--config.data.source=circles", "--config.data.train_split=dev", expect=2,
    )  # fmt: skip
    assert "config.data.source='circles' has the splits train, test" in said.stderr
    said = start(place, "evaluate", "--import=nothing.py", "--workdir=own_task", expect=2)
    assert "--import=nothing.py cannot be read: no such file" in said.stderr and said.stderr.count("\n") == 1


def test_a_name_is_registered_once(monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    from fusionjax import register
    from fusionjax.errors import UserError

    for registry in (register.datasets, register.backbones, register.fusion_heads, register.tasks):
        monkeypatch.setattr(registry, "_found", dict(registry._found))
    import toy_dataset

    assert "squares" in register.datasets.names()
    with pytest.raises(UserError, match="registered already"):
        register.dataset("squares")(lambda data, split, *, seed: None)
    with pytest.raises(UserError, match="registered already"):
        register.dataset("folder")(toy_dataset.create)
    sys.modules.pop("toy_dataset")
