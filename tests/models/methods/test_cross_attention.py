"""Cross-attention, token blocks and positions against NumPy; masks, shared keys, dropout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.errors import UserError
from fusionjax.models.methods import token_blocks
from fusionjax.models.methods.cross_attention import BidirectionalStack, CrossAttention, sincos_2d
from tests.support import fusion_oracle

MODULE = CrossAttention(width=8, heads=2, out_width=6)


def draw(shapes, seed=0):
    """Random variables of full size: at the initial ones attention is nearly uniform and hides mistakes."""
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        values = rng.standard_normal(shape.shape).astype(np.float32)
        # Size by fan-in: larger ones make saturated maps, in which rounding grows from layer to layer.
        size = 1.5 * shape.shape[-2] ** -0.5 if path[-1].key == "kernel" else 0.3
        return values * size + (1 if path[-1].key == "scale" else 0)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def shapes_of(module, *inputs, **options):
    return jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, **options))


@functools.partial(jax.jit, static_argnums=0, static_argnames=("capture", "train", "method"))
def run(module, variables, *inputs, capture=(), train=False, key=None, method=None):
    """Compiled once a module and shape, for all tests."""
    rngs = {} if key is None else {"dropout": key}
    return module.apply(variables, *inputs, capture=capture, train=train, rngs=rngs, method=method)


@pytest.fixture
def inputs(rng):
    """Queries, keys and values of three widths, and their module's variables."""
    queries, keys, values = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((3, 4, 5), (3, 7, 9), (3, 7, 10))
    )
    return draw(shapes_of(MODULE, queries, keys, values)), queries, keys, values


MASK = np.arange(7) < np.array([7, 3, 1])[:, None]


@pytest.mark.parametrize("kind", ["none", "keys", "queries", "shared"])
def test_equals_the_equations(inputs, rng, kind):
    variables, queries, keys, values = inputs
    mask = {"none": None, "keys": MASK, "queries": rng.random((3, 4, 7)) < 0.6, "shared": MASK[1:2]}[kind]
    if kind == "queries":
        mask[..., 0] = True
    if kind == "shared":
        keys, values = keys[:1], values[:1]
    out, aux = run(MODULE, variables, queries, keys, values, mask, capture=("attention",))
    each = [np.repeat(x, 3, 0) if kind == "shared" else x for x in (keys, values)]
    expected, weights = fusion_oracle.attention(variables["params"], queries, *each, 2, mask)
    assert out.shape == (3, 4, 6) and aux["attention"].shape == (3, 2, 4, 7)
    np.testing.assert_allclose(out, expected, atol=2e-5)
    np.testing.assert_allclose(aux["attention"], weights, atol=1e-6)
    quiet, nothing = run(MODULE, variables, queries, keys, values, mask)
    np.testing.assert_allclose(quiet, out, atol=1e-6)
    assert not nothing


def test_shared_keys_with_a_mask_of_each_query(inputs, rng):
    variables, queries, keys, values = inputs
    mask = rng.random((3, 4, 7)) < 0.7
    mask[..., 0] = True
    out, _ = run(MODULE, variables, queries, keys[:1], values[:1], mask)
    expected, _ = fusion_oracle.attention(
        variables["params"], queries, *(np.repeat(x[:1], 3, 0) for x in (keys, values)), 2, mask
    )
    np.testing.assert_allclose(out, expected, atol=2e-5)


def test_a_query_without_any_key_gives_zero_and_finite_gradients(inputs):
    variables, queries, keys, values = inputs
    mask = MASK & (np.arange(3) != 1)[:, None]

    def value(variables, *inputs):
        out, aux = MODULE.apply(variables, *inputs, mask, capture=("attention",))
        return (out**2).sum(), (out, aux["attention"])

    grads, (out, weights) = jax.jit(jax.grad(value, argnums=(0, 1, 2, 3), has_aux=True))(
        variables, queries, keys, values
    )
    assert not np.asarray(out)[1].any() and not np.asarray(weights)[1].any()
    assert np.asarray(out)[[0, 2]].all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    for grad in grads[1:]:
        assert not np.asarray(grad)[1].any() and np.asarray(grad)[0].any()


