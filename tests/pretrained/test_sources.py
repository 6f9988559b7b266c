"""Where weights come from: files, folders and the hub, for every family; and what each mistake says."""

import os
import re
from pathlib import Path

import huggingface_hub
import jax
import numpy as np
import pytest
import safetensors.numpy
from huggingface_hub import constants, errors

from fusionjax import pretrained
from fusionjax.errors import UserError
from fusionjax.models import create
from fusionjax.models.backbones import audio, text
from fusionjax.models.backbones.records import text as keys_text
from fusionjax.models.backbones.records import wav2vec2 as keys_wav2vec2
from fusionjax.pretrained import files, hub
from fusionjax.pretrained.convert import abstract
from tests.pretrained import test_torch_file as torch_file

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def drawn(shapes, seed=0):
    """Random arrays; a tree of variables or a dict of tensors."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes)


def shallow(classes=3):
    """vit_shallow under timm's names."""
    shapes = {"cls_token": (1, 1, 256), "pos_embed": (1, 197, 256)}
    shapes |= {"patch_embed.proj.weight": (256, 3, 16, 16), "patch_embed.proj.bias": (256,)}
    shapes |= {"head.weight": (classes, 256), "head.bias": (classes,)}
    norms = ["norm", *(f"blocks.{layer}.norm{n}" for layer in range(2) for n in (1, 2))]
    dense = {"attn.qkv": (768, 256), "attn.proj": (256, 256), "mlp.fc1": (512, 256), "mlp.fc2": (256, 512)}
    for norm in norms:
        shapes |= {f"{norm}.weight": (256,), f"{norm}.bias": (256,)}
    for layer in range(2):
        for name, shape in dense.items():
            shapes |= {f"blocks.{layer}.{name}.weight": shape, f"blocks.{layer}.{name}.bias": shape[:1]}
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def save_torch(path, tensors):
    """A .pth in torch's zip format, without torch."""
    items, storages = {}, {}
    for index, (name, array) in enumerate(tensors.items()):
        strides = [step // 4 for step in array.strides]
        items[name] = torch_file.tensor(str(index), "FloatStorage", array.size, 0, array.shape, strides)
        storages[str(index)] = array.tobytes()
    path.write_bytes(torch_file.zipped(torch_file.mapping(items), storages))


def same(one, other):
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


def said(source, name, match):
    """Loading ends in one line."""
    with pytest.raises(UserError, match=match) as caught:
        pretrained.load(source, name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Makes files of a repository, as the hub's client keeps them; there is no network (HF_HUB_OFFLINE)."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def function(repo, file, revision="main"):
        folder = tmp_path / "hub" / f"models--{repo.replace('/', '--')}"
        (folder / "refs" / revision).parent.mkdir(parents=True, exist_ok=True)
        (folder / "refs" / revision).write_text(COMMIT)
        path = folder / "snapshots" / COMMIT / file
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    return function


# --- one `load` for every family and source ---


def test_an_image_model_from_every_source(tmp_path, cached):
    tensors = shallow()
    want = pretrained.convert("vit_shallow", tensors)
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    np.savez(tmp_path / "w.npz", **tensors)
    save_torch(tmp_path / "w.pth", tensors)
    safetensors.numpy.save_file(tensors, cached("timm/vit_shallow.in1k", "model.safetensors"))
    save_torch(cached("facebook/old", "pytorch_model.bin"), tensors)
    save_torch(cached("someone/else", "weights/best.pth", "v2"), tensors)
    save_torch(cached("someone/proposal", "pytorch_model.bin", "refs/pr/3"), tensors)
    for source in (
        tmp_path,
        tmp_path / "w.npz",
        str(tmp_path / "w.pth"),
        "hub:timm/vit_shallow.in1k",
        "hub:timm/vit_shallow.in1k/model.safetensors",
        "hub:facebook/old",
        "hub:someone/else@v2/weights/best.pth",
        f"hub:someone/else@{COMMIT}/weights/best.pth",
        "hub:someone/proposal@refs/pr/3",
        "hub:someone/proposal@refs/pr/3/pytorch_model.bin",
    ):
        assert same(pretrained.load(source, "vit_shallow"), want), source
    assert same(pretrained.load(tmp_path, "dcal_vit_shallow"), want)


def test_safetensors_come_first(cached):
    tensors = shallow()
    safetensors.numpy.save_file(tensors, cached("a/b", "model.safetensors"))
    cached("a/b", "pytorch_model.bin").write_bytes(b"never read")
    assert same(pretrained.load("hub:a/b", "vit_shallow"), pretrained.convert("vit_shallow", tensors))


def test_a_bin_of_the_hub_is_read_without_running_it(cached, tmp_path):
    marker = tmp_path / "ran"
    body, named = torch_file.poisons(str(marker))["os"]
    cached("evil/model", "pytorch_model.bin").write_bytes(torch_file.zipped(body, {}))
    said("hub:evil/model", "vit_shallow", rf"pytorch_model\.bin: holds {named}")
    assert not marker.exists()


def test_text_by_name_from_every_source(tmp_path, monkeypatch, cached):
    tiny = text.TextConfig(vocab=31, width=16, layers=2, heads=4, ffn=24, positions=12)
    monkeypatch.setattr(text, "CONFIGS", {**text.CONFIGS, "bert_base_uncased": tiny})
    module = create("bert_base_uncased")
    want, tensors = drawn(abstract(module)), {}
    for key, rule in keys_text.key_map(module, ()).items():
        leaf = want["params"]
        for part in rule.path[1:]:
            leaf = leaf[part]
        leaf = leaf if rule.layer is None else leaf[rule.layer]
        tensors[f"bert.{key}"] = np.ascontiguousarray(leaf.T if rule.path[-1] == "kernel" else leaf)
    tensors["cls.predictions.bias"] = np.zeros(31, np.float32)
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    safetensors.numpy.save_file(tensors, cached("google-bert/bert-base-uncased", "model.safetensors"))
    for source in (
        tmp_path,
        tmp_path / "model.safetensors",
        "hub:google-bert/bert-base-uncased",
        "hub:bert-base-uncased",
        "hub:bert-base-uncased@main/model.safetensors",
    ):
        assert same(pretrained.load(source, "bert_base_uncased"), want), source


def test_wav2vec2_from_the_hub_in_both_spellings_of_its_weight_norm(monkeypatch, cached):
    tiny = dict(width=24, depth=2, heads=4, hidden=32, conv_width=8, pos_kernel=4, pos_groups=2)
    monkeypatch.setattr(audio, "CONFIGS", {"wav2vec2_base": tiny})
    module = create("wav2vec2_base")
    want, tensors = drawn(abstract(module)), {}
    conv = "encoder.pos_conv_embed.conv"
    for key, rule in keys_wav2vec2.key_map(module, (f"{conv}.weight_g",)).items():
        leaf = want["params"]
        for part in rule.path[1:]:
            leaf = leaf[part]
        leaf = leaf if rule.layer is None else leaf[rule.layer]
        leaf = leaf[None, None] if key == f"{conv}.weight_g" else leaf.T
        tensors[f"wav2vec2.{key}"] = np.ascontiguousarray(leaf)
    # As facebook/wav2vec2-base has it: the heads of its pretraining beside the encoder.
    tensors |= {"quantizer.codevectors": np.zeros((1, 2, 3), np.float32), "project_hid.bias": np.zeros(2)}
    newer = {f"{conv}.weight_g": "original0", f"{conv}.weight_v": "original1"}
    renamed = {
        next(
            (f"wav2vec2.{conv}.parametrizations.weight.{n}" for k, n in newer.items() if k in key), key
        ): array
        for key, array in tensors.items()
    }
    assert set(renamed) != set(tensors) and len(renamed) == len(tensors)
    for repo, spelt in (("facebook/wav2vec2-base", tensors), ("facebook/newer", renamed)):
        spelt = {key: array.astype(np.float32) for key, array in spelt.items()}
        save_torch(cached(repo, "pytorch_model.bin"), spelt)
        assert same(pretrained.load(f"hub:{repo}", "wav2vec2_base"), want)


# --- the hub's answers ---


def answer(kind):
    """The hub's refusal; made without its response, whose type depends on the client's version."""
    return kind.__new__(kind, "no\nsuch thing")


def online(monkeypatch, respond):
    """hf_hub_download answers with a path or raises what `respond(file)` gives; returns what was asked."""
    asked = []

    def download(repo, file, *, revision=None):
        asked.append((repo, file, revision))
        result = respond(file)
        if isinstance(result, Exception):
            raise result
        return str(result)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return asked


def test_what_is_asked_of_the_hub(tmp_path, monkeypatch):
    safetensors.numpy.save_file(shallow(), tmp_path / "model.safetensors")
    save_torch(tmp_path / "pytorch_model.bin", shallow(5))
    asked = online(monkeypatch, lambda file: tmp_path / file)
    pretrained.load("hub:timm/x@v1", "vit_shallow")
    assert asked == [("timm/x", "model.safetensors", "v1")]
    missing = answer(errors.EntryNotFoundError)
    asked = online(monkeypatch, lambda file: missing if "safetensors" in file else tmp_path / file)
    got = pretrained.load("hub:timm/x", "vit_shallow")
    assert got["params"]["head"]["bias"].shape == (5,)
    assert asked == [("timm/x", "model.safetensors", None), ("timm/x", "pytorch_model.bin", None)]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            answer(errors.GatedRepoError),
            "accept the terms on its page of the hub, then log in: hf auth login",
        ),
        (answer(errors.RepositoryNotFoundError), "no such repository; if it is private, log in"),
        (answer(errors.RevisionNotFoundError), "has no revision 'v2'"),
        (
            answer(errors.EntryNotFoundError),
            "neither model.safetensors nor pytorch_model.bin; name its file",
        ),
        (answer(errors.HfHubHTTPError), "cannot be downloaded and is not in the cache ("),
        (
            errors.LocalEntryNotFoundError("no\nconnection"),
            "is not in the cache (no connection); download it in advance",
        ),
        (OSError("no space left"), "(no space left)"),
        (ConnectionError("refused"), "HF_HUB_OFFLINE=0 hf download a/b model.safetensors --revision v2"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_refusals_of_the_hub_are_one_line(monkeypatch, error, message):
    online(monkeypatch, lambda file: error)
    assert said("hub:a/b@v2", "vit_shallow", re.escape(message)).startswith("hub:a/b@v2: ")


def test_a_file_that_the_repository_has_not(monkeypatch):
    online(monkeypatch, lambda file: answer(errors.EntryNotFoundError))
    said("hub:a/b/x.bin", "vit_shallow", r"^hub:a/b/x\.bin: the repository has no such file$")


def test_offline_and_not_in_the_cache(cached):
    message = said("hub:timm/vit_tiny", "vit_shallow", "cannot be downloaded and is not in the cache")
    assert "(HF_HUB_OFFLINE is set)" in message
    assert "HF_HUB_OFFLINE=0 hf download timm/vit_tiny model.safetensors" in message
    # A cached repository without weights is the same to who is offline.
    cached("timm/vit_tiny", "config.json").write_text("{}")
    said("hub:timm/vit_tiny", "vit_shallow", "is not in the cache")


# --- mistakes ---

SPELLING = "expected hub:owner/name, hub:owner/name@revision or hub:owner/name/file"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hub:", SPELLING),
        ("hub:resnet50", SPELLING),
        ("hub:/name", SPELLING),
        ("hub:a/", SPELLING),
        ("hub:a/b@", SPELLING),
        ("hub:a/b/../../c.bin", SPELLING),
        ("hub:../b", SPELLING),
        ("hub:a/b c", SPELLING),
        (
            "hub:a/b/model.h5",
            "weights are read from .safetensors, .npz, .onnx, .pth, .pt, .bin, .ckpt, .tar, not from '.h5'",
        ),
        ("hub:a/b/folder", "not from ''"),
        ("https://hub.invalid/w.pth", "download the file, or pass hub:owner/name"),
        ("package:nothing", "known are package:efficientnet_lite0, package:efficientnet_lite1"),
        ("package:", "known are package:efficientnet_lite0"),
        ("nowhere.pth", "nowhere.pth: no such weight file"),
        ("nowhere", "nowhere: no such weight file"),
    ],
)
def test_misspelt_sources(source, message):
    assert said(source, "vit_shallow", re.escape(message)).startswith(source.split(":")[0])


