"""EfficientNet, ResNet and their convolutions: shapes, sizes, equalities, batch statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.errors import UserError
from fusionjax.models.backbones import efficientnet, resnet
from fusionjax.models.backbones.conv import chunk_size, depthwise_conv2d, edge_padding

PARAMETERS = {
    "efficientnet_lite0": 4_652_008,
    "tf_efficientnet_lite0": 4_652_008,
    "efficientnet_lite1": 5_416_680,
    "tf_efficientnet_lite1": 5_416_680,
    "efficientnet_lite2": 6_092_072,
    "tf_efficientnet_lite2": 6_092_072,
    "efficientnet_b0": 5_288_548,
    "efficientnet_b1": 7_794_184,
    "efficientnet_b2": 9_109_994,
    "efficientnet_b3": 12_233_232,
    "efficientnet_b4": 19_341_616,
    "efficientnet_b5": 30_389_784,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    # The trunk alone and 1,024 × 1,000 + 1,000 of a head.
    "resnetv2_50_s16": 11_894_848 + 1_025_000,
}


def build(name, **overrides):
    return (resnet if name in resnet.NAMES else efficientnet).build(name, **overrides)


def small(name, **overrides):
    """The same network with one block a stage: as many kinds of layers, a fraction of the compilation."""
    fewer = {"layers": (1, 1)} if name in resnet.NAMES else {"depth": 0.1}
    return build(name, **fewer, **overrides)


def images(size, batch=2, channels=3):
    return np.random.default_rng(0).standard_normal((batch, size, size, channels)).astype(np.float32)


def init(model, x):
    """Random variables drawn by NumPy: compiling the initialisers costs more than the tests."""
    rng = np.random.default_rng(3)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            fan_in = max(1, leaf.size // leaf.shape[-1])
            return (rng.standard_normal(leaf.shape) * (2 / fan_in) ** 0.5).astype(np.float32)
        low = 0.5 if name in ("scale", "var") else -0.2
        return rng.uniform(low, low + 1, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes(model, x.shape[1]))


def shapes(model, size=64):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", [*PARAMETERS, "tf_efficientnet_b0"])
def test_parameter_counts(name):
    assert count(shapes(build(name))["params"]) == PARAMETERS[name.removeprefix("tf_")]


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("size", [7, 8])
def test_depthwise_taps_equal_the_grouped_convolution(kernel, stride, padding, size):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, size, size + 3, 6)).astype(np.float32)
    weights = rng.standard_normal((kernel, kernel, 1, 6)).astype(np.float32)

    def run(method):
        def total(x, weights):
            y = depthwise_conv2d(x, weights, stride=stride, padding=padding, method=method)
            return jnp.sum(jnp.sin(y)), y

        return jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(x, weights)

    (_, taps), gradients = run("taps")
    (_, grouped), expected = run("conv")
    assert taps.shape == grouped.shape
    np.testing.assert_allclose(taps, grouped, atol=1e-5)
    for got, want in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(got, want, atol=3e-5)


def test_padding_rules():
    assert edge_padding("same", 8, 3, 2) == (0, 1)
    assert edge_padding("same", 7, 3, 2) == (1, 1)
    assert edge_padding("same", 8, 1, 2) == (0, 0)
    assert edge_padding("symmetric", 8, 3, 2) == (1, 1)
    assert edge_padding("symmetric", 8, 7, 2) == (3, 3)
    with pytest.raises(UserError, match="'valid' is not one of same, symmetric"):
        edge_padding("valid", 8, 3, 1)


@pytest.mark.parametrize(
    ("name", "features", "shape"),
    [
        ("tf_efficientnet_lite0", "head", (2, 2, 1280)),
        ("tf_efficientnet_lite0", "stride32", (2, 2, 320)),
        ("tf_efficientnet_lite0", "stride16", (4, 4, 112)),
        ("efficientnet_b3", "head", (2, 2, 1536)),
        ("resnet50", "last", (2, 2, 2048)),
        ("resnet50", "stride16", (4, 4, 1024)),
        ("resnetv2_50_s16", "last", (4, 4, 1024)),
    ],
)
def test_outputs(name, features, shape):
    x = jax.ShapeDtypeStruct((3, 64, 64, 3), jnp.float32)
    for output, expected in (("tokens", shape), ("pooled", shape[-1:]), ("logits", (5,))):
        model = build(name, output=output, features=features, num_classes=5)
        variables = shapes(model)
        result, aux = jax.eval_shape(model.apply, variables, x)
        assert result.shape == (3, *expected)
        assert aux == {}
        assert ("head" in variables["params"]) == (output == "logits")
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_capture_returns_the_maps_and_refuses_others():
    model = build("tf_efficientnet_lite0", output="pooled")
    x = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    _, aux = jax.eval_shape(lambda v, x: model.apply(v, x, capture=("stride16", "head")), shapes(model), x)
    assert {name: leaf.shape for name, leaf in aux.items()} == {
        "stride16": (2, 4, 4, 112),
        "head": (2, 2, 2, 1280),
    }
    with pytest.raises(UserError, match="capture 'attention' is not one of stride16"):
        jax.eval_shape(lambda v, x: model.apply(v, x, capture=("attention",)), shapes(model), x)


@pytest.mark.parametrize("family", [efficientnet, resnet])
def test_unknown_settings_are_refused(family):
    with pytest.raises(UserError, match="'vgg' is not one of"):
        family.build("vgg")
    with pytest.raises(UserError, match="has no field 'colour'; it has"):
        family.build(family.NAMES[0], colour="blue")
    with pytest.raises(UserError, match="output 'map' is not one of logits, pooled, tokens"):
        shapes(family.build(family.NAMES[0], output="map"))
    with pytest.raises(UserError, match="features 'stride4' is not one of"):
        shapes(family.build(family.NAMES[0], features="stride4"))


@pytest.mark.parametrize("name", ["efficientnet_b0", "resnetv2_50_s16"])
def test_jit_equals_eager_and_an_example_does_not_see_its_batch(name):
    x = images(32, batch=3)
    fewer = {"layers": (1,)} if name in resnet.NAMES else {"depth": 0.1, "features": "stride16"}
    model = build(name, output="tokens", **fewer)
    variables = init(model, x)
    eager = model.apply(variables, x)[0]
    apply = jax.jit(lambda x: model.apply(variables, x)[0])
    assert np.isfinite(eager).all()
    np.testing.assert_allclose(apply(x), eager, atol=1e-5 * np.abs(eager).max())
    np.testing.assert_allclose(apply(x[1:2]), eager[1:2], atol=1e-5 * np.abs(eager).max())


def test_chunks_equal_the_whole_batch():
    x = images(96, batch=16)
    whole = small("tf_efficientnet_lite0", features="stride16", output="tokens", chunked=False)
    chunked = small("tf_efficientnet_lite0", features="stride16", output="tokens")
    variables = init(whole, x)
    want, _ = jax.jit(whole.apply)(variables, x)
    got, aux = jax.jit(lambda v, x: chunked.apply(v, x, capture=("stride16",)))(variables, x)
    if jax.default_backend() == "cpu" and jax.device_count() == 1:
        assert chunk_size(x.shape) == 8
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
    np.testing.assert_array_equal(aux["stride16"], got)


@pytest.mark.parametrize(
    ("shape", "size"),
    [((32, 128, 128, 3), 8), ((32, 224, 224, 3), 2), ((4, 64, 64, 3), None), ((31, 128, 128, 3), None)],
)
def test_chunk_sizes(shape, size, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert chunk_size(shape) == size
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert chunk_size(shape) is None


@pytest.mark.parametrize("name", ["efficientnet_b0", "resnet50"])
def test_training_moves_the_statistics_and_evaluation_does_not(name):
    model = small(name, output="pooled", features="stride16", drop_path=0.2, momentum=0.9)
    x = images(32, batch=4)
    variables = init(model, x)

    def loss(params, train):
        (pooled, _), new = model.apply(
            {**variables, "params": params},
            x,
            train=train,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(1)},
        )
        return jnp.square(pooled).mean(), new["batch_stats"]

    _, still = jax.jit(loss, static_argnums=1)(variables["params"], False)
    assert jax.tree.all(jax.tree.map(np.array_equal, still, variables["batch_stats"]))
    step = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    (value, moved), gradients = step(variables["params"], True)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    unmoved = jax.tree.map(np.array_equal, moved, variables["batch_stats"])
    assert not any(jax.tree.leaves(unmoved))
    # The stem's statistics are those of its convolution of this batch, weighted 1 − momentum.
    stem = variables["params"]["stem"]["kernel"]
    pads = [edge_padding(model.padding, 32, stem.shape[0], 2)] * 2
    numbers = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, stem, (2, 2), pads, dimension_numbers=numbers)
    before = variables["batch_stats"]["stem"]
    np.testing.assert_allclose(
        moved["stem"]["mean"], 0.9 * before["mean"] + 0.1 * y.mean((0, 1, 2)), atol=1e-5
    )
    np.testing.assert_allclose(moved["stem"]["var"], 0.9 * before["var"] + 0.1 * y.var((0, 1, 2)), atol=1e-5)


def test_bfloat16_computes_in_bfloat16_and_stays_close():
    x = images(64)
    settings = {"features": "stride16", "output": "tokens"}
    model, half = (
        small("tf_efficientnet_lite0", **settings),
        small("tf_efficientnet_lite0", **settings, dtype=jnp.bfloat16),
    )
    variables = init(model, x)
    want, _ = jax.jit(model.apply)(variables, x)
    got, _ = jax.jit(half.apply)(variables, x)
    assert got.dtype == jnp.bfloat16
    error = np.abs(got.astype(np.float32) - want).mean()
    assert error < 0.1 * np.abs(want).mean()


@pytest.mark.parametrize("build", [resnet.build, efficientnet.build])
def test_the_classifier_is_computed_in_float32(build):
    """As ViT's: the logits of a network in bfloat16 are its pooled features times the float32 weights, to the last digits."""
    name = "resnet50" if build is resnet.build else "tf_efficientnet_lite0"
    model = build(name, num_classes=5, dtype=jnp.bfloat16)
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    variables = jax.jit(model.init)(jax.random.key(1), images)
    logits, _ = jax.jit(model.apply)(variables, images)
    pooled, _ = jax.jit(model.clone(output="pooled").apply)(variables, images)
    head = jax.device_get(variables["params"]["head"])
    want = np.asarray(pooled, np.float64) @ head["kernel"].astype(np.float64) + head["bias"]
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, want, rtol=1e-5, atol=1e-6)
