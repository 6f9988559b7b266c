"""MVPDR and the common space against NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.errors import UserError
from fusionjax.models.methods import mvpdr


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def clusters(rng, classes=3, centres=4, each=6, width=8, passes=5):
    """Tight, far clusters: (passes, N, D) features, (N,) labels, (classes, centres, D) the true centres."""
    true = unit(rng.standard_normal((classes, centres, width)))
    labels = np.repeat(np.arange(classes), centres * each)
    points = np.repeat(true.reshape(-1, width), each, 0)
    return points * 7 + 1e-3 * rng.standard_normal((passes, *points.shape)), labels, true


def oracle(x, visual, text, alpha=0.3, beta=0.5, gamma=0.5):
    """Loops over lists of lists: nothing is padded."""
    x = unit(np.float64(x))
    v, mean, top = (np.zeros((len(x), len(text))) for _ in range(3))
    for b in range(len(x)):
        for c in range(len(text)):
            v[b, c] = sum(math.exp(-beta * (1 - x[b] @ p)) for p in visual[c])
            similar = [100 * (x[b] @ p) for p in text[c]]
            mean[b, c], top[b, c] = sum(similar) / len(similar), max(similar)
    return gamma * mean + beta * top + alpha * v, v, mean, top


@pytest.fixture
def pair(rng):
    """Features and prototypes, of which classes have different numbers; one class has no image."""
    visual = [unit(rng.standard_normal((n, 6))) for n in (4, 1, 0, 2)]
    text = [rng.standard_normal((n, 6)) - 2 for n in (1, 3, 2, 5)]
    padded = np.zeros((4, 4, 6), np.float32)
    for place, own in zip(padded, visual, strict=True):
        place[: len(own)] = own
    prototypes = mvpdr.Prototypes(padded, (4, 1, 0, 2)), mvpdr.text_prototypes(text)
    return rng.standard_normal((5, 6)).astype(np.float32) * 3, *prototypes, visual, [unit(t) for t in text]


@pytest.mark.parametrize("weights", [{}, dict(alpha=2.0, beta=1.5, gamma=0.25)])
def test_scores_equal_the_equations(pair, weights):
    x, visual, text, *lists = pair
    logits, aux = mvpdr.scores(x, visual, text, **weights)
    expected, v, mean, top = oracle(x, *lists, **weights)
    # Similarities are mostly negative: padding that counted as 0 would be the maximum.
    assert (top < 0).any()
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-4)
    for name, value in (("visual", v), ("text_mean", mean), ("text_max", top)):
        np.testing.assert_allclose(aux[name], value, rtol=1e-5, atol=1e-4)


def test_visual_prototypes_are_the_centres(rng):
    features, labels, true = clusters(rng)
    got = mvpdr.visual_prototypes(features, labels, 3, per_class=4, seed=1)
    assert got.counts == (4, 4, 4) and got.vectors.shape == (3, 4, 8) and got.vectors.dtype == np.float32
    for own, centres in zip(got.vectors, true, strict=True):
        similar = own @ centres.T
        assert sorted(similar.argmax(1)) == [0, 1, 2, 3]
        np.testing.assert_allclose(similar.max(1), 1, atol=1e-5)
    again = mvpdr.visual_prototypes(features, labels, 3, per_class=4, seed=1)
    np.testing.assert_array_equal(got.vectors, again.vectors)


def test_passes_are_made_unit_before_they_are_averaged():
    # The second pass is longer: averaged as it is, it would win.
    features = np.array([[[1.0, 0.0]], [[0.0, 9.0]]])
    got = mvpdr.visual_prototypes(features, np.zeros(1, int), 1)
    np.testing.assert_allclose(got.vectors, [[[0.5**0.5, 0.5**0.5]]], rtol=1e-6)


def test_a_class_with_few_images_has_few_prototypes(rng):
    features = rng.standard_normal((2, 7, 3))
    features[:, 4] = features[:, 3]  # the same image twice
    got = mvpdr.visual_prototypes(features, np.array([0, 0, 2, 2, 2, 2, 2]), 4, per_class=16)
    assert got.counts == (2, 0, 4, 0) and got.vectors.shape == (4, 4, 3)
    assert not got.vectors[0, 2:].any() and not got.vectors[1].any()
    np.testing.assert_allclose(np.linalg.norm(got.vectors[2], axis=-1), 1, rtol=1e-6)


def test_the_trainable_form_starts_as_the_training_free_one(pair):
    x, visual, text, *_ = pair
    module, variables = mvpdr.from_prototypes(visual, text, alpha=0.7)
    logits, _ = jax.jit(module.apply)(variables, x)
    np.testing.assert_allclose(logits, mvpdr.scores(x, visual, text, alpha=0.7)[0], rtol=1e-5, atol=1e-4)
    fresh = jax.eval_shape(lambda: module.init(jax.random.key(0), x))
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, variables)


def test_loss_equals_the_equation_and_its_gradient_spares_the_padding(pair):
    x, visual, text, *lists = pair
    labels = np.array([0, 1, 2, 3, 1])
    module, variables = mvpdr.from_prototypes(visual, text)

    def value(variables):
        losses = mvpdr.loss(module.apply(variables, x)[1], labels)
        return losses.sum(), losses

    grads, losses = jax.jit(jax.grad(value, has_aux=True))(variables)

    def cross_entropy(logits):
        return np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + (
            logits.max(1) - logits[np.arange(5), labels]
        )

    _, v, mean, top = oracle(x, *lists)
    expected = cross_entropy(v) + 0.1 * cross_entropy(top) + 0.1 * cross_entropy(mean)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-4)
    for name, prototypes in (("visual", visual), ("text", text)):
        counts, grad = prototypes.counts, np.asarray(grads["params"][name])
        used = np.arange(grad.shape[1]) < np.array(counts)[:, None]
        assert np.isfinite(grad).all() and not grad[~used].any() and grad[used].any(-1).all()


def test_align(rng):
    module = mvpdr.Align(width=4)
    image, text = (
        rng.standard_normal((3, 5)).astype(np.float32),
        rng.standard_normal((2, 7)).astype(np.float32),
    )
    variables = module.init(jax.random.key(0), image, text)
    params = variables["params"]
    assert {"/".join(k.key for k in path) for path, _ in jax.tree_util.tree_leaves_with_path(params)} == {
        "image/kernel",
        "text/kernel",
        "log_scale",
    }
    (one, two), aux = module.apply(variables, image, text)
    np.testing.assert_allclose(one, unit(image @ np.asarray(params["image"]["kernel"])), atol=1e-6)
    np.testing.assert_allclose(two, unit(text @ np.asarray(params["text"]["kernel"])), atol=1e-6)
    np.testing.assert_allclose(aux["scale"], 1 / 0.07, rtol=1e-6)
    for log, scale in ((-3.0, 1), (9.0, 100)):
        aux = module.apply({"params": {**params, "log_scale": jnp.float32(log)}}, image, text)[1]
        np.testing.assert_allclose(aux["scale"], scale, rtol=1e-5)


def test_messages(pair, rng, unchecked):
    x, visual, *_ = pair
    features, labels = rng.standard_normal((2, 3, 4)), np.array([0, 1, 2])
    with pytest.raises(UserError, match=r"features \(3, 4\) are not \(passes, 3 images, width\)"):
        mvpdr.visual_prototypes(features[0], labels, 3)
    with pytest.raises(UserError, match=r"labels 0…2 are not all in \[0, 2\)"):
        mvpdr.visual_prototypes(features, labels, 2)
    with pytest.raises(UserError, match="per_class=0 must be 1 or more"):
        mvpdr.visual_prototypes(features, labels, 3, per_class=0)
    with pytest.raises(UserError, match="class 1 needs at least one prompt"):
        mvpdr.text_prototypes([np.ones((1, 4)), np.ones((0, 4))])
    with pytest.raises(UserError, match="class 1 needs at least one prompt"):
        mvpdr.MVPDR(6, (1, 1), (1, 0)).init(jax.random.key(0), x)
    with pytest.raises(UserError, match="4 classes have visual, 1 have text prototypes"):
        mvpdr.scores(x, visual, mvpdr.text_prototypes([np.ones((1, 6))]))
    with pytest.raises(UserError, match=r"scale=0.07 must be in \[1, 100\]"):
        mvpdr.Align(4, scale=0.07).init(jax.random.key(0), x, x)
