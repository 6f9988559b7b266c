"""A run that is exported, read back from a folder and from the hub's cache, and started from; damaged and hostile folders."""

import getpass
import json
import shutil

import huggingface_hub
import numpy as np
import pytest
import safetensors.numpy
from huggingface_hub import constants

import fusionjax
from fusionjax import api, disk_cache, export
from fusionjax import arguments as arguments_lib
from fusionjax.errors import UserError
from fusionjax.experiment import sharing, trainer, workdir
from fusionjax.studies import run_record
from tests.support import tiny

pytestmark = pytest.mark.usefixtures("libraries_warn")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tiny.pictures(tmp_path_factory.mktemp("data") / "photos", per_class=8)


def settings(root):
    c = tiny.get_config(f"root={root}")
    with c.unlocked():
        c.train.steps, c.report.enabled, c.train.eval_every_epochs = 2, False, 0.0
    return c


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    return api.train(settings(root), tmp_path_factory.mktemp("runs") / "photos")


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    """As the command writes it."""
    out = tmp_path_factory.mktemp("shared") / "photos"
    words = [f"--workdir={run.folder}", f"--hub={out}", "--license=cc-by-4.0", "--name=someone/photos"]
    assert not export.COMMAND.main(arguments_lib.parse(export.COMMAND, words))
    return out


def same(a, b):
    return all(
        x.classes == y.classes
        and np.array_equal(x.probabilities, y.probabilities)
        and np.array_equal(x.rollout, y.rollout)
        for x, y in zip(a, b, strict=True)
    )


def test_predictions_are_equal_to_the_bit(run, folder, root, tmp_path, monkeypatch):
    """From the folder, and from a repository of that content in the cache of the hub."""
    expected = run.predict(root)
    again = fusionjax.load(folder)
    assert again.exported and again.step == run.step and same(expected, again.predict(root))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--someone--photos"
    shutil.copytree(folder, cached / "snapshots" / COMMIT)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    assert same(expected, fusionjax.load("hub:someone/photos").predict(root))
    (cached / "snapshots" / COMMIT / "sums.json").unlink()
    with pytest.raises(UserError, match="hub:someone/photos is no exported run, or an incomplete one"):
        fusionjax.load("hub:someone/photos")
    with pytest.raises(UserError, match="hub:someone/other: cannot be downloaded and is not in the cache"):
        fusionjax.load("hub:someone/other")


def test_the_card_is_valid_and_has_the_measured_numbers(run, folder):
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    data, scores = card.data, json.loads((run.folder / "results.json").read_text())
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "cc-by-4.0",
        "fusionjax",
        "image-classification",
    )
    assert data.datasets == ["photos"] and data.metrics == ["accuracy"] and "fusionjax" in data.tags
    (result,) = data.eval_results
    assert result.metric_value == pytest.approx(scores["test/accuracy"], abs=1e-6)
    assert "95 % interval" in result.metric_name and result.dataset_split == "test"
    assert data.model_name == "dcal_vit_shallow on photos"
    for words in (
        "Before you use these numbers",
        "`cc-by-4.0`",
        "hub:someone/photos",
        "blue, green, red",
        "from scratch",
    ):
        assert words in card.text
    for line in scores["cautions"]:
        assert line[:30] in card.text.replace("\\", "")


def test_nothing_tells_of_the_machine(run, folder, root, tmp_path, monkeypatch):
    """Paths of data, weights and files in messages, the command line and the name of the user."""
    monkeypatch.setattr(getpass, "getuser", lambda: "anna")
    content = workdir.read(run.folder)
    config = content["config"]
    config["data"]["root"], config["pretrained"]["source"] = (
        "/home/anna",
        "/home/anna/weights/vit.pth#teacher",
    )
    config["data"]["cache"]["folder"], config["train"]["tracker_project"] = "/scratch/anna", "anna/birds"
    content |= {"data_set": "anna", "command": "python -m fusionjax.main --config=/home/anna/c.py"}
    found, _ = sharing._shared(content, 2, tmp_path)
    text = json.dumps(found)
    assert (
        "anna" not in text
        and "/home" not in text
        and found["config"]["pretrained"]["source"] == "vit.pth#teacher"
    )
    said = sharing.without_paths(
        "'/home/anna/red/1.png' and ~anna/x/2.png, 3/4 of C:\\Users\\anna\\3.png; a/b.png, and/or"
    )
    assert said == "'1.png' and 2.png, 3/4 of 3.png; a/b.png, and/or"
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    for part in (root.parent, run.folder.parent, folder.parent):
        assert str(part).encode() not in written


