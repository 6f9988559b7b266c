"""DCAL against a NumPy oracle, and what must hold whatever the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import models
from fusionjax.interpret.rollout import cls_rollout, cls_rollout_from_qk
from fusionjax.models import attention as attention_lib
from fusionjax.models import rollout as rollout_lib
from fusionjax.models.layers import take_within_groups
from fusionjax.models.methods.dcal import derangement, num_selected, select
from tests.support import dcal_oracle

SMALL = dict(width=24, depth=3, heads=3, patch=8, image_size=32, num_classes=5, mlp_ratio=2.0)


def build(rng, **fields):
    """A small DCAL with weights far from their gentle initial values, and images."""
    module = models.create("dcal_vit_shallow", **{**SMALL, "ratio": 0.3, **fields})
    images = rng.normal(size=(4, 32, 32, 3)).astype(np.float32)
    variables = module.init(jax.random.key(0), images)
    variables = jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape).astype(np.float32), variables)
    return module, variables, images


def exact(variables):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])


@pytest.mark.parametrize("glca_input", ["last", "penultimate"])
@pytest.mark.parametrize("partner_stream", ["pwca", "sa"])
def test_equals_the_oracle(rng, glca_input, partner_stream):
    module, variables, images = build(rng, glca_input=glca_input, partner_stream=partner_stream)
    partner = np.array([[1, 0], [1, 0]])  # groups of two: 0 ↔ 1, 2 ↔ 3
    output, aux = module.apply(variables, images, partner=jnp.asarray(partner))
    logits, rollout, selected = dcal_oracle.dcal(
        exact(variables),
        images.astype(np.float64),
        8,
        3,
        3,
        num_selected(0.3, 16),
        [1, 0, 3, 2],
        glca_input,
        partner_stream,
    )
    np.testing.assert_allclose(aux["rollout"], rollout, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(aux["selected"], selected)
    assert set(aux["logits"]) == {"sa", "glca", "pwca"}
    for branch, want in logits.items():
        np.testing.assert_allclose(aux["logits"][branch], want, rtol=1e-3, atol=1e-3)
    mean = (dcal_oracle.softmax(logits["sa"]) + dcal_oracle.softmax(logits["glca"])) / 2
    np.testing.assert_allclose(jax.nn.softmax(output), mean, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("feed_forward", ["gelu", "swiglu"])
def test_registers_are_tokens_that_are_never_selected(rng, feed_forward):
    module, variables, images = build(
        rng, registers=3, layer_scale=0.5, feed_forward=feed_forward, ratio=0.999
    )
    _, aux = module.apply(variables, images, partner=jnp.array([[1, 0], [1, 0]]))
    logits, rollout, selected = dcal_oracle.dcal(
        exact(variables), images.astype(np.float64), 8, 3, 3, 15, [1, 0, 3, 2], gated=feed_forward == "swiglu"
    )
    assert aux["rollout"].shape == (4, 17) and aux["selected"].max() <= 16
    np.testing.assert_allclose(aux["rollout"], rollout, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(aux["selected"], selected)
    for branch, want in logits.items():
        np.testing.assert_allclose(aux["logits"][branch], want, rtol=1e-3, atol=1e-3)
    # What reads the patches gets as many as the grid has cells.
    plain = models.create(
        "vit_shallow", **SMALL, output="tokens", registers=3, layer_scale=0.5, feed_forward=feed_forward
    )
    own = {"params": {k: v for k, v in variables["params"].items() if k in plain_names(plain, images)}}
    assert plain.apply(own, images)[0].shape == (4, 4, 4, 24)


def plain_names(plain, images):
    return jax.eval_shape(plain.init, jax.random.key(0), images)["params"]


def test_rollout_row_chain_equals_the_matrix_product(rng):
    maps = dcal_oracle.softmax(rng.normal(size=(5, 2, 3, 9, 9)))
    want = np.stack([dcal_oracle.rollout_matrix(maps[:, b].mean(1))[0] for b in range(2)])
    np.testing.assert_allclose(cls_rollout(maps), want, rtol=1e-5)
    np.testing.assert_allclose(cls_rollout(maps.mean(2)), want, rtol=1e-5)
    np.testing.assert_allclose(want.sum(-1), 1)


def test_rollout_from_queries_and_keys_in_blocks(rng, monkeypatch):
    q, k = rng.normal(size=(2, 3, 2, 2, 21, 4)).astype(np.float32)
    maps = dcal_oracle.softmax(q @ k.swapaxes(-1, -2) / 2)
    want = cls_rollout(maps)
    np.testing.assert_allclose(cls_rollout_from_qk(q, k), want, rtol=1e-5)
    for module in (attention_lib, rollout_lib):
        monkeypatch.setattr(module, "LONG", 1)
        monkeypatch.setattr(module, "CHUNK", 8)  # does not divide 21: the last block is padded
    np.testing.assert_allclose(cls_rollout_from_qk(q, k), want, rtol=1e-5)


def test_blockwise_attention_equals_the_whole_map(rng, monkeypatch):
    q, k, v = rng.normal(size=(3, 2, 2, 21, 4)).astype(np.float32)

    def both(q, k, v):
        return jax.value_and_grad(
            lambda *a: jnp.sum(jnp.sin(attention_lib.attention(*a))), argnums=(0, 1, 2)
        )(q, k, v)

    whole = both(q, k, v)
    monkeypatch.setattr(attention_lib, "LONG", 1)
    monkeypatch.setattr(attention_lib, "CHUNK", 8)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), both(q, k, v), whole)


def test_masked_keys_get_no_weight(rng):
    q, k, v = rng.normal(size=(3, 2, 2, 5, 4)).astype(np.float32)
    mask = np.array([True, True, True, False, False])[None, None, None]
    out = attention_lib.attention(q, k, v, mask=mask)
    np.testing.assert_array_equal(
        out,
        attention_lib.attention(
            q, k.at[:, :, 3:].set(9) if hasattr(k, "at") else k, v * mask[0, 0, 0, :, None], mask=mask
        ),
    )
    np.testing.assert_allclose(out, attention_lib.attention(q, k[:, :, :3], v[:, :, :3]), rtol=1e-5)


def test_selection_breaks_ties_by_position():
    weights = jnp.array([[0.9, 0.1, 0.5, 0.5, 0.5, 0.2], [0.0, 0.3, 0.3, 0.3, 0.3, 0.3]])
    np.testing.assert_array_equal(select(weights, 3), [[0, 2, 3, 4], [0, 1, 2, 3]])


@pytest.mark.parametrize(
    ("ratio", "patches", "want"),
    [(0.1, 784, 78), (0.3, 128, 38), (0.3, 256, 76), (0.29, 100, 29), (0.01, 16, 1), (1.0, 16, 16)],
)
def test_number_of_selected_patches(ratio, patches, want):
    assert num_selected(ratio, patches) == want


def test_gathered_glca_equals_the_masked_dense_computation(rng):
    """All tokens as queries, and then only the selected rows kept, must be the same thing."""
    module, variables, images = build(rng)
    _, some = module.apply(variables, images, capture=("tokens",))
    everything = models.create("dcal_vit_shallow", **SMALL, ratio=1.0)
    _, full = everything.apply(variables, images)
    # CLS sees all keys in both, whoever else queries: its row does not depend on the selection.
    np.testing.assert_allclose(full["logits"]["glca"], some["logits"]["glca"], rtol=1e-4, atol=1e-4)
    tokens = np.asarray(some["tokens"][-1], np.float64)
    p = exact(variables)["glca_block"]
    for b in range(4):
        dense = dcal_oracle.glca(tokens[b], np.arange(17), p, 3)
        gathered = dcal_oracle.glca(tokens[b], np.asarray(some["selected"][b]), p, 3)
        np.testing.assert_allclose(gathered, dense[np.asarray(some["selected"][b])], rtol=1e-9)


def test_partner_changes_pwca_and_nothing_else(rng):
    module, variables, images = build(rng)
    alone, aux = module.apply(variables, images)
    assert "pwca" not in aux["logits"]
    outputs = []
    for order in ([1, 2, 3, 0], [3, 0, 1, 2]):
        paired, aux = module.apply(variables, images, partner=jnp.asarray([order]))
        outputs.append(aux["logits"]["pwca"])
        np.testing.assert_allclose(paired, alone, rtol=1e-4, atol=1e-5)
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3


def test_pairing_with_oneself_is_self_attention(rng):
    """softmax over the same keys twice halves every weight and doubles every value: PWCA(x, x) = SA(x)."""
    module, variables, images = build(rng)
    _, aux = module.apply(variables, images, partner=jnp.arange(4)[None])
    np.testing.assert_allclose(aux["logits"]["pwca"], aux["logits"]["sa"], rtol=1e-3, atol=1e-4)


def test_no_gradient_flows_through_the_selection(rng):
    q, k = rng.normal(size=(2, 2, 1, 2, 5, 4)).astype(np.float32)
    grads = jax.grad(lambda q, k: jnp.sum(cls_rollout_from_qk(q, k) ** 2), argnums=(0, 1))(q, k)
    assert all(not np.any(g) for g in grads)


@pytest.mark.parametrize("size", [2, 3, 8])
def test_derangement(size):
    seen = np.zeros((size, size))
    for seed in range(200):
        partner = np.asarray(derangement(jax.random.key(seed), 3, size))
        assert (np.sort(partner, 1) == np.arange(size)).all(), "every image is somebody's partner once"
        assert (partner != np.arange(size)).all(), "never itself"
        np.add.at(seen, (np.arange(size), partner[0]), 1)
    off = seen[~np.eye(size, dtype=bool)]
    expected = 200 / (size - 1)
    assert np.abs(off - expected).max() < 6 * np.sqrt(expected) + (size == 2), (
        "every other image is equally likely"
    )


def test_derangement_needs_two():
    with pytest.raises(ValueError, match="no pairs"):
        derangement(jax.random.key(0), 4, 1)


def test_rows_are_taken_within_their_group():
    x = jnp.arange(6)
    np.testing.assert_array_equal(
        take_within_groups(x, jnp.array([[1, 2, 0], [2, 0, 1]])), [1, 2, 0, 5, 3, 4]
    )


@pytest.mark.parametrize("ablation", [("sa",), ("sa", "glca"), ("sa", "pwca"), ("sa", "glca", "pwca")])
def test_branches_and_their_parameters(rng, ablation):
    module, variables, images = build(rng, branches=ablation)
    params = variables["params"]
    assert ("glca_block" in params) == ("glca" in ablation)
    assert {k for k in params if k.startswith("log_variance_")} == {f"log_variance_{b}" for b in ablation}
    output, aux = module.apply(variables, images, partner=jnp.array([[1, 0, 3, 2]]))
    assert set(aux["logits"]) == set(ablation)
    np.testing.assert_allclose(jnp.exp(output).sum(-1), 1, rtol=1e-5)


def test_jit_equals_eager(rng):
    module, variables, images = build(rng)
    eager = module.apply(variables, images)[0]
    np.testing.assert_allclose(
        jax.jit(lambda v, x: module.apply(v, x)[0])(variables, images), eager, rtol=1e-4, atol=1e-5
    )


def test_remat_changes_no_gradient(rng):
    grads = []
    for remat in (False, True):
        module, variables, images = build(np.random.default_rng(0), remat=remat)
        grads.append(jax.jit(jax.grad(lambda v, m=module, x=images: m.apply(v, x)[0].sum()))(variables))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4), *grads)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def parameters(name, **fields):
    module = models.create(name, **fields)
    sides = module.image_size if isinstance(module.image_size, tuple) else (module.image_size,) * 2
    image = jax.ShapeDtypeStruct((1, *sides, 3), jnp.float32)
    return count(jax.eval_shape(module.init, jax.random.key(0), image)["params"])


def test_parameters_of_vit_base():
    assert parameters("vit_base_patch16_224") == 86_567_656
    assert parameters("deit_tiny_patch16_224") == 5_717_416
    assert parameters("deit_small_patch16_224") == 22_050_664


@pytest.mark.parametrize(
    ("name", "fields", "share"),
    [
        ("deit_tiny_patch16_224", dict(num_classes=200, image_size=448), 0.085),
        ("vit_base_patch16_224", dict(num_classes=576, image_size=256), 0.087),
    ],
)
def test_what_dcal_adds(name, fields, share):
    """Paper, section 4.4: 8.5 % to DeiT-T for CUB, 8.7 % to ViT-B for VeRi."""
    plain, dual = parameters(name, **fields), parameters(f"dcal_{name}", **fields)
    assert round(dual / plain - 1, 3) == share
