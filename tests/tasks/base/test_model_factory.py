"""Every weight that a run reads is validated against the model's shapes before its data are touched.

The data of these runs do not exist: an error about weights therefore comes before the first look at them.
"""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from configs import openmoji_reid
from fusionjax import config as config_lib
from fusionjax import tasks
from fusionjax.errors import UserError
from fusionjax.experiment import trainer
from fusionjax.models import registry
from fusionjax.models.methods.reid import ReID
from fusionjax.pretrained import files
from fusionjax.tasks.base import model_factory
from fusionjax.tasks.base.protocol import Facts
from tests.pretrained.test_convert import speech_recognition
from tests.pretrained.test_sources import shallow
from tests.support import fields as fields_lib
from tests.support import tiny, tiny_bert, tiny_spectral

WORDS = ("a", "leaf")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert.write(tmp_path_factory.mktemp("bert"), WORDS)


@pytest.fixture
def vit(tmp_path):
    """vit_shallow, 256 wide and 2 layers deep."""
    safetensors.numpy.save_file(shallow(), tmp_path / "vit.safetensors")
    return tmp_path / "vit.safetensors"


def wider(bert, folder):
    """A BERT whose config.json is of another width than its weights."""
    folder.mkdir()
    for file in bert.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    sizes = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(sizes | dict(hidden_size=32)))
    return folder


def classification(**fields):
    c = tiny.get_config("root=/nowhere")
    c.model.name, c.model.patch = "vit_shallow", 16
    c.model.width = c.model.heads = 0
    c.model.ablation, c.model.ratio = "sa_only", config_lib.default().model.ratio
    return fields_lib.validated(c, fields)


def joined(task, bert, **fields):
    """A task with a trunk and a text encoder."""
    c = config_lib.default()
    c.task = task
    c.data.source, c.data.root, c.data.eval_splits = "manifest", "/nowhere/x.csv", ("test",)
    c.data.resize = c.data.image_size = 32
    c.model.name, c.model.ablation, c.model.trunk = task, "sa_only", "vit_shallow"
    c.text.max_tokens = 16
    if not fields.get("mvpdr__clip"):
        c.text.encoder = str(bert)
    c.train.batch_size, c.train.steps = 8, 6
    return fields_lib.validated(c, fields)


def refused(config, folder, *parts):
    """The run ends in one line that has these parts, and no values are read before."""
    with pytest.raises(UserError) as caught:
        trainer.Experiment(config, folder / "run")
    line = str(caught.value)
    assert "\n" not in line and all(part in line for part in parts), line


@pytest.fixture(autouse=True)
def no_values(monkeypatch):
    """Reading values fails the test."""
    read = files._read_safetensors

    def shapes(path, shapes_only):
        assert shapes_only, f"values of {path} are read"
        return read(path, shapes_only)

    monkeypatch.setattr(files, "_read_safetensors", shapes)


def test_weights_that_fit_come_to_the_data(tmp_path, vit):
    refused(classification(pretrained__source=str(vit)), tmp_path, "/nowhere")


def test_weights_of_the_whole_model(tmp_path, vit):
    def source(**fields):
        return classification(pretrained__source=str(vit), **fields)

    missing = classification(pretrained__source=str(tmp_path / "none.safetensors"))
    refused(missing, tmp_path, "config.pretrained.source", "none.safetensors: no such weight file")
    refused(source(model__depth=1), tmp_path, "of another shape: blocks/", "(2, 256) for (1, 256)")
    refused(source(model__width=128), tmp_path, "of another shape", "256) for (1, 1, 128)")
    refused(source(pretrained__skip=("steam/.*",)), tmp_path, "skip pattern 'steam/.*' matches no parameter")
    refused(source(model__name="vit_tiny_patch16_224"), tmp_path, "do not fit vit_tiny_patch16_224")


def test_weights_of_a_trunk(tmp_path, vit, bert):
    def source(**fields):
        return joined("fusion", bert, pretrained__source=str(vit), pretrained__into="trunk", **fields)

    refused(source(), tmp_path, "/nowhere")
    refused(source(model__trunk="vit_tiny_patch16_224"), tmp_path, "do not fit vit_tiny_patch16_224")
    refused(source(pretrained__skip=("steam/.*",)), tmp_path, "skip pattern 'steam/.*' matches no parameter")
    # The trunk's grid need not be square.
    refused(source(data__image_shape=(32, 64), data__image_size=224, data__resize=256), tmp_path, "/nowhere")


def test_weights_of_a_text_encoder(tmp_path, bert):
    folder = wider(bert, tmp_path / "wider")
    for task in ("fusion", "vqa"):
        extra = dict(data__questions="columns") if task == "vqa" else {}
        c = joined(task, folder, model__name="fusion", **extra)
        refused(
            c,
            tmp_path,
            f"config.text.encoder: the tensors do not fit {folder}",
            "of a wrong shape: embeddings.word_embeddings",
        )


