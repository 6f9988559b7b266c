"""CrossViT: shapes, branches, capture, randomness, and what it refuses. Its sizes are in test_cards."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.errors import UserError
from fusionjax.models import create
from fusionjax.models.backbones.crossvit import CrossViT
from fusionjax.models.backbones.vit import Block
from fusionjax.models.layers import LayerNorm
from fusionjax.models.resize import bicubic_weights, resize_bicubic

SMALL = dict(
    img_size=(24, 32),
    patch_size=(12, 16),
    num_classes=5,
    embed_dim=(8, 16),
    depth=((1, 2, 0), (0, 1, 1)),
    num_heads=(2, 4),
    mlp_ratio=(2, 3),
)
ONE_STAGE = SMALL | dict(depth=((0, 2, 0),))
THREE = SMALL | dict(
    img_size=(24, 32, 20),
    patch_size=(12, 16, 4),
    embed_dim=(8, 16, 12),
    depth=((0, 2, 1, 2),),
    num_heads=(2, 4, 3),
    mlp_ratio=(2, 3, 1),
)


def images(model, batch=2):
    shape = (batch, *model.sizes[0], model.in_channels)
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def started(**fields):
    """A small model, random variables and images."""
    model = CrossViT(**{**SMALL, **fields})
    x = images(model)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.4, leaf.dtype), shapes)
    return model, variables, x


def run(model, variables, x, **settings):
    """Compiled: op by op takes ten times as long."""
    return jax.jit(functools.partial(model.apply, **settings))(variables, x)


def test_jit_equals_eager_and_every_parameter_matters():
    model, variables, x = started(depth=((0, 2, 0),), embed_dim=(8, 8), num_heads=(2, 2), mlp_ratio=(2, 2))
    want, aux = model.apply(variables, x)
    assert want.shape == (2, 5) and want.dtype == jnp.float32
    assert aux.keys() == {"features"} and aux["features"].shape == (2, sum(model.embed_dim))
    got, _ = jax.jit(model.apply)(variables, x)
    np.testing.assert_allclose(got, want, atol=1e-5)

    def loss(params):
        logits, _ = model.apply({"params": params}, x)
        return (logits * jnp.arange(10.0).reshape(2, 5)).sum()

    gradients = jax.jit(jax.grad(loss))(variables["params"])
    for path, leaf in jax.tree.leaves_with_path(gradients):
        text = jax.tree_util.keystr(path)
        assert np.isfinite(leaf).all(), text
        # The keys' bias cancels in the softmax.
        if "'k_" not in text or "kernel" in text:
            assert np.abs(leaf).max() > 0, text


@pytest.mark.parametrize("fields", [{"multi_conv": True}, THREE], ids=["two", "three"])
def test_captured_maps_are_attention_and_do_not_move_the_output(fields):
    model, variables, x = started(**fields)
    want, _ = run(model, variables, x)
    got, aux = run(model, variables, x, capture=("attention", "features", "tokens"))
    np.testing.assert_allclose(got, want, atol=1e-5)
    count = len(model.patch_size)
    tokens = [h * w // patch**2 + 1 for (h, w), patch in zip(model.sizes, model.patch_size, strict=True)]
    maps = dict(aux["attention"])
    for stage, depths in enumerate(model.depth):
        for i in range(count):
            j = (i + 1) % count
            if depths[i]:
                own = maps.pop(f"stage_{stage}/branch_{i}")
                assert own.shape == (depths[i], 2, model.num_heads[i], tokens[i], tokens[i])
                np.testing.assert_allclose(own.sum(-1), 1, rtol=1e-5)
            fused = maps.pop(f"stage_{stage}/fusion_{i}")
            assert fused.shape == (max(1, depths[-1]), 2, model.num_heads[j], 1, tokens[j])
            np.testing.assert_allclose(fused.sum(-1), 1, rtol=1e-5)
    assert not maps
    for i, part in enumerate(aux["tokens"]):
        assert part.shape == (2, tokens[i], model.embed_dim[i])
    cls = jnp.concatenate([part[:, 0] for part in aux["tokens"]], -1)
    np.testing.assert_allclose(cls, aux["features"], atol=1e-6)


def test_fusion_reads_what_the_others_were_before_it():
    """The order of the branches does not matter: swapped branches with swapped weights give the same."""
    model, variables, _ = started(img_size=(48, 48))
    swapped = CrossViT(
        **{
            key: tuple(reversed(value))
            if key in ("patch_size", "embed_dim", "num_heads", "mlp_ratio")
            else value
            for key, value in (SMALL | dict(img_size=(48, 48), depth=((2, 1, 0), (1, 0, 1)))).items()
        }
    )
    x = images(model)

    def other(name):
        return f"{name[:-1]}{1 - int(name[-1])}"

    params = {other(name): value for name, value in variables["params"].items()}
    want, _ = run(model, variables, x)
    got, _ = run(swapped, {"params": params}, x)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_no_classes_gives_the_features():
    model, variables, x = started(num_classes=0)
    out, aux = run(model, variables, x)
    assert np.array_equal(out, aux["features"]) and out.shape == (2, 24)


def test_training_draws_from_the_key_and_rates_rise():
    model, variables, x = started(
        depth=ONE_STAGE["depth"], drop_rate=0.1, attn_drop_rate=0.2, drop_path_rate=0.3
    )
    draw = jax.jit(lambda key: model.apply(variables, x, train=True, rngs={"dropout": key})[0])
    first, second = draw(jax.random.key(0)), draw(jax.random.key(1))
    assert np.array_equal(first, draw(jax.random.key(0))) and not np.array_equal(first, second)
    rates = CrossViT(**SMALL, drop_path_rate=0.3)._rates()
    np.testing.assert_allclose(np.concatenate(rates), [0, 0.1, 0.2, 0.3], atol=1e-6)
    plain = CrossViT(**ONE_STAGE)
    still = run(plain, variables, x, train=True, rngs={"dropout": jax.random.key(0)})[0]
    np.testing.assert_allclose(still, run(plain, variables, x)[0], atol=1e-5)


def test_scale_bias_norm_remat_and_dtype_are_obeyed():
    model, variables, x = started(**ONE_STAGE)
    want, _ = run(model, variables, x)
    for fields, equal in (({"remat": True}, True), ({"qk_scale": 0.8}, False)):
        got, _ = run(CrossViT(**ONE_STAGE, **fields), variables, x)
        assert np.allclose(got, want, atol=1e-5) == equal
    # d is 4 in both branches, so 1 / √d written out changes nothing.
    got, _ = run(CrossViT(**ONE_STAGE, qk_scale=4**-0.5), variables, x)
    np.testing.assert_allclose(got, want, atol=1e-5)
    bare = jax.eval_shape(CrossViT(**ONE_STAGE, qkv_bias=False).init, jax.random.key(0), x)["params"]
    assert "bias" not in bare["stage_0_branch_1"]["qkv"] and "bias" not in bare["stage_0_fusion_1"]["q_0"]
    half, _ = run(CrossViT(**ONE_STAGE, dtype=jnp.bfloat16), variables, x)
    assert half.dtype == jnp.float32 and np.abs(half - want).max() < 0.1 * np.abs(want).max()

    class Doubled(LayerNorm):
        def __call__(self, x):
            return 2 * super().__call__(x)

    other, _ = run(CrossViT(**ONE_STAGE, norm_layer=Doubled), variables, x)
    assert np.abs(other - want).max() > 0.1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(embed_dim=(8, 16, 24)), "embed_dim has 3 entries and patch_size has 2"),
        (dict(num_heads=(2,)), "num_heads has 1 entries and patch_size has 2"),
        (dict(img_size=(24,)), "img_size has 1 entries and patch_size has 2"),
        (dict(mlp_ratio=(2,)), "mlp_ratio has 1 entries and patch_size has 2"),
        (dict(depth=((1, 2, 0), (1, 2))), r"depth\[1\] has 2 entries and patch_size has 2"),
        (dict(patch_size=(12,)), "two or more"),
        (dict(img_size=(25, 32)), "multiple of its branch's patch_size=12"),
        (dict(num_heads=(3, 4)), "num_heads=3 must divide embed_dim=8"),
        (dict(multi_conv=True, patch_size=(8, 16)), "multi_conv is defined for 12, 16"),
        (dict(drop_path_rate=1.0), "drop_path_rate=1.0"),
    ],
)
def test_what_cannot_be_is_refused_at_once(fields, message):
    with pytest.raises(UserError, match=message):
        CrossViT(**{**SMALL, **fields})


def test_wrong_images_and_captures_are_refused():
    model, variables, x = started()
    with pytest.raises(ValueError, match="was built for"):
        model.apply(variables, x[:, :20])
    with pytest.raises(UserError, match="'maps' is not one of"):
        model.apply(variables, x, capture=("maps",))


def test_another_number_of_branches_is_one_line():
    with pytest.raises(
        UserError, match=r"patch_size=\(8, 12, 16\): crossvit_9_240 has 2 branches; .* give img_size"
    ):
        create("crossvit_9_240", num_classes=2, image_size=240, patch_size=(8, 12, 16))


def test_names_take_the_other_models_fields():
    model = create("crossvit_15_dagger_240", num_classes=7, image_size=480, drop_path=0.1, dropout=0.2)
    assert model.sizes == ((480, 480), (448, 448)) and model.multi_conv
    assert (model.drop_path_rate, model.drop_rate, model.num_classes) == (0.1, 0.2, 7)
    assert create("crossvit_18_dagger_408").sizes == ((408, 408), (384, 384))
    with pytest.raises(UserError, match="widht"):
        create("crossvit_9_240", widht=3)


def test_bicubic_weights_are_torch_s():
    # Worked by hand from Keys' kernel with A = −0.75: the centre of a 2× enlargement lies a quarter from a sample.
    near = lambda d: (1.25 * d - 2.25) * d * d + 1  # noqa: E731
    far = lambda d: -0.75 * (((d - 5) * d + 8) * d - 4)  # noqa: E731
    np.testing.assert_allclose(
        bicubic_weights(8, 16)[7, 2:6], [far(1.25), near(0.25), near(0.75), far(1.75)], atol=1e-6
    )
    for old, new in ((240, 224), (5, 5), (7, 30), (30, 7)):
        weights = bicubic_weights(old, new)
        np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
        assert ((weights != 0).sum(1) <= 4).all(), "no antialias"
    x = jnp.ones((1, 6, 6, 3))
    assert resize_bicubic(x, (6, 6)) is not None and np.allclose(resize_bicubic(x, (4, 9)), 1)


def test_blocks_of_the_plain_vit_are_unchanged():
    """The fields that CrossViT added to the shared block default to what the ViT has."""
    block = Block(heads=2, hidden=8)
    assert (block.qkv_bias, block.qk_scale, block.attention_dropout, block.norm) == (
        True,
        None,
        0.0,
        LayerNorm,
    )
