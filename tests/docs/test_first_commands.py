"""The commands that people type first: each config for real data, started as its docstring says, gets its published weights.

The cache of the hub is made here, with constants under the published names and one transformer layer in place of twelve; the
start ends where it would read the data.
"""

import importlib
import re

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from flax.traverse_util import flatten_dict
from huggingface_hub import constants

import fusionjax
from fusionjax import config as config_lib
from fusionjax import tasks
from fusionjax.errors import UserError
from fusionjax.experiment import trainer
from fusionjax.models import registry
from fusionjax.models.backbones import audio
from fusionjax.models.backbones.records import vit
from fusionjax.tasks.base import image_model, initial_weights
from fusionjax.tasks.base.protocol import Facts
from tests.support import mocked_main, process, published, tiny
from tests.support.published import BERT

VIT = "hub:timm/vit_base_patch16_224.augreg_in21k"
R50_VIT = "hub:timm/vit_base_r50_s16_224.orig_in21k"
DINOV2 = "hub:timm/vit_small_patch14_dinov2.lvd142m"
RESNET = "hub:timm/resnet50.a1_in1k"
WAV2VEC2 = "hub:facebook/wav2vec2-base"
HALF, IMAGENET = ((0.5,) * 3, (0.5,) * 3), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
WHOLE = ""
"""The part of a model that is the model itself."""

# config, its own argument beside `root` → part of the parameters: source; (mean, std); (resized, image size).
CASES = {
    ("cub", ""): ({WHOLE: VIT}, HALF, (550, 448)),
    ("cub", "backbone=r50_vit_base"): ({WHOLE: R50_VIT}, HALF, (550, 448)),
    ("cub", "backbone=deit_tiny"): ({WHOLE: "hub:timm/deit_tiny_patch16_224.fb_in1k"}, IMAGENET, (550, 448)),
    ("cub", "backbone=deit_small"): (
        {WHOLE: "hub:timm/deit_small_patch16_224.fb_in1k"},
        IMAGENET,
        (550, 448),
    ),
    ("cub", "backbone=deit_base"): ({WHOLE: "hub:timm/deit_base_patch16_224.fb_in1k"}, IMAGENET, (550, 448)),
    ("cub", "backbone=dinov2_small"): ({WHOLE: DINOV2}, IMAGENET, (550, 448)),
    ("cars", ""): ({WHOLE: VIT}, HALF, (550, 448)),
    ("aircraft", ""): ({WHOLE: VIT}, HALF, (550, 448)),
    ("market1501", ""): ({WHOLE: VIT}, HALF, (256, 128)),
    # TransReID normalises by 0.5 for DeiT too.
    ("market1501", "backbone=deit_base"): (
        {WHOLE: "hub:timm/deit_base_patch16_224.fb_in1k"},
        HALF,
        (256, 128),
    ),
    ("market1501", "backbone=dinov2_small"): ({WHOLE: DINOV2}, IMAGENET, (252, 126)),
    ("dukemtmc", ""): ({WHOLE: VIT}, HALF, (256, 128)),
    ("msmt17", ""): ({WHOLE: VIT}, HALF, (256, 128)),
    ("veri776", ""): ({WHOLE: VIT}, HALF, (256, 256)),
    ("spectral", ""): ({"tower_rgb": RESNET, "tower_uv": RESNET}, ((), ()), (224, 224)),
    ("spectral", "fusion=concat"): ({"tower_shared": RESNET}, ((), ()), (224, 224)),
    ("plant_village", ""): ({"trunk": RESNET, "text": BERT}, IMAGENET, (235, 224)),
    ("plant_village", "data=folder"): ({"trunk": RESNET, "text": BERT}, IMAGENET, (235, 224)),
    ("plant_village", "data=manifest,text=instance"): ({"trunk": RESNET, "text": BERT}, IMAGENET, (235, 224)),
    ("plant_village", "image=vit_base_patch16_224"): ({"trunk": VIT, "text": BERT}, HALF, (248, 224)),
    ("plant_village", "baseline=mvpdr"): ({"trunk": RESNET}, IMAGENET, (235, 224)),
    ("trimodal", ""): ({"trunk": VIT, "text": BERT, "audio": WAV2VEC2}, HALF, (248, 224)),
    ("audiovisual", ""): ({"trunk": VIT, "audio": WAV2VEC2}, HALF, (248, 224)),
    ("audiovisual", "modalities=audio"): ({"audio": WAV2VEC2}, HALF, (248, 224)),
    ("vqa", ""): ({"trunk": VIT, "text": BERT}, HALF, (248, 224)),
    ("vqa", "source=vqa2"): ({"trunk": VIT, "text": BERT}, HALF, (248, 224)),
    ("crossvit", ""): ({}, IMAGENET, (274, 240)),  # ImageNet, on which the published weights were trained
    ("crossvit", "root=/data/flowers"): ({WHOLE: "hub:timm/crossvit_small_240.in1k"}, IMAGENET, (274, 240)),
}
# What no published weights have: heads, and what a method adds to its backbone.
NEW = re.compile(
    r"(glca|head|neck|log_variance|fusion|projection|visual|textual|norm_trunk|query|trunk_norm)\w*(/.*)?"
)


