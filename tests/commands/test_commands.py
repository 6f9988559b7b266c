"""The commands as a user types them, each in a process of its own."""

import functools
import json
import re

import pytest

from fusionjax.train import metrics
from tests.support import process, tiny, trees

run = functools.partial(process.python, "-m")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.pictures(tmp_path_factory.mktemp("pictures") / "root")


def test_cub_trains_on_mocked_tfds(tmp_path):
    run("tests.support.mocked_main", "--config=configs/cub.py:runlocal", f"--workdir={tmp_path}")
    records = metrics.read(tmp_path)
    assert [r["step"] for r in records if "train/loss" in r] == [1, 2]
    assert "test/accuracy_glca" in records[-1]
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["config"]["data"]["builder"] == "caltech_birds2011" and len(content["class_names"]) == 200
    assert (tmp_path / "report" / "index.html").exists()


def test_crossvit_trains_on_mocked_imagenet(tmp_path):
    run("tests.support.mocked_main", "--config=configs/crossvit.py:runlocal", f"--workdir={tmp_path}")
    records = metrics.read(tmp_path)
    assert [r["step"] for r in records if "train/loss" in r] == [1, 2] and "val/accuracy" in records[-1]
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["config"]["data"]["builder"] == "imagenet2012" and len(content["class_names"]) == 1000


def test_market1501_is_checked_prepared_trained_and_compared(tmp_path):
    """The official layout, small; then the same data prepared give the same run."""
    root = trees.market(tmp_path / "data")
    run(
        "fusionjax.prepare",
        "market1501",
        f"--root={root}",
        "--nocheck_counts",
        f"--out={tmp_path / 'records'}",
    )
    one = f"--config=configs/market1501.py:root={root},runlocal,sie,stride=12,flip"
    two = [f"--config=configs/market1501.py:root={tmp_path / 'records'},runlocal,sie,stride=12,flip"]
    two += ["--config.data.source=prepared"]
    scores = [
        run("fusionjax.main", *arguments, f"--workdir={tmp_path / name}").stdout.splitlines()
        for name, arguments in (("files", [one]), ("records_run", two))
    ]
    kept = [[line for line in lines if line.startswith("test/")] for lines in scores]
    assert kept[0] == kept[1] and any(line.startswith("test/mAP ") for line in kept[0])
    images = sorted((root / "bounding_box_test").glob("0*.jpg"))[:3]
    said = run("fusionjax.predict", f"--workdir={tmp_path / 'files'}", *images).stdout.splitlines()
    assert said[0] == str(images[0]) and len(said) == 3


def test_train_evaluate_predict(data, tmp_path):
    workdir = f"--workdir={tmp_path}"
    trained = run("fusionjax.main", f"--config=tests/support/tiny.py:root={data}", workdir)
    scores = dict(line.split() for line in trained.stdout.splitlines())
    again = dict(line.split() for line in run("fusionjax.evaluate", workdir).stdout.splitlines())
    assert again and all(scores[k] == v for k, v in again.items())
    said = run(
        "fusionjax.predict", workdir, "--top=2", data / "red" / "000.png", data / "blue" / "001.png"
    ).stdout
    assert said.count(" %  ") == 4 and len(list((tmp_path / "predictions").glob("*.png"))) == 2
    said = run("fusionjax.predict", workdir, "--json", "nothing.png", data / "red", expect=1)
    answers = json.loads(said.stdout)
    assert answers[0]["error"] and not answers[0]["classes"] and "1 of " in said.stderr
    assert len(answers) == 1 + len(list((data / "red").iterdir()))
    assert all(len(a["classes"]) == 3 and not a["error"] for a in answers[1:])
    assert "no file matches" in run("fusionjax.predict", workdir, tmp_path / "no*.png", expect=2).stderr


def test_check_computes_nothing(data, tmp_path):
    done = run("fusionjax.main", f"--config=tests/support/tiny.py:root={data}", "--check", "-v")
    assert "blocks/qkv/kernel" in done.stdout and "42 training, 9 val, 9 test images" in done.stdout
    assert [line.partition(":")[0] for line in done.stdout.splitlines()[-2:]] == ["memory", "time"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config=configs/cub.py", "--config.optim.lerning_rate=1"],
            "config.optim.lerning_rate is not known .*learning_rate",
        ),
        (
            ["--config=configs/cub.py", "--config.train.batch_size=x"],
            "config.train.batch_size='x' is of the wrong type",
        ),
        (["--config=configs/cub.py:backbone=vgg"], "config argument backbone='vgg': allowed are vit_base"),
        (["--config=configs/none.py"], "--config=configs/none.py cannot be read"),
        (["--config=configs/cub.py", "--wrkdir=x"], "unknown option --wrkdir; did you mean --workdir"),
        (["--config=configs/cub.py:root=/nowhere,weights=none"], "config.data.root='/nowhere'"),
        (["--config=configs/aircraft.py:weights=none"], "config.data.root is empty"),
        (
            ["--config=configs/cub.py", "--config.model.ratio=0"],
            r"config.model.ratio=0.0 is not possible: allowed is \(0, 1\]",
        ),
        (["--config=configs/cub.py", "stray"], "unexpected argument 'stray'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, arguments, message):
    done = run("fusionjax.main", f"--workdir={tmp_path / 'w'}", *arguments, expect=2)
    assert re.fullmatch(f"fusionjax: error: .*{message}.*\n", done.stderr), done.stderr
    assert not (tmp_path / "w").exists(), "nothing is made before the mistake is found"
