"""Layers' distances and undecayed parameters of whole models, against tables written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fusionjax import config as config_lib
from fusionjax import models
from fusionjax.models import parameters, registry
from fusionjax.models.backbones.audio import Wav2Vec2
from fusionjax.models.backbones.mel import MelEncoder
from fusionjax.models.backbones.text import TextConfig, TextEncoder
from fusionjax.models.methods import spectral
from fusionjax.models.methods.fusion import FusionClassifier
from fusionjax.models.methods.image_text_with_encoders import ImageText
from fusionjax.models.methods.reid import ReID
from fusionjax.train import optim
from fusionjax.train.state import flatten

IMAGES = jnp.zeros((1, 32, 32, 3))


def vit(depth=2, **fields):
    return models.create(
        "vit_tiny_patch16_224", image_size=32, width=16, heads=2, depth=depth, num_classes=3, **fields
    )


def shapes(module, *inputs, **fields):
    return flatten(jax.eval_shape(module.init, jax.random.key(0), *inputs, **fields)["params"])


def factors(module, params, decay=0.5):
    """What a unit gradient becomes by plain SGD of rate 1, a number, or one a stacked block."""
    c = config_lib.default().optim
    c.name, c.learning_rate, c.schedule, c.momentum, c.layer_decay = "sgd", 1.0, "constant", 0.0, decay
    c.weight_decay = 0.0
    optimizer = optim.create(
        c, optim.unflatten(params), steps=1, steps_per_epoch=1, parameters=parameters.of(module)
    )
    ones = {name: jnp.ones(leaf.shape) for name, leaf in params.items()}
    updates, _ = optimizer.tx.update(ones, optimizer.tx.init(ones), ones)
    found = {}
    for name, update in updates.items():
        rows = np.asarray(-update).reshape(len(update) if update.ndim else 1, -1)
        assert (rows == rows[:, :1]).all(), name
        found[name] = rows[0, 0] if (rows == rows[0, 0]).all() else tuple(rows[:, 0].tolist())
    return found


def check(module, params, table):
    """`table`: beginning of a name → its factor, or one a block; the longest beginning counts."""
    found = factors(module, params)
    met = set()
    for name, value in found.items():
        start = max((key for key in table if name.startswith(key)), key=len)
        met.add(start)
        assert value == pytest.approx(table[start]), name
    assert met == set(table)


def test_vit():
    check(
        vit(),
        shapes(vit(), IMAGES),
        {
            "cls_token": 1 / 8,
            "pos_embed": 1 / 8,
            "patch_embed": 1 / 8,
            "blocks": (1 / 4, 1 / 2),
            "norm": 1,
            "head": 1,
        },
    )


def test_a_trained_trunk_lies_below_the_transformers_embedding():
    module = vit(trunk="resnetv2_50_s16", patch=1)
    blocks = [f"trunk/stage_{s}_block_{b}" for s, n in enumerate((3, 4, 9)) for b in range(n)]
    table = {f"{block}/": 2.0**-3 * 2.0 ** (i - 16) for i, block in enumerate(blocks)}
    table |= {"trunk/stem": 2.0**-3 * 2.0**-17, "cls_token": 1 / 8, "pos_embed": 1 / 8, "patch_embed": 1 / 8}
    check(module, shapes(module, IMAGES), {**table, "blocks": (1 / 4, 1 / 2), "norm": 1, "head": 1})


def test_neck_and_trunk_are_one_network():
    module = vit(
        depth=1, trunk="tf_efficientnet_lite0", trunk_features="stride32", train_trunk_from="stride16"
    )
    # 16 blocks, the last five after the map of stride 16; the transformer's embedding has the factor 1/4.
    table = {f"neck/block_{i}/": 2.0 ** (i - 16) / 4 for i in range(11, 16)}
    table |= {f"trunk/block_{i}/": 2.0 ** (i - 16) / 4 for i in range(11)}
    table |= {"trunk/stem": 2.0**-17 / 4, "cls_token": 1 / 4, "pos_embed": 1 / 4, "patch_embed": 1 / 4}
    check(module, shapes(module, IMAGES), {**table, "blocks": 1 / 2, "norm": 1, "head": 1})


def crossvit(**fields):
    sizes = dict(img_size=(48, 48), embed_dim=(12, 24), num_heads=(3, 3), depth=((1, 2, 0), (1, 2, 0)))
    return models.create("crossvit_9_240", **sizes, **fields)


def test_crossvit_counts_stages_as_timm_does():
    module = crossvit(num_classes=3)
    table = {"cls_token_": 1 / 8, "pos_embed_": 1 / 8, "patch_embed_": 1 / 8}
    table |= {"stage_0_": 1 / 4, "stage_1_": 1 / 2, "norm_": 1, "head_": 1}
    check(module, shapes(module, jnp.zeros((1, 48, 48, 3))), table)


def test_towers_of_contrastive_learning():
    fields = dict(image_size=32, width=16, heads=2, depth=2, num_classes=0)
    module = spectral.SpectralEncoder(
        lambda channels: models.create("vit_tiny_patch16_224", **fields),
        (("rgb", (0, 1, 2)), ("uv", (3, 4, 5))),
        projection=(8, 4),
    )
    table = {"head": 1}
    for tower in ("tower_rgb/", "tower_uv/"):
        table |= {f"{tower}{name}": 1 / 8 for name in ("cls_token", "pos_embed", "patch_embed")}
        table |= {f"{tower}blocks": (1 / 4, 1 / 2), f"{tower}norm": 1}
    check(module, shapes(module, jnp.zeros((1, 32, 32, 6))), table)


def image_text():
    trunk, grid = registry.tokens("efficientnet_lite0", image_size=64, features="stride16")
    text = TextEncoder(TextConfig(vocab=9, width=8, layers=2, heads=2, ffn=8, positions=6))
    fusion = FusionClassifier(grid=grid, num_classes=3, width=8, depth=2, heads=2, head="bottleneck")
    return ImageText(trunk, fusion, text)


def image_text_shapes():
    words = jnp.ones((1, 4), jnp.int32)
    return shapes(image_text(), jnp.zeros((1, 64, 64, 3)), tokens=words, text_mask=words > 0)


def test_both_encoders_of_an_image_text_model():
    table = {f"trunk/block_{i}/": 2.0 ** (i - 11) for i in range(11)} | {"trunk/stem": 2.0**-12, "fusion": 1}
    table |= {f"text/{name}": 1 / 8 for name in ("words", "positions", "types", "norm")}
    check(image_text(), image_text_shapes(), {**table, "text/layers": (1 / 4, 1 / 2), "text/pooler": 1})


def test_encoders_of_sound():
    module = Wav2Vec2(width=16, depth=2, heads=2, hidden=16, conv_width=8, pos_groups=2)
    table = dict.fromkeys(("conv_", "feature_", "masked_embedding", "pos_conv", "norm"), 1 / 4)
    # No head: what reads the last layer is one step above it.
    table = {name: value / 2 for name, value in table.items()} | {"layers": (1 / 4, 1 / 2)}
    check(module, shapes(module, jnp.zeros((1, 4000))), table)
    module = MelEncoder(width=16, depth=2, heads=2)
    table = {"conv_": 1 / 8, "proj": 1 / 8, "block_0": 1 / 4, "block_1": 1 / 2, "norm": 1}
    check(module, shapes(module, jnp.zeros((1, 16, 8))), table)


def undecayed(module, params):
    """Names that a step of weight decay alone leaves as they are."""
    c = config_lib.default().optim
    c.name, c.learning_rate, c.schedule, c.weight_decay = "adamw", 1.0, "constant", 0.1
    optimizer = optim.create(
        c, optim.unflatten(params), steps=1, steps_per_epoch=1, parameters=parameters.of(module)
    )
    ones = {name: jnp.ones(leaf.shape) for name, leaf in params.items()}
    zeros = jax.tree.map(jnp.zeros_like, ones)
    updates, _ = optimizer.tx.update(zeros, optimizer.tx.init(ones), ones)
    moved = optax.apply_updates(ones, updates)
    return {name for name, value in moved.items() if (value == 1).all()}


def others(names):
    """Those that are neither biases nor scales of norms."""
    return {name for name in names if name.split("/")[-1] not in ("bias", "scale")}


def test_tokens_and_positions_of_every_branch_are_not_decayed():
    module = crossvit()
    found = undecayed(module, shapes(module, jnp.zeros((1, 48, 48, 3))))
    assert others(found) == {"cls_token_0", "cls_token_1", "pos_embed_0", "pos_embed_1"}
    assert "stage_0_branch_1/mlp/fc1/bias" in found and "norm_1/scale" in found


def test_the_camera_embedding_of_re_identification_is_not_decayed():
    backbone = models.create(
        "dcal_vit_tiny_patch16_224", image_size=32, width=16, heads=2, depth=2, num_classes=0, cameras=4
    )
    module = ReID(backbone, 5)
    found = undecayed(module, shapes(module, IMAGES, camera=jnp.zeros((1,), jnp.int32)))
    want = {
        "cls_token",
        "pos_embed",
        "camera_embed",
        "log_variance_sa",
        "log_variance_glca",
        "log_variance_pwca",
    }
    assert others(found) == want and {"neck_sa/scale", "glca_block/norm1/scale"} <= found


def test_bottleneck_tokens_and_the_texts_positions_are_not_decayed():
    found = undecayed(image_text(), image_text_shapes())
    assert others(found) == {"fusion/fusion_head/bottleneck", "text/positions"}


def test_the_learned_queries_and_the_logit_scale_are_not_decayed():
    module = spectral.SpectralEncoder(
        lambda channels: models.create("tf_efficientnet_lite0", output="tokens"),
        (("rgb", (0, 1, 2)), ("uv", (3, 4, 5))),
        fusion="attention",
        projection=(8, 4),
        log_scale=1.0,
    )
    found = undecayed(module, shapes(module, jnp.zeros((1, 32, 32, 6))))
    assert others(found) == {"query/token_rgb", "query/token_uv", "log_scale"}