class DataAreRead(Exception):
    """Where the part of a start that these tests look at ends."""


def stop(*args, **kwargs):
    raise DataAreRead


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("hub")


@pytest.fixture
def shallow(monkeypatch):
    """One layer of the published width in place of twelve."""
    for name, fields in vit.CONFIGS.items():
        monkeypatch.setitem(vit.CONFIGS, name, {**fields, "depth": 1})
    monkeypatch.setitem(audio.CONFIGS, "wav2vec2_base", {"depth": 1})


@pytest.fixture
def hub(cache, monkeypatch, shallow):
    """The published weights of every case; no network (HF_HUB_OFFLINE)."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    published.write_bert(cache)
    names = {*vit.CONFIGS, "resnet50", "wav2vec2_base", "crossvit_small_240"}
    wanted = {source for parts, *_ in CASES.values() for source in parts.values()}
    for name in names:
        if registry.family(name).weights.get(name) in wanted:
            published.write(cache, name)


def config_of(name, argument):
    return importlib.import_module(f"configs.{name}").get_config(argument)


def test_every_config_for_real_data_is_a_case():
    of_real_data = {"cub", "cars", "aircraft", "market1501", "dukemtmc", "msmt17", "veri776", "spectral", "plant_village",
                    "trimodal", "audiovisual", "vqa", "crossvit"}  # fmt: skip
    files = {p.stem for p in (process.ROOT / "configs").glob("*.py")}
    packaged = {f for f in files if f.startswith(("openmoji", "stamps"))} | {"quickstart"}
    shared = {f for f in files if f.startswith(("__init__", "common"))}
    assert files - packaged - shared - {"folder"} == of_real_data
    assert {name for name, _ in CASES} == of_real_data


@pytest.mark.parametrize(("name", "argument"), CASES)
def test_each_part_gets_its_published_weights_and_images_are_prepared_for_them(
    name, argument, hub, monkeypatch, tmp_path
):
    parts, (mean, std), (resized, size) = CASES[name, argument]
    seen = {}
    find = initial_weights.random_parameters
    monkeypatch.setattr(
        initial_weights,
        "random_parameters",
        lambda before, after: seen.update(after["params"]) or find(before, after),
    )
    # The start of a run reads shapes; here it reads the values too, to tell which file each part got.
    put = image_model.ImageModel.put_pretrained
    monkeypatch.setattr(
        image_model.ImageModel, "put_pretrained", lambda self, variables, shapes_only: put(self, variables)
    )
    monkeypatch.setattr(trainer.datasets, "create", stop)
    config = config_of(name, argument)
    with pytest.raises(DataAreRead):
        trainer.Experiment(config, tmp_path)
    data = config.data
    assert (data.mean, data.std) == (mean, std) and data.interpolation == "bicubic"
    assert (data.image_shape or (data.resize, data.image_size)) == (resized, size)
    loaded = flatten_dict(seen, sep="/")
    got = {}
    for leaf, x in loaded.items():
        part = leaf.split("/")[0] if WHOLE not in parts else WHOLE
        if isinstance(x, np.ndarray):
            got.setdefault(part, set()).add(round(float(np.median(x)), 4))
        else:
            assert NEW.fullmatch(leaf) or part not in parts, f"{leaf} has no weights"
    kept = {
        part: {round(published.value(source), 4), round(published.value(source) / 2, 4)}
        for part, source in parts.items()
    }
    assert set(got) == set(parts)
    for part, values in got.items():
        assert round(published.value(parts[part]), 4) in values and values <= kept[part], part


def test_the_headline_command_trains_from_its_weights(tmp_path, monkeypatch):
    """`configs/cub.py` on mocked TFDS, a narrow ViT under the published name, two steps on small images; frozen, so that the
    weights are still there at the end."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setitem(
        vit.CONFIGS,
        "vit_base_patch16_224",
        {**vit.CONFIGS["vit_base_patch16_224"], "width": 24, "heads": 3, "depth": 1},
    )
    assert published.write(cache, "vit_base_patch16_224") == VIT
    c = config_of("cub", "")
    c.data.resize, c.data.image_size, c.train.batch_size, c.train.steps = 80, 64, 4, 2
    c.data.check_counts, c.evaluation.batch_size, c.report.enabled, c.optim.warmup_epochs = (
        False,
        4,
        False,
        0.0,
    )
    c.optim.freeze = ("^blocks/",)
    with tfds.testing.mock_data(as_data_source_fn=mocked_main.serve):
        trainer.Experiment(c, tmp_path / "run").train()
    params = fusionjax.load(tmp_path / "run").variables["params"]
    for leaf in jax.tree.leaves(params["blocks"]):
        assert np.unique(leaf).tolist() == [published.value(VIT)]


