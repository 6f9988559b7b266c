"""A transformer whose lower blocks are frozen is the whole one: outputs, rollout, weights, and the features in between."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import models
from fusionjax.errors import UserError
from fusionjax.interpret import capture
from fusionjax.models import parameters, registry
from fusionjax.models.rollout import cls_rollout_from_qk, matrix_from_qk

SMALL = dict(width=16, depth=3, heads=2, patch=8, image_size=(32, 24), num_classes=3, mlp_ratio=2.0, registers=2,
             layer_scale=0.5)  # fmt: skip


def create(kind="dcal_", **fields):
    return models.create(f"{kind}vit_shallow", **{**SMALL, **fields})


@pytest.fixture(scope="module")
def whole():
    """A whole DCAL, its variables, far from gentle initial values, and images."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 32, 24, 3)).astype(np.float32)
    module = create(ratio=0.3)
    variables = jax.jit(module.init)(jax.random.key(0), images)
    variables = jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape).astype(np.float32), variables)
    return module, variables, images


@pytest.mark.parametrize("frozen", [1, 2])
@pytest.mark.parametrize("glca_input", ["last", "penultimate"])
def test_outputs_and_rollout_are_those_of_the_whole_model(whole, frozen, glca_input):
    _, variables, images = whole
    module, cut = (create(ratio=0.3, glca_input=glca_input, frozen_blocks=k) for k in (0, frozen))
    arranged = registry.family_of(cut).arrange(cut, variables)
    partner = jnp.array([[1, 0], [1, 0]])
    want, want_aux = module.apply(variables, images, partner=partner)
    features = cut.apply(arranged, images, method="run_trunk")
    assert features.shape == (4, 15, 1, 16 + 15)
    for given in ({"images": images}, {"features": features}):
        got, aux = cut.apply(arranged, **given, partner=partner)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(aux["rollout"], want_aux["rollout"], rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(aux["selected"], want_aux["selected"])
        for branch in ("sa", "glca"):
            np.testing.assert_allclose(
                aux["logits"][branch], want_aux["logits"][branch], rtol=1e-4, atol=1e-5
            )
        # The frozen blocks know no partner: PWCA begins above them, and with oneself as partner it is SA.
        assert np.abs(aux["logits"]["pwca"] - aux["logits"]["sa"]).max() > 0.01
        _, alone = cut.apply(arranged, **given, partner=jnp.array([[0, 1], [0, 1]]))
        np.testing.assert_allclose(alone["logits"]["pwca"], alone["logits"]["sa"], rtol=1e-4, atol=1e-4)
    # What is kept on disk has half precision.
    _, aux = cut.apply(arranged, features=features.astype(np.float16).astype(np.float32))
    np.testing.assert_allclose(aux["rollout"], want_aux["rollout"], atol=1e-3)


def test_a_plain_model_keeps_no_rollout_and_pools_its_last_patch_tokens(whole):
    _, variables, images = whole
    module, cut = create("", frozen_blocks=0), create("", frozen_blocks=2)
    own = jax.eval_shape(module.init, jax.random.key(0), images)["params"]
    variables = {"params": {name: variables["params"][name] for name in own}}
    arranged = registry.family_of(cut).arrange(cut, variables)
    features = cut.apply(arranged, images, method="run_trunk")
    assert features.shape == (4, 15, 1, 16)
    np.testing.assert_allclose(
        cut.apply(arranged, features=features)[0], module.apply(variables, images)[0], rtol=1e-5, atol=1e-5
    )
    tokens = create("", output="tokens", num_classes=0).apply(variables, images)[0]
    np.testing.assert_allclose(
        cut.apply(arranged, features, method="pool_trunk"), tokens.mean((1, 2)), rtol=1e-4, atol=1e-5
    )


def test_the_matrix_of_lower_layers_and_the_row_of_upper_ones_are_the_rollout(rng):
    q, k = rng.normal(size=(2, 5, 9, 2, 7, 4)).astype(np.float32)
    below = matrix_from_qk(q[:3], k[:3])
    np.testing.assert_allclose(below.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(
        cls_rollout_from_qk(q[3:], k[3:], below), cls_rollout_from_qk(q, k), rtol=1e-5, atol=1e-7
    )


def test_what_is_frozen_gets_no_gradient_and_is_what_a_fresh_model_has(whole):
    _, variables, images = whole
    cut = create(frozen_blocks=2, ratio=0.3)
    fresh = jax.eval_shape(cut.init, jax.random.key(0), images)["params"]
    arranged = registry.family_of(cut).arrange(cut, variables)["params"]
    assert jax.tree.map(np.shape, dict(fresh)) == jax.tree.map(np.shape, arranged)

    def loss(params):
        _, aux = cut.apply({"params": params}, images, partner=jnp.array([[1, 0], [1, 0]]))
        return sum(jnp.square(x).sum() for x in aux["logits"].values())

    grads = jax.jit(jax.grad(loss))(arranged)
    assert not any(np.any(g) for g in jax.tree.leaves(grads.pop("trunk")))
    flat = jax.tree_util.tree_flatten_with_path(grads)[0]
    assert [p for p, g in flat if not np.any(g) and "log_variance" not in str(p)] == []


def test_the_order_of_layers_is_that_of_the_whole_model():
    whole, cut = parameters.of(create()), parameters.of(create(frozen_blocks=2))
    kernel = (3, 16, 16)
    np.testing.assert_array_equal(np.ravel(whole.distance("blocks/proj/kernel", kernel)), [3, 2, 1])
    np.testing.assert_array_equal(np.ravel(cut.distance("blocks/proj/kernel", (1, 16, 16))), [1])
    np.testing.assert_array_equal(np.ravel(cut.distance("trunk/blocks/proj/kernel", (2, 16, 16))), [3, 2])
    assert whole.distance("pos_embed", ()) == cut.distance("trunk/pos_embed", ()) == 4
    assert not cut.decays("trunk/reg_token") and not cut.decays("trunk/blocks/ls1/scale")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(frozen_blocks=3), "frozen_blocks=3 must be less than depth=3, or 0"),
        (dict(frozen_blocks=1, cameras=2), "does not go with cameras"),
        (dict(frozen_blocks=1, trunk="tf_efficientnet_lite0", patch=1), "does not go with trunk"),
    ],
)
def test_what_cannot_be_is_one_line(fields, message):
    with pytest.raises(UserError, match=message):
        create(**fields)


def test_maps_and_their_gradients_are_captured_of_all_layers(whole):
    _, variables, images = whole
    module, cut = create(ratio=0.3), create(ratio=0.3, frozen_blocks=2)
    arranged = registry.family_of(cut).arrange(cut, variables)
    score = capture.class_score(jnp.array([0, 1, 2, 0]), "sa")
    want, got = (
        capture.observe(m, v, {"images": images}, score) for m, v in ((module, variables), (cut, arranged))
    )
    for kind in ("maps", "gradients"):
        assert got[kind]["sa"].shape == (3, 4, 2, 15, 15)
        np.testing.assert_allclose(got[kind]["sa"], want[kind]["sa"], rtol=1e-3, atol=1e-5)