def test_a_query_without_any_key_in_blocks(rng):
    module = CrossAttention(width=8, heads=2)
    x = rng.standard_normal((3, 7, 8)).astype(np.float32)
    variables = draw(shapes_of(module, x, x))
    mask = MASK & (np.arange(3) != 1)[:, None]

    def value(x):
        out, aux = module.apply(
            variables, x, token_blocks.split(x, mask, 4), capture=("attention",), method="over_blocks"
        )
        return (out**2).sum(), (out, aux["attention"])

    grad, (out, weights) = jax.jit(jax.grad(value, has_aux=True))(x)
    expected, maps = fusion_oracle.attention(variables["params"], x, x, x, 2, mask)
    np.testing.assert_allclose(out, expected, atol=2e-5)
    np.testing.assert_allclose(token_blocks.join_maps(weights, 7, 3), maps, atol=1e-6)
    assert not np.asarray(out)[1].any() and np.isfinite(grad).all() and not np.asarray(grad)[1].any()


def test_blocks_have_the_gradients_of_the_plain_form(rng):
    module = CrossAttention(width=8, heads=2)
    x, y = (rng.standard_normal((3, n, 8)).astype(np.float32) for n in (4, 7))
    variables = draw(shapes_of(module, x, y))

    @functools.partial(jax.grad, argnums=(0, 1, 2))
    def blocks(variables, x, y):
        out, _ = module.apply(variables, x, token_blocks.split(y, MASK, 4), method="over_blocks")
        return (out**2).sum()

    @functools.partial(jax.grad, argnums=(0, 1, 2))
    def plain(variables, x, y):
        return (module.apply(variables, x, y, None, MASK)[0] ** 2).sum()

    for one, two in zip(
        *(jax.tree.leaves(jax.jit(f)(variables, x, y)) for f in (blocks, plain)), strict=True
    ):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)


def test_large_scores_stay_finite(rng):
    q = 1e4 * jnp.asarray(rng.standard_normal((1, 1, 3, 4)), jnp.float32)
    k, mask = q[None].repeat(3, 0), jnp.ones((3, 1, 3), bool)
    k = k * jnp.arange(1, 4)[:, None, None, None, None]
    out, _ = token_blocks.attention(q, k, k, mask)
    whole = k.transpose(1, 2, 0, 3, 4).reshape(1, 1, 9, 4)
    scores = np.asarray(q[0, 0], np.float64) @ np.asarray(whole[0, 0], np.float64).T
    np.testing.assert_allclose(out[0, 0], np.asarray(whole)[0, 0][scores.argmax(1)], rtol=1e-5)


@pytest.mark.parametrize("blocked", [False, True])
def test_dropout_is_of_the_map_and_the_map_is_from_before(rng, blocked):
    module = CrossAttention(width=8, heads=2, dropout=0.5)
    x = rng.standard_normal((2, 64, 8)).astype(np.float32)
    variables = draw(shapes_of(module, x, x))
    mask = np.arange(64) < np.array([64, 40])[:, None]
    arguments = (x, token_blocks.split(x, mask, 16)) if blocked else (x, x, None, mask)
    method = "over_blocks" if blocked else None
    calm, seen = run(module, variables, *arguments, capture=("attention",), method=method)
    noisy = [
        run(
            module,
            variables,
            *arguments,
            capture=("attention",),
            method=method,
            train=True,
            key=jax.random.key(i),
        )
        for i in range(40)
    ]
    np.testing.assert_allclose(noisy[0][1]["attention"], seen["attention"], atol=1e-6)
    assert np.abs(noisy[0][0] - noisy[1][0]).max() > 0.1
    # Kept weights are scaled by 1 / (1 − rate): over many draws the mean is what it is without dropout.
    spread = np.std([out for out, _ in noisy], axis=0) / np.sqrt(len(noisy))
    error = np.abs(np.mean([out for out, _ in noisy], axis=0) - calm) / (spread + 1e-3)
    assert np.mean(error) < 1.2 and error.max() < 6