def broken(folder: Path) -> dict[str, tuple[Path, str]]:
    """Kind of damage → what lies there and what is said."""
    tensors = shallow()
    safetensors.numpy.save_file(tensors, folder / "whole.safetensors")
    np.savez(folder / "whole.npz", **tensors)
    save_torch(folder / "whole.pth", tensors)
    cases = {}
    for suffix in (".safetensors", ".npz", ".pth"):
        data = (folder / f"whole{suffix}").read_bytes()
        for share in (0.001, 0.5, 0.999):
            path = folder / f"cut{share}{suffix}"
            path.write_bytes(data[: int(share * len(data))])
            cases[path.name] = path, f"{path.name}: not a complete"
    pointer = folder / "pointer.safetensors"
    pointer.write_bytes(files.LFS_POINTER + b"v1\noid sha256:0\nsize 1\n")
    cases["pointer"] = pointer, "Git LFS pointer, not the weights: run git lfs pull"
    (folder / "x.h5").write_bytes(b"")
    cases["suffix"] = folder / "x.h5", "not from '.h5'"
    (folder / "empty").mkdir()
    cases["folder"] = folder / "empty", "the folder holds neither model.safetensors nor pytorch_model.bin"
    (folder / "named.pth").mkdir()
    cases["named folder"] = folder / "named.pth", "the folder holds neither"
    (folder / "parts").mkdir()
    (folder / "parts" / "model.safetensors.index.json").write_text("{}")
    cases["parts"] = folder / "parts", "the weights are sharded (model.safetensors.index.json)"
    os.symlink(folder / "gone", folder / "link.pth")
    cases["link"] = folder / "link.pth", "no such weight file"
    # Whole files of something else.
    np.savez(folder / "other.npz", a=np.zeros(3))
    cases["other"] = folder / "other.npz", "not one name is this model's: the weights are of another"
    np.savez(folder / "fewer.npz", **{k: v for k, v in tensors.items() if k != "norm.bias"})
    cases["fewer"] = (
        folder / "fewer.npz",
        "fewer.npz: the tensors do not fit vit_shallow: 1 missing: norm.bias",
    )
    np.savez(folder / "wider.npz", **{**tensors, "norm.bias": np.zeros(257)})
    cases["wider"] = folder / "wider.npz", "1 of a wrong shape: norm.bias (257,) for params/norm/bias (256,)"
    np.savez(folder / "distilled.npz", dist_token=np.zeros((1, 1, 256)), **tensors)
    cases["distilled"] = folder / "distilled.npz", "dist_token: a distilled DeiT"
    return cases


def test_every_kind_of_damage_is_one_line_that_names_the_file(tmp_path):
    for kind, (path, message) in broken(tmp_path).items():
        line = said(path, "vit_shallow", re.escape(message))
        assert str(path) in line, kind


def test_a_wrong_name_is_said_before_anything_is_fetched(monkeypatch):
    asked = online(monkeypatch, lambda file: OSError("asked"))
    with pytest.raises(UserError, match="'resnet51' is not known"):
        pretrained.load("hub:timm/resnet51", "resnet51")
    assert asked == []


def test_a_text_source_is_a_whole_repository(tmp_path):
    with pytest.raises(UserError, match="a repository is expected, not one of its files"):
        hub.files("hub:a/b/model.safetensors")
    for name in ("load_text", "load_clip"):
        with pytest.raises(UserError, match=r"no folder with a config\.json"):
            getattr(pretrained, name)(tmp_path)