def test_weights_of_sounds(tmp_path, vit, bert, monkeypatch):
    def source(path):
        return joined("trimodal", bert, audio__encoder="wav2vec2_base", audio__source=str(path))

    refused(source(tmp_path / "none.safetensors"), tmp_path, "config.audio.source", "no such weight file")
    refused(source(vit), tmp_path, "config.audio.source", "not one name is this model's")
    _, tensors = speech_recognition(monkeypatch)
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    safetensors.numpy.save_file(tensors, tmp_path / "ctc.safetensors")
    refused(source(tmp_path / "ctc.safetensors"), tmp_path, "/nowhere")


def test_weights_of_a_clip_and_of_prompts(tmp_path, bert):
    words = tmp_path / "words.json"
    words.write_text(json.dumps({"a": ["a leaf"], "b": ["a leaf"]}))
    fields = dict(text__descriptions=str(words), data__cache__enabled=True, model__freeze_trunk=True)
    folder = wider(bert, tmp_path / "wider")
    safetensors.numpy.save_file(shallow(), tmp_path / "vit.safetensors")
    trunk = dict(pretrained__source=str(tmp_path / "vit.safetensors"), pretrained__into="trunk")
    refused(joined("mvpdr", bert, **fields, **trunk), tmp_path, "/nowhere")
    refused(joined("mvpdr", folder, **fields, **trunk), tmp_path, "config.text.encoder", "of a wrong shape")
    (folder / "config.json").write_text(
        json.dumps(dict(model_type="clip", vision_config=dict(image_size=32)))
    )
    c = joined(
        "mvpdr", bert, **{**fields, "model__freeze_trunk": False}, mvpdr__clip=str(folder), model__trunk=""
    )
    refused(
        c, tmp_path, f"config.mvpdr.clip: the tensors do not fit {folder}", "not one name is this model's"
    )


def test_weights_of_the_encoders_of_contrastive_learning(tmp_path):
    tensors = shallow()
    safetensors.numpy.save_file(tensors, tmp_path / "vit.safetensors")

    def source(**fields):
        c = tiny_spectral.get_config("root=/nowhere")
        c.model.width = c.model.heads = c.model.depth = 0
        c.model.patch, c.data.resize, c.data.image_size = 16, 32, 32
        return fields_lib.validated(c, dict(pretrained__source=str(tmp_path / "vit.safetensors")) | fields)

    refused(source(), tmp_path, "/nowhere")
    refused(source(model__depth=1), tmp_path, "of another shape: blocks/")
    refused(source(pretrained__skip=("steam/.*",)), tmp_path, "skip pattern 'steam/.*' matches no parameter")


def test_values_that_are_not_finite_are_named_at_load(tmp_path, monkeypatch):
    monkeypatch.undo()
    tensors = shallow()
    tensors["norm.weight"][3] = np.nan
    safetensors.numpy.save_file(tensors, tmp_path / "vit.safetensors")
    root = tiny.pictures(tmp_path / "pictures", per_class=8)
    c = classification(pretrained__source=str(tmp_path / "vit.safetensors"), data__root=str(root))
    run = trainer.Experiment(c, tmp_path / "run")
    with pytest.raises(UserError, match=r"^config\.pretrained\.source: .*1 not finite: norm\.weight$"):
        run.train()


def test_skipped_parameters_of_a_trunk_in_two_parts(monkeypatch):
    monkeypatch.undo()
    c = openmoji_reid.get_config("runlocal")
    with c.unlocked():
        c.pretrained.skip = ("stem/.*",)
    task = tasks.create(config_lib.validate(c), Facts(("0", "1")))
    fresh = jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(task.model.init, jax.random.key(0))
    )
    merged = task.model.load_pretrained(fresh, model_factory.read_weights(c))
    assert not any(np.any(x) for x in jax.tree.leaves(merged["params"]["trunk"]["stem"]))
    assert any(np.any(x) for x in jax.tree.leaves(merged["params"]["neck"]))
    with c.unlocked():
        c.pretrained.skip = ("sttem/.*",)
    with pytest.raises(UserError, match="sttem"):
        task.model.load_pretrained(fresh, model_factory.read_weights(c))


@pytest.mark.parametrize(("name", "antialias"), [("dinov2", False), ("reg4_dinov2", True)])
def test_weights_of_a_wrapped_network_are_arranged_as_its_own(name, antialias):
    """Re-identification puts a neck and a classifier around a DINOv2, whose position embeddings are resampled in its way."""
    backbone = registry.create(f"dcal_vit_small_patch14_{name}", num_classes=0, image_size=(252, 126))
    wrapped = ReID(backbone, num_classes=5)
    assert model_factory.of_family(wrapped) is backbone and model_factory.of_family(backbone) is backbone
    family = registry.family(f"dcal_vit_small_patch14_{name}")
    assert family.antialias(model_factory.of_family(wrapped)) is antialias