@pytest.mark.parametrize(("name", "argument"), [case for case, (parts, *_) in CASES.items() if parts])
def test_without_network_and_cache_one_line_names_the_file_before_data_are_read(
    name, argument, monkeypatch, tmp_path, shallow
):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(trainer.datasets, "create", stop)
    parts = CASES[name, argument][0]
    with pytest.raises(UserError) as error:
        trainer.Experiment(config_of(name, argument), tmp_path / "run")
    said = str(error.value)
    assert "\n" not in said and re.match(
        r"config\.(pretrained\.source|text\.encoder|audio\.source): hub:", said
    )
    repository = said.split(": ")[1].removeprefix("hub:")
    assert f"hub:{repository}" in parts.values() or f"hub:{repository}" == BERT
    assert f"hf download {repository} " in said and "or pass the path of a file" in said


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("plant_village", "weights=none", r"trunk is frozen, but .* name its weights in config\.pretrained\.source"),
        ("plant_village", "weights=none,baseline=mvpdr_free", "trunk is frozen"),
        ("trimodal", "weights=none", "trunk is frozen"),
        ("trimodal", "hearing_weights=none", r"audio is frozen, .* name its weights in config\.audio\.source"),
        ("audiovisual", "modalities=audio,hearing_weights=none", "audio is frozen"),
        ("vqa", "weights=none", "trunk is frozen"),
    ],
)  # fmt: skip
def test_frozen_without_weights_is_an_error_before_data_are_read(
    name, argument, message, hub, monkeypatch, tmp_path
):
    monkeypatch.setattr(trainer.datasets, "create", stop)
    with pytest.raises(UserError, match=message) as error:
        trainer.Experiment(config_of(name, argument), tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "argument", "network"),
    [
        ("cub", "", None),
        ("cub", "weights=none", "dcal_vit_base_patch16_224"),
        ("market1501", "weights=none", "dcal_vit_base_patch16_224"),
        ("spectral", "weights=none,backbone=vit_base_patch16_224", "tower_rgb, tower_uv"),
        ("spectral", "weights=none", None),  # a ResNet
        ("plant_village", "weights=none,train_encoders,image=vit_base_patch16_224", "trunk"),
        ("audiovisual", "modalities=audio,train_encoders,hearing_weights=none", "audio"),
        ("audiovisual", "modalities=audio,hearing=mel", None),  # small, and meant to be trained from scratch
    ],
)
def test_a_transformer_from_scratch_on_few_images_says_so(name, argument, network, hub):
    config = config_lib.validate(config_of(name, argument))
    model = tasks.create(config, Facts(("a", "b"))).model
    fresh = jax.eval_shape(model.init_module, jax.random.key(0))
    random = initial_weights.random_parameters(fresh, model.put_pretrained(fresh))
    said = initial_weights.notes(model, config.model.name, fresh, random, 99_999)
    assert [line.split(":")[0] for line in said] == ([network] if network else [])
    assert all("from scratch on 99,999 images" in line and "config." in line for line in said)
    assert initial_weights.notes(model, config.model.name, fresh, random, 100_000) == []


def test_that_is_the_first_line_of_the_check_and_of_the_run_and_above_the_title_of_its_report(
    tmp_path, capsys
):
    config = tiny.get_config(f"root={tiny.pictures(tmp_path / 'pictures', per_class=8)},steps=1")
    run = trainer.Experiment(config, tmp_path / "run")
    first = run.describe().splitlines()[0]
    assert first.startswith("dcal_vit_shallow: a transformer trained from scratch on 1")
    run.train()
    assert capsys.readouterr().err.splitlines()[0] == first
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert first in re.findall(r"<li>(.*?)</li>", page) and page.index(first) < page.index("<h1")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("weights=", "allowed are published, none, a file"),
        ("weights=x.pth,runlocal", "runlocal takes a small model"),
    ],
)
def test_an_argument_that_would_be_ignored_is_refused(argument, message):
    with pytest.raises(UserError, match=message):
        config_of("cub", argument)


@pytest.mark.parametrize(
    ("name", "source", "mean", "interpolation"),
    [
        ("vit_base_patch16_224", VIT, 0.5, "bicubic"),
        ("vit_base_patch16_224", "hub:timm/vit_base_patch16_224.mae", 0.485, "bicubic"),
        ("vit_base_patch16_224", "hub:timm/vit_base_patch16_224.dino@main", 0.485, "bicubic"),
        ("vit_base_patch16_224", "my.pth", 0.5, "bicubic"),
        ("resnet50", "hub:timm/resnet50.tv_in1k", 0.485, "bilinear"),
    ],
)
def test_weights_that_deviate_from_their_model_bring_their_own_preprocessing(
    name, source, mean, interpolation
):
    data = config_of("plant_village", f"image={name},weights={source}").data
    assert data.mean[0] == mean and data.interpolation == interpolation
