"""What is captured of a forward pass is what the model computed, and its gradients are those of the score."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import models
from fusionjax.interpret import capture
from fusionjax.interpret.capture import Captured
from fusionjax.models.observation import MAPS, OFFSETS

CLASSES = jnp.array([0, -1, 2])


@pytest.fixture(scope="module")
def dcal():
    """A small DCAL with weights far from their gentle initial values, and images."""
    rng = np.random.default_rng(0)
    module = models.create(
        "dcal_vit_shallow", width=16, depth=2, heads=2, patch=8, image_size=24, num_classes=4, ratio=0.3
    )
    images = rng.normal(size=(3, 24, 24, 3)).astype(np.float32)
    variables = module.init(jax.random.key(0), images)
    return module, jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape), variables), images


def captured(module, variables, score=None, **arguments):
    found = jax.jit(lambda v, a: capture.observe(module, v, a, score))(variables, arguments)
    return capture.captured(module, found)


@pytest.fixture(scope="module")
def whole(dcal):
    module, variables, images = dcal
    return captured(module, variables, capture.class_score(CLASSES), images=images)


def test_maps_and_output_are_those_of_the_model(dcal, whole):
    module, variables, images = dcal
    output, aux = module.apply(variables, images, capture=("attention", "glca_attention", "tokens"))
    np.testing.assert_allclose(whole.output, output, atol=1e-5)
    np.testing.assert_allclose(whole.maps["sa"], aux["attention"], atol=1e-5)
    np.testing.assert_allclose(whole.maps["glca"], aux["glca_attention"][None], atol=1e-5)
    np.testing.assert_allclose(whole.tokens["sa"], aux["tokens"], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(whole.selected, aux["selected"][:, 1:] - 1)
    assert list(whole.maps) == ["sa", "glca"] and whole.streams["sa"].keys.grid == (3, 3)


def test_gradients_are_those_of_the_score(dcal, whole):
    module, variables, images = dcal
    shapes = jax.eval_shape(lambda: module.apply(variables, images, mutable=[MAPS])[1][MAPS])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)

    @jax.jit
    def score(offsets):
        (output, _), _ = module.apply({**variables, OFFSETS: offsets}, images, mutable=[MAPS])
        return output[2, 2] - output[2].mean()

    for path, stream, at in (("blocks", "sa", (0, 2, 1, 4, 3)), ("glca_block", "glca", (0, 2, 0, 0, 5))):
        place, step = at if path == "blocks" else at[1:], 1e-2
        up, down = (
            score({**zeros, path: {"attention": zeros[path]["attention"].at[place].set(sign * step)}})
            for sign in (1, -1)
        )
        assert whole.gradients[stream][at] == pytest.approx(float(up - down) / (2 * step), rel=2e-2, abs=1e-4)
    assert whole.score[2] == pytest.approx(whole.output[2, 2] - whole.output[2].mean(), rel=1e-4)
    assert whole.score[1] == pytest.approx(whole.output[1].max() - whole.output[1].mean(), rel=1e-4)


def test_a_branch_has_its_own_gradients(dcal):
    module, variables, images = dcal
    alone = captured(module, variables, capture.class_score(CLASSES, "sa"), images=images)
    assert not alone.gradients["glca"].any() and alone.gradients["sa"].any()
    logits = alone.branches["sa"][0]
    np.testing.assert_allclose(alone.score[0], logits[0] - logits.mean(), rtol=1e-4)


def test_pairs_show_the_share_of_the_partner(dcal, whole):
    module, variables, images = dcal
    paired = captured(module, variables, images=images, partner=np.array([[1, 2, 0]]))
    assert paired.maps["pwca"].shape == (2, 3, 2, 10, 20)
    np.testing.assert_allclose(paired.maps["pwca"].sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(paired.maps["sa"], whole.maps["sa"], atol=1e-5)
    np.testing.assert_allclose(paired.tokens["sa"], whole.tokens["sa"], atol=1e-5)
    assert not paired.gradients and paired.score is None


def test_nothing_is_observed_unless_asked_for(dcal):
    module, variables, images = dcal
    assert set(module.init(jax.random.key(0), images)) == {"params"}
    _, changed = module.apply(variables, images, mutable=["batch_stats"])
    assert not changed


def test_parts_join_to_the_whole(whole):
    parts = Captured.joined([whole[:1], whole[1], whole[-1]])
    assert len(parts) == 3 and len(whole[0]) == 1
    np.testing.assert_array_equal(parts.maps["sa"], whole.maps["sa"])
    np.testing.assert_array_equal(parts.output, whole.output)
    np.testing.assert_array_equal(parts.score, whole.score)


def test_a_crossvit_shows_both_scales_and_their_fusion():
    module = models.create(
        "crossvit_9_240", img_size=(24, 16), patch_size=(8, 8), embed_dim=(8, 12), num_heads=(2, 3),
        depth=((1, 2, 2),), mlp_ratio=(1.0, 1.0, 1.0), num_classes=3,
    )  # fmt: skip
    images = np.random.default_rng(0).normal(size=(2, 24, 24, 3)).astype(np.float32)
    variables = module.init(jax.random.key(0), images)
    _, aux = module.apply(variables, images, capture=("attention",))
    found = captured(module, variables, images=images)
    assert {name: x.shape for name, x in found.maps.items()} == {
        "stage_0/branch_0": (1, 2, 2, 10, 10),
        "stage_0/branch_1": (2, 2, 3, 5, 5),
        "stage_0/fusion_0": (2, 2, 3, 1, 5),  # of two layers, over the second branch's tokens
        "stage_0/fusion_1": (2, 2, 2, 1, 10),
    }
    # In the order of computation, which relevance follows: a fusion reads what the blocks of both branches return.
    assert list(found.maps) == [
        "stage_0/branch_0",
        "stage_0/branch_1",
        "stage_0/fusion_0",
        "stage_0/fusion_1",
    ]
    for name, maps in aux["attention"].items():
        np.testing.assert_allclose(found.maps[name], maps, atol=1e-6)