@pytest.mark.parametrize("grid, width", [((2, 3), 8), ((1, 5), 12), ((7, 4), 16)])
def test_positions(grid, width):
    got = sincos_2d(grid, width)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, fusion_oracle.positions(*grid, width), atol=1e-6)
    assert len(np.unique(got, axis=0)) == grid[0] * grid[1]


def test_positions_of_a_width_that_does_not_divide():
    with pytest.raises(UserError, match="width=10 must be a multiple of 4"):
        sincos_2d((2, 2), 10)


@pytest.mark.usefixtures("unchecked")
def test_messages(inputs):
    variables, queries, keys, values = inputs
    with pytest.raises(UserError, match="heads=3 must divide width=8"):
        CrossAttention(width=8, heads=3).init(jax.random.key(0), queries, keys)
    with pytest.raises(ValueError, match=r"mask \(3, 4\) is neither"):
        MODULE.apply(variables, queries, keys, values, MASK[:, :4])


@pytest.fixture
def stack(rng):
    module = BidirectionalStack(width=8, heads=2, depth=2, mlp_ratio=2.0, dropout=0.1)
    image, text = (rng.standard_normal((3, n, 8)).astype(np.float32) for n in (5, 7))
    blocks = token_blocks.split(text, MASK, 4)
    return module, draw(shapes_of(module, image, blocks, train=False)), image, text


MAPS = ("image_to_text", "text_to_image")


def test_layers_equal_the_equations_and_read_the_updated_image(stack):
    module, variables, image, text = stack
    v, t, maps = run(module, variables, image, token_blocks.split(text, MASK, 4), capture=MAPS)
    one, two = np.float64(image), np.where(MASK[..., None], np.float64(text), 0)
    for index in range(2):
        params = fusion_oracle.take(variables["params"]["layers"], index)
        one, two, to_text, to_image = fusion_oracle.layer(params, one, two, MASK, 2)
        np.testing.assert_allclose(
            token_blocks.join_maps(maps["image_to_text"][index], 7, 3), to_text, atol=1e-5
        )
        np.testing.assert_allclose(
            token_blocks.join_maps(maps["text_to_image"][index], 7, 2), to_image, atol=1e-5
        )
    np.testing.assert_allclose(v, one, atol=1e-4)
    joined = np.asarray(t.tokens).swapaxes(0, 1).reshape(3, 8, 8)[:, :7]
    np.testing.assert_allclose(joined[MASK], two[MASK], atol=1e-4)


@pytest.mark.parametrize("depth", [1, 3])
def test_one_text_for_all_images_is_that_text_for_each(rng, depth):
    module = BidirectionalStack(width=8, heads=2, depth=depth, mlp_ratio=2.0)
    image, text = rng.standard_normal((3, 5, 8)).astype(np.float32), rng.standard_normal((1, 7, 8))
    one = token_blocks.split(jnp.float32(text), MASK[1:2], 4)
    variables = draw(shapes_of(module, image, one, train=False))
    shared = run(module, variables, image, one, capture=MAPS)
    copied = run(module, variables, image, one.broadcast(3), capture=MAPS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), shared, copied)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(
        jnp.shape, shapes_of(module, image, one.broadcast(3), train=False)
    )


def test_recomputation_changes_nothing(stack):
    module, variables, image, text = stack
    blocks = token_blocks.split(text, MASK, 0)

    def grad(module):
        def value(variables):
            v, t, _ = module.apply(variables, image, blocks, train=False)
            return (v**2).sum() + token_blocks.masked_mean(t).sum()

        return jax.jit(jax.grad(value))(variables)

    for a, b in zip(*(jax.tree.leaves(grad(m)) for m in (module, module.clone(remat=True))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)
