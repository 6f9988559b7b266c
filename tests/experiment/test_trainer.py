"""Whole runs: trained, scored, reported, resumed, loaded."""

import html
import json
import logging
import pathlib
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import fusionjax
from fusionjax.errors import UserError
from fusionjax.experiment import inference as run_lib
from fusionjax.experiment import input_pipeline, trainer, workdir
from fusionjax.experiment.fingerprint import fingerprint
from fusionjax.train import checkpoint, metrics
from tests.support import tiny

pytestmark = pytest.mark.usefixtures("libraries_warn")

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.pictures(tmp_path_factory.mktemp("pictures") / "root")


def config(data, **fields):
    c = tiny.get_config(f"root={data}")
    with c.unlocked():
        for key, value in fields.items():
            section, _, name = key.replace("__", ".").rpartition(".")
            target = c
            for part in filter(None, section.split(".")):
                target = target[part]
            target[name] = value
    return c


def test_a_run_names_labels_that_are_spelt_in_two_ways(data, tmp_path):
    rows = [f"{data}/{c}/{i:03d}.png,{c if i % 2 else c.upper()}" for c in tiny.CLASSES for i in range(16)]
    (tmp_path / "m.csv").write_text("\n".join(["path,label", *rows]))
    made = trainer.Experiment(config(tmp_path / "m.csv", data__source="manifest"), tmp_path / "run")
    assert "the classes 'BLUE' and 'blue' differ only in spelling: are they one class?" in made.notes


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A finished run: (workdir, summary)."""
    folder = tmp_path_factory.mktemp("run")
    c = config(data, train__steps=60, train__best_metric="val/accuracy", optim__warmup_epochs=1.0)
    return folder, trainer.Experiment(c, folder).train()


def test_it_learns_and_leaves_everything(trained):
    folder, summary = trained
    assert summary["test/accuracy"] > 0.8, "three colours are not hard"
    assert {"val/accuracy_sa", "val/accuracy_glca", "test/macro_f1", "seconds"} <= set(summary)
    content = json.loads((folder / "config.json").read_text())
    assert content["class_names"] == list(tiny.CLASSES) and content["images"] == {
        "train": 42,
        "val": 9,
        "test": 9,
    }
    assert content["environment"]["jax"] and content["environment"]["device"]
    records = metrics.read(folder)
    steps = [r["step"] for r in records]
    assert steps == sorted(steps) and steps[-1] == 60
    assert {"train/loss", "train/loss_pwca", "train/learning_rate", "train/grad_norm"} <= set(records[0])
    assert 0 <= records[-1]["test/accuracy"] <= 1
    page = (folder / "report" / "index.html").read_text()
    # The maps of the report are measured beside it, against two controls.
    assert "Does the map show what a prediction rests on?" in page and "centre prior (control)" in page
    assert (
        "Confusion" in page
        and "blue" in page
        and len(list((folder / "report").glob("right_*_rollout.png"))) == 2
    )
    assert list((folder / "tensorboard").iterdir())
    said = json.loads((folder / "results.json").read_text())["cautions"]
    assert "9 examples are few" in said[-2] and "from scratch on 42 images" in said[-1]
    shown = html.unescape(page)
    assert all(line in shown[: shown.index("<header>")] for line in said), "before the scores"


def test_the_loaded_run_says_the_same(trained):
    folder, summary = trained
    run = fusionjax.load(folder)
    for name, value in run.task.scorer.scalars(run.evaluate()).items():
        assert summary[name] == pytest.approx(float(value), abs=1e-6)
    assert run.step == summary["step"], "the best checkpoint is the one that was reported"


def test_predictions_from_files_arrays_and_bytes(trained, data):
    run = fusionjax.load(trained[0])
    path = data / "red" / "003.png"
    image = np.zeros((70, 50, 3), np.uint8)
    image[..., 0] = 200  # RGB
    found = run.predict([path, str(path), path.read_bytes(), image])
    assert [f.classes[0] for f in found] == ["red"] * 4
    np.testing.assert_array_equal(found[0].probabilities, found[2].probabilities)
    np.testing.assert_allclose(sum(found[0].probabilities), 1, rtol=1e-5)
    assert found[0].rollout.shape == (4, 4) and found[0].selected.shape == (4,) and found[3].name == "image 4"
    assert run.attention(path).rollout.sum() <= 1
    assert run.predict([]) == []
    with pytest.raises(UserError, match="nothing.png"):
        run.predict(["nothing.png"])
    one = run.predict(str(path))
    assert len(one) == 1 and one[0].name == str(path), "a string is one image, never its letters"
    mixed = run.predict(["nothing.png", data / "red"], skip_bad=True, batch=4)
    assert mixed[0].error and [p.name for p in mixed[1:]] == sorted(map(str, (data / "red").iterdir()))
    np.testing.assert_allclose(mixed[4].probabilities, found[0].probabilities, atol=1e-6)
    assert run.predict(Image.open(path))[0].probabilities == pytest.approx(found[0].probabilities)


def final_state(folder, c):
    task = trainer.Experiment(c, folder).task
    abstract = jax.eval_shape(lambda key: run_lib._state(task, c, key), jax.random.key(0))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), abstract)
    keeper = checkpoint.Checkpointer(pathlib.Path(folder) / "checkpoints", read_only=True)
    return keeper.restore(target)


def test_a_finished_run_started_again_changes_nothing(trained, data):
    folder, summary = trained
    c = config(data, train__steps=60, train__best_metric="val/accuracy", optim__warmup_epochs=1.0)
    again = trainer.Experiment(c, folder).train()
    assert {k: v for k, v in again.items() if k != "seconds"} == {
        k: v for k, v in summary.items() if k != "seconds"
    }


def test_a_workdir_of_another_config_is_refused(trained, data):
    with pytest.raises(
        UserError,
        match="belongs to a run of another config: config.optim.learning_rate is 0.003 there and 0.5",
    ):
        trainer.Experiment(config(data, train__steps=60, optim__learning_rate=0.5), trained[0]).train()


def test_a_run_of_another_version_is_not_resumed(trained, data, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(trained[0], folder)
    content = json.loads((folder / "config.json").read_text())
    content["environment"]["fusionjax"] = "0.1.0"
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="holds a run of fusionjax 0.1.0, this is .*; use another --workdir"):
        trainer.Experiment(config(data, train__steps=60), folder).train()


def test_a_model_that_was_called_otherwise_is_opened_by_its_name():
    content = {"config": {"task": "classification", "model": {"trunk": "efficientnet_lite0"}}}
    old = {**content, "environment": {"fusionjax": "0.1.0"}}
    assert workdir.config_of(old).model.trunk == "tf_efficientnet_lite0"
    assert workdir.config_of(content).model.trunk == "efficientnet_lite0"


def test_divergence_stops_with_the_last_good_state(data, tmp_path):
    c = config(
        data,
        train__steps=30,
        optim__learning_rate=1e30,
        optim__schedule="constant",
        optim__clip_norm=0.0,
        optim__name="sgd",
    )
    with pytest.raises(UserError, match="is not finite at step"):
        trainer.Experiment(c, tmp_path).train()
    step, state, _ = final_state(tmp_path, c)
    assert int(state.step) == step
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_divergence_at_an_evaluation_is_one_line_at_every_start(data, tmp_path):
    """The one step is finite, and the weights after it are; what they predict is not."""
    fields = dict(
        optim__learning_rate=1e30, optim__schedule="constant", optim__clip_norm=0.0, optim__name="sgd"
    )
    c = config(data, train__steps=1, data__eval_splits=("test",), **fields)
    said = set()
    for _ in range(3):
        with pytest.raises(UserError, match="is not finite") as e:
            trainer.Experiment(c, tmp_path).train()
        said.add(str(e.value))
    assert len(said) == 1 and "\n" not in said.pop() and not (tmp_path / "results.json").exists()


def test_unreadable_images_are_named_counted_and_limited(tmp_path, caplog):
    root = tiny.pictures(tmp_path / "data")
    c = config(root, train__steps=6, data__max_bad_fraction=0.1, report__enabled=True)
    run = trainer.Experiment(c, tmp_path / "a")
    (root / run.source.names[0]).write_bytes(b"not a picture")
    with caplog.at_level(logging.WARNING, "fusionjax"):
        run.train()
    assert run.source.names[0] in caplog.text
    page = (tmp_path / "a" / "report" / "index.html").read_text()
    assert "1 of 42 images of train could not be read" in page
    c = config(root, train__steps=6, data__max_bad_fraction=0.01)
    with pytest.raises(
        UserError, match="1 of 42 images are unreadable, more than config.data.max_bad_fraction"
    ):
        trainer.Experiment(c, tmp_path / "b").train()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(model__heads=5), "heads=5 must divide width=24|config.model.heads=5"),
        (dict(model__patch=7), "multiple of the patch size 7"),
        (dict(model__name="vit_hugest"), "'vit_hugest' is not known"),
        (dict(model__trunk="alexnet"), "model.trunk='alexnet' is not known"),
        (dict(data__root="/nowhere"), "config.data.root='/nowhere'"),
        (dict(data__source="flickr"), "config.data.source='flickr' is not known"),
        (dict(data__train_split="nope"), "nope"),
        (dict(task="guessing"), "config.task='guessing'"),
        (dict(pretrained__source="nothing.safetensors"), "nothing.safetensors"),
    ],
)
def test_mistakes_end_in_one_line(data, tmp_path, fields, message):
    with pytest.raises(UserError, match=message) as e:
        trainer.Experiment(config(data, **fields), tmp_path).train()
    assert "\n" not in str(e.value)


def test_what_the_reader_decided_is_said_at_once_and_by_check(data, tmp_path, capsys, monkeypatch):
    for split in ("Training", "Testing"):
        shutil.copytree(data, tmp_path / "root" / split)
    run = trainer.Experiment(config(tmp_path / "root", data__eval_splits=("test",)), tmp_path / "run")
    lines = [f"split {s!r} is the folder {tmp_path / 'root' / name}" for s, name in
             (("test", "Testing"), ("train", "Training"))]  # fmt: skip
    assert set(lines) < set(run.notes) and "in training and in evaluation (60)" in run.notes[-1]
    assert all(line in run.describe().splitlines() for line in run.notes)

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "fingerprint", stop)
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert capsys.readouterr().err.splitlines()[: len(run.notes)] == list(run.notes)


@pytest.mark.parametrize("place", ["root", "root/run", "link/run"])
def test_a_workdir_within_the_data_is_refused(data, tmp_path, place):
    """After one run its folders would be classes."""
    shutil.copytree(data, tmp_path / "root")
    (tmp_path / "link").symlink_to(tmp_path / "root")
    with pytest.raises(UserError, match="--workdir=.* lies within config.data.root=.*; name another folder"):
        trainer.Experiment(config(tmp_path / "root"), tmp_path / place).train()
    assert sorted(p.name for p in (tmp_path / "root").iterdir()) == sorted(tiny.CLASSES)


def test_one_class_is_refused_whatever_names_it(data, tmp_path):
    def fails(match, **fields):
        with pytest.raises(UserError, match=match) as e:
            trainer.Experiment(config(data, **fields), tmp_path)
        assert "\n" not in str(e.value)

    fails("two or more classes of .* must be selected, 1 listed", data__selected_classes=("red",))
    rows = [
        (f"{data}/{name}/{i:03d}.png", name, "test" if i > 14 else "train")
        for name in tiny.CLASSES
        for i in range(20)
    ]
    for labels in ("one", "training"):
        path = tmp_path / f"{labels}.csv"
        own = [(p, "red" if labels == "one" or s == "train" else name, s) for p, name, s in rows]
        path.write_text("path,label,split\n" + "".join(f"{','.join(row)}\n" for row in own))
        match = {
            "one": "one has one class, 'red', and two or more are needed",
            "training": "every example of split 'train' of training is of class 'red', and training needs two",
        }[labels]
        fails(match, data__source="manifest", data__root=str(path), data__eval_splits=("test",))


def test_gradient_accumulation_and_bfloat16_run(data, tmp_path):
    c = config(data, train__steps=4, optim__accumulate=2, precision="bfloat16", report__enabled=False)
    assert np.isfinite(trainer.Experiment(c, tmp_path).train()["test/nll"])


def test_a_plain_vit_runs_too(data, tmp_path):
    c = config(data, train__steps=4, model__name="vit_shallow")
    summary = trainer.Experiment(c, tmp_path).train()
    assert "test/accuracy" in summary and "test/accuracy_glca" not in summary


def test_another_process_in_the_workdir_is_refused(data, tmp_path):
    run = trainer.Experiment(config(data, train__steps=2), tmp_path)
    with (
        workdir.open_for_training(
            tmp_path, run.config, fingerprint(run.source, run.eval_sources, run.task.inputs, 2)
        ),
        pytest.raises(UserError, match="is in use: another process trains there"),
    ):
        run.train()


def test_other_data_under_the_same_config_is_refused(trained, data, tmp_path):
    folder, _ = trained
    before = (folder / "config.json").read_text()
    other = tiny.pictures(tmp_path / "root")
    (other / "blue").rename(other / "zebra")
    c = config(data, train__steps=60, train__best_metric="val/accuracy", optim__warmup_epochs=1.0)
    c.data.root = str(other)  # where the data lies may change, what it is may not
    with pytest.raises(UserError, match="belongs to a run on other data: its class_names differ"):
        trainer.Experiment(c, folder).train()
    assert (folder / "config.json").read_text() == before


def test_the_best_is_the_lowest_where_low_is_good(data, tmp_path):
    c = config(data, train__steps=30, train__best_metric="val/nll", report__enabled=False)
    summary = trainer.Experiment(c, tmp_path).train()
    seen = [r["val/nll"] for r in metrics.read(tmp_path) if "val/nll" in r]
    assert summary["val/nll"] == pytest.approx(min(seen)) and min(seen) < max(seen)


def test_an_unknown_best_metric_is_found_at_once(data, tmp_path):
    with pytest.raises(
        UserError, match="config.train.best_metric='val/acuracy' is not possible: this task's scores are acc"
    ):
        trainer.Experiment(config(data, train__best_metric="val/acuracy"), tmp_path)


def test_evaluation_batches_fit_the_devices(data):
    run = trainer.Experiment(config(data, evaluation__batch_size=7), ROOT)
    mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1], axis_types=(jax.sharding.AxisType.Auto,))
    assert input_pipeline.ImageFeed(run.config, run.source, {}, mesh=mesh).eval_batch == 7
