"""Explanations against oracles: loops over dense matrices in float64."""

import numpy as np
import pytest

from fusionjax.interpret import attention_maps as lib
from fusionjax.models.observation import Axis
from tests.support.dcal_oracle import rollout_matrix, softmax

L, N, H, T = 4, 2, 3, 10
AXIS = Axis("image", (3, 3), 1, True)


@pytest.fixture
def maps(rng):
    return softmax(2 * rng.normal(size=(L, N, H, T, T)))


@pytest.fixture
def slopes(rng):
    return rng.normal(size=(L, N, H, T, T))


def dense(maps, fuse, discard, start, stop):
    """The product of whole matrices, one example at a time."""
    out = []
    for n in range(N):
        total = np.eye(T)
        for layer in range(start, stop):
            fused = fuse(maps[layer, n], axis=0).copy()
            for index in np.argsort(fused, axis=None)[: int(discard * fused.size)]:
                fused[index // T, index % T] = 0
            mixed = 0.5 * fused + 0.5 * np.eye(T)
            total = (mixed / mixed.sum(1, keepdims=True)) @ total
        out.append(total)
    return np.stack(out)


@pytest.mark.parametrize("start, stop", [(0, L), (1, 3), (L - 1, L)])
@pytest.mark.parametrize("discard", [0.0, 0.35, 0.9])
@pytest.mark.parametrize("head_fusion", ["mean", "max", "min"])
def test_rollout_equals_the_dense_product(maps, head_fusion, discard, start, stop):
    want = dense(maps, getattr(np, head_fusion), discard, start, stop)
    options = dict(head_fusion=head_fusion, discard=discard, start=start, stop=stop)
    np.testing.assert_allclose(lib.rollout(maps, **options), want, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(lib.rollout_row(maps, **options, query=4), want[:, 4], rtol=1e-5, atol=1e-8)


def test_rollout_of_the_mean_is_that_of_dcal(maps):
    want = np.stack([rollout_matrix(maps[:, n].mean(1))[0] for n in range(N)])
    np.testing.assert_allclose(lib.rollout_row(maps), want, rtol=1e-5)


def test_raw_attention_by_layer_head_and_query(maps):
    np.testing.assert_allclose(lib.raw_attention(maps), maps[3, :, :, 0].mean(1))
    np.testing.assert_array_equal(lib.raw_attention(maps, layer=1, head=2, query=5), maps[1, :, 2, 5])
    np.testing.assert_array_equal(lib.raw_attention(maps, head="min"), maps[3, :, :, 0].min(1))


def test_patches_are_in_their_grid_without_the_tokens_before_them():
    found = lib.to_patches(np.arange(14.0), Axis("image", (3, 4), 2))
    np.testing.assert_array_equal(found, 2 + np.arange(12.0).reshape(3, 4))
    with pytest.raises(ValueError, match="13 weights"):
        lib.to_patches(np.arange(13.0), Axis("image", (3, 4), 2))


def test_relevance_equals_the_equations(maps, slopes):
    for n in range(N):
        total = np.eye(T)
        for layer in range(L):
            average = np.zeros((T, T))
            for h in range(H):
                for i in range(T):
                    for j in range(T):
                        average[i, j] += max(slopes[layer, n, h, i, j] * maps[layer, n, h, i, j], 0) / H
            total = total + average @ total
        np.testing.assert_allclose(lib.relevance(maps, slopes)[n], total, rtol=1e-6)
        last = lib.gradient_attention(maps, slopes, query=2)[n]
        np.testing.assert_allclose(last, average[2])


def test_a_cross_attention_step_equals_the_equations(rng):
    """Three tokens of one modality query two of another: equations 8 to 11, by elements."""
    attention = rng.random((3, 2))
    state = {(s, q): rng.random((a, b)) for s, a in (("s", 3), ("q", 2)) for q, b in (("s", 3), ("q", 2))}
    state["s", "s"], state["q", "q"] = state["s", "s"] + np.eye(3), np.eye(2)  # q has had no self-attention
    found = lib.cross_step({pair: value[None] for pair, value in state.items()}, "s", "q", attention[None])
    beyond = state["s", "s"] - np.eye(3)
    normalised = beyond / beyond.sum(1)[:, None] + np.eye(3)
    for i in range(3):
        for j in range(2):
            want = sum(normalised[k, i] * attention[k, j] for k in range(3))
            assert found["s", "q"][0, i, j] == pytest.approx(want)
        for j in range(3):
            want = sum(attention[i, k] * state["q", "s"][k, j] for k in range(2))
            assert found["s", "s"][0, i, j] == pytest.approx(want)


def test_difference_and_queries_of_glca(rng, maps):
    glca = softmax(rng.normal(size=(1, N, H, 4, T)))
    found = lib.glca_difference(maps, glca, AXIS)
    own, other = glca[0, :, :, 0, 1:].mean(1), lib.rollout_row(maps)[:, 1:]
    want = own / own.sum(1, keepdims=True) - other / other.sum(1, keepdims=True)
    np.testing.assert_allclose(found.reshape(N, 9), want, rtol=1e-5)
    np.testing.assert_allclose(found.sum((1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(lib.glca_queries(glca, AXIS)[1, 2, 0], glca[0, 1, :, 2, 1:4].mean(0))


def test_share_of_the_partner():
    maps = np.zeros((2, 1, 2, 3, 6))
    maps[0, ..., 0], maps[0, ..., 5], maps[1, ..., 4] = 0.75, 0.25, 1
    np.testing.assert_allclose(lib.partner_share(maps), [[0.25], [1]])


def test_colours_of_tokens_separate_two_groups(rng):
    tokens = 0.01 * rng.normal(size=(2, 10, 6))
    tokens[:, 1:4] += np.array([1, 2, 0, 0, 0, 0])  # the first row of patches
    tokens[:, 0] = 100  # the class token does not count
    found = lib.pca_rgb(tokens, AXIS)
    assert found.shape == (2, 3, 3, 3) and found.min() >= 0 and found.max() <= 1
    first = found[..., 0]
    assert abs(first[:, 0].mean() - first[:, 1:].mean()) > 0.9
    same = lib.pca_rgb(np.ones((1, 10, 6)), AXIS)
    np.testing.assert_array_equal(same, 0.5)