@pytest.mark.parametrize("name", ["dcal_vit_shallow", "vit_shallow"])
def test_another_run_starts_from_it(run, folder, root, tmp_path, name):
    """DCAL with all that it has learned, and a plain ViT without GLCA."""
    c, lines = settings(root), []
    with c.unlocked():
        c.model.name, c.pretrained.source = name, str(folder)
        c.model.ratio = 0.3 if name.startswith("dcal") else 0.1
    experiment = trainer.Experiment(c, tmp_path / name)
    experiment.say = lines.append
    found = experiment.initial_variables()["params"]
    stored = safetensors.numpy.load_file(folder / "model.safetensors")
    for path in ["blocks/qkv", "head"] + ["glca_head"] * (name != "vit_shallow"):
        leaf = found
        for part in path.split("/"):
            leaf = leaf[part]
        np.testing.assert_array_equal(leaf["kernel"], stored[f"params/{path}/kernel"])
    assert any("glca_head/kernel" in line and "left out" in line for line in lines) == (name == "vit_shallow")


def test_a_folder_of_ones_own_is_kept(run, folder, tmp_path):
    """An edited card stays; other files are not written over; an exported run is neither trained nor exported again."""
    out = shutil.copytree(folder, tmp_path / "again")
    (out / "README.md").write_text("mine")
    modes = {path.stat().st_mode for path in folder.iterdir()}
    assert len(modes) == 1  # whoever may read the card may read the weights
    for _ in range(2):
        sharing.write(run, out)
        assert (out / "README.md").read_text() == "mine" and fusionjax.load(out).exported
    (tmp_path / "precious.json").write_text("{}")
    listed = disk_cache.read_json(out / "sums.json")
    listed["files"]["../precious.json"] = [2, ""]
    disk_cache.write_json(out / "sums.json", listed)
    sharing.write(run, out)
    assert (tmp_path / "precious.json").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is not empty and holds no earlier export"):
        sharing.write(run, tmp_path / "mine")
    held = {path: path.read_bytes() for path in run.folder.iterdir() if path.is_file()}
    with pytest.raises(UserError, match="is not empty and holds no earlier export"):
        sharing.write(run, run.folder)
    assert held == {path: path.read_bytes() for path in run.folder.iterdir() if path.is_file()}
    with pytest.raises(UserError, match="is an exported run already"):
        sharing.write(fusionjax.load(folder), tmp_path / "b")
    with pytest.raises(UserError, match="is an exported run, which is not trained further"):
        workdir.refuse_others(folder)
    with pytest.raises(UserError, match="is an exported run, without its results by example"):
        run_record.load(folder)
    with pytest.raises(UserError, match="was exported without its data"):
        fusionjax.load(folder).source("test")


def changed(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def resum(folder):
    """As an attacker would."""
    content = disk_cache.read_json(folder / "sums.json")
    content["files"] = disk_cache.sums(folder, list(content["files"]))
    disk_cache.write_json(folder / "sums.json", content)


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(raw)


def hostile_field(folder):
    def change(content):
        content["config"]["task"] = "fusion"
        content["config"]["text"]["encoder"] = "./../../etc"

    changed(folder / "config.json", change)
    resum(folder)


def other_shapes(folder):
    changed(folder / "config.json", lambda c: c["config"]["model"].update(width=48))
    resum(folder)


def escaping_sums(folder):
    content = disk_cache.read_json(folder / "sums.json")
    content["files"]["../../secret.json"] = [1, "0"]
    disk_cache.write_json(folder / "sums.json", content)


def a_pipe(folder):
    import os

    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


DAMAGE = {
    "flipped weight": (lambda f: flip(f / "model.safetensors"), "the checksum of model.safetensors differs"),
    "cut weights": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
        "model.safetensors has .* bytes instead of",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "no sums": (lambda f: (f / "sums.json").unlink(), "is no exported run, or an incomplete one"),
    "sums of a list": (lambda f: (f / "sums.json").write_text("[]"), "sums.json holds no JSON object"),
    "sums that escape": (escaping_sums, "sums.json lists '../../secret.json'"),
    "config changed": (
        lambda f: changed(f / "config.json", lambda c: c.update(steps=9)),
        "config.json has .* bytes instead|the checksum of config.json differs",
    ),
    "config of another type": (
        lambda f: (f / "config.json").write_text('{"config": {}, "exported": "x"}'),
        "exported is no int",
    ),
    "a file outside": (hostile_field, "names a file outside of the folder"),
    "another width": (other_shapes, "the tensors are not those of the run's model: .* of another shape"),
    "a pipe": (a_pipe, "model.safetensors cannot be read: it is a named pipe"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_and_hostile_folders_are_one_line(folder, tmp_path, name):
    change, message = DAMAGE[name]
    out = shutil.copytree(folder, tmp_path / "x")
    change(out)
    with pytest.raises(UserError, match=message) as e:
        fusionjax.load(out)
    assert "\n" not in str(e.value)


def test_damaged_weights_are_not_started_from(folder, root, tmp_path):
    out = shutil.copytree(folder, tmp_path / "x")
    flip(out / "model.safetensors")
    c = settings(root)
    with c.unlocked():
        c.pretrained.source = str(out)
    with pytest.raises(UserError, match="the checksum of model.safetensors differs"):
        trainer.Experiment(c, tmp_path / "run")
