"""Maps over the image by method, from made-up attention of every kind of model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fusionjax import models
from fusionjax.interpret import attention_maps, capture, image_maps
from fusionjax.interpret.capture import Captured
from fusionjax.models.observation import Axis, Stream
from tests.support.dcal_oracle import softmax

N, H = 2, 2
IMAGE = Axis("image", (2, 3), 1, True)
REGIONS, WORDS, SOUND = Axis("image", (2, 2)), Axis("text"), Axis("audio")


def made(rng, **streams):
    """A record with random maps and gradients: stream → (Stream, L, Q, K)."""
    maps = {name: softmax(rng.normal(size=(n, N, H, q, k))) for name, (_, n, q, k) in streams.items()}
    slopes = {name: rng.normal(size=x.shape) for name, x in maps.items()}
    by_name = {name: stream for name, (stream, *_) in streams.items()}
    logits = np.zeros((N, 3), np.float32)
    return Captured(maps, slopes, by_name, {}, logits, {}, logits[:, 0], None, None, {})


@pytest.fixture
def dcal(rng):
    return made(
        rng,
        sa=(Stream("sa", IMAGE, IMAGE), 3, 7, 7),
        glca=(Stream("glca", Axis("selected", (2, 3), 1, True), IMAGE), 1, 3, 7),
    )


def test_every_method_of_a_dcal(dcal):
    assert image_maps.available(dcal) == tuple(image_maps.KINDS)
    for method in image_maps.KINDS:
        found = image_maps.image_map(dcal, method)
        assert found.shape == (N, 2, 3) and np.isfinite(found).all() and (found >= 0).all()
    np.testing.assert_allclose(
        image_maps.image_map(dcal, "attention").reshape(N, 6),
        dcal.maps["sa"][-1].mean(1)[:, 0, 1:],
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        image_maps.image_map(dcal, "rollout").reshape(N, 6),
        attention_maps.rollout_row(dcal.maps["sa"])[:, 1:],
        rtol=1e-6,
    )
    without = dataclasses.replace(dcal, gradients={})
    assert image_maps.available(without) == ("attention", "rollout", "glca")
    with pytest.raises(ValueError, match="relevance"):
        image_maps.image_map(without, "relevance")


def test_glca_adds_what_its_class_token_reads(dcal):
    total = attention_maps.relevance(dcal.maps["sa"], dcal.gradients["sa"])
    heads = attention_maps.weighted_heads(dcal.maps["glca"][0], dcal.gradients["glca"][0])
    want = np.stack([total[n, 0] + 0.5 * heads[n, 0] @ total[n] for n in range(N)])
    np.testing.assert_allclose(
        image_maps.image_map(dcal, "relevance").reshape(N, 6), want[:, 1:], rtol=1e-5, atol=1e-7
    )


def test_patches_that_are_read_alone_are_averaged(rng):
    own = IMAGE._replace(cls=False)
    found = made(rng, **{"trunk/sa": (Stream("trunk/sa", own, own), 2, 7, 7)})
    want = attention_maps.rollout(found.maps["trunk/sa"])[:, 1:].mean(1)[:, 1:]
    np.testing.assert_allclose(image_maps.image_map(found, "rollout").reshape(N, 6), want, rtol=1e-6)


def test_relevance_across_the_scales_of_a_crossvit(rng):
    """R ← R + Ā R with one matrix over the tokens of both branches, 0 where a map has no entry."""
    axes = [Axis("image", (2, 2), 1, True, "0"), Axis("image", (1, 2), 1, True, "1")]
    sizes, starts = (5, 3), (0, 5)
    streams = {}
    for stage in range(2):
        for i in (0, 1):
            name = f"stage_{stage}/branch_{i}"
            streams[name] = (Stream(name, axes[i], axes[i]), 1 + i, sizes[i], sizes[i])
        for i, j in ((0, 1), (1, 0)):
            name = f"stage_{stage}/fusion_{i}"
            streams[name] = (Stream(name, Axis("cls", cls=True, branch=str(i)), axes[j]), 1, 1, sizes[j])
    found = made(rng, **streams)
    for n in range(N):
        total = np.eye(8)
        for stage in range(2):
            before = None
            for i in (0, 1):
                for layer in range(1 + i):
                    name = f"stage_{stage}/branch_{i}"
                    heads = attention_maps.weighted_heads(
                        found.maps[name][layer, n], found.gradients[name][layer, n]
                    )
                    whole = np.zeros((8, 8))
                    part = slice(starts[i], starts[i] + sizes[i])
                    whole[part, part] = heads
                    total = total + whole @ total
            before, whole = total, np.zeros((8, 8))
            for i, j in ((0, 1), (1, 0)):
                name = f"stage_{stage}/fusion_{i}"
                heads = attention_maps.weighted_heads(found.maps[name][0, n], found.gradients[name][0, n])[0]
                whole[starts[i], starts[i]] = heads[0]
                whole[starts[i], starts[j] + 1 : starts[j] + sizes[j]] = heads[1:]
            total = before + whole @ before
        want = 0.5 * (total[0, 1:5] + total[5, 1:5])
        got = image_maps.image_map(found, "relevance")[n].reshape(4)
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_words_and_regions_by_layers_in_turn(rng):
    """One layer: regions query words, then words the updated regions; by hand from R = E."""
    names = ("fusion/image_to_text", "fusion/text_to_image")
    found = made(
        rng,
        **{
            names[0]: (Stream(names[0], REGIONS, WORDS), 1, 4, 3),
            names[1]: (Stream(names[1], WORDS, REGIONS), 1, 3, 4),
        },
    )
    got = image_maps.modality_relevance(found)
    for n in range(N):
        a, b = (attention_maps.weighted_heads(found.maps[x][0, n], found.gradients[x][0, n]) for x in names)
        # R^it = A, R^ii = E (no word drew on a region before); then R^ti = B R̄^ii = B, R^tt = E + B A.
        np.testing.assert_allclose(got["image"][n], b.mean(0), rtol=1e-5)
        np.testing.assert_allclose(got["text"][n], a.mean(0) + (b @ a).mean(0), rtol=1e-5)
    assert image_maps.image_map(found, "relevance").shape == (N, 2, 2)
    assert image_maps.available(found) == ("attention", "gradient_attention", "relevance")


def test_padding_does_not_count(rng):
    name = "fusion/text_to_image"
    found = made(rng, **{name: (Stream(name, WORDS, REGIONS), 1, 3, 4)})
    masks = {"text": np.array([[True, True, False], [True, True, True]])}
    masked = dataclasses.replace(found, masks=masks)
    want = found.maps[name][0, 0].mean(0)[:2].mean(0)
    np.testing.assert_allclose(image_maps.image_map(masked, "attention")[0].reshape(4), want, rtol=1e-6)


def test_parallel_pairings_read_the_same_tokens(rng):
    pairs = {"image_from_audio": (REGIONS, SOUND), "audio_from_image": (SOUND, REGIONS)}
    streams = {k: (Stream(k, *axes, parallel=True), 1, 4 if k[0] == "i" else 5, 5 if k[0] == "i" else 4)
               for k, axes in pairs.items()}  # fmt: skip
    found = made(rng, **streams)
    got = image_maps.modality_relevance(found)
    for n in range(N):
        a, b = (attention_maps.weighted_heads(found.maps[k][0, n], found.gradients[k][0, n]) for k in pairs)
        np.testing.assert_allclose(got["image"][n], b.mean(0), rtol=1e-5)
        np.testing.assert_allclose(got["audio"][n], a.mean(0), rtol=1e-5)


def test_the_patch_with_the_object_ranks_first_after_training(rng):
    """A class is the colour of one patch, anywhere on noise: after training on it, every map finds the patch."""
    module = models.create(
        "vit_shallow", width=16, depth=2, heads=2, patch=8, image_size=24, num_classes=3, mlp_ratio=2.0
    )

    def batch(count):
        images = rng.normal(0, 0.3, (count, 3, 8, 3, 8, 3)).astype(np.float32)
        labels, where = rng.integers(0, 3, count), rng.integers(0, 9, count)
        images[np.arange(count), where // 3, :, where % 3, :, labels] += 2
        return images.reshape(count, 24, 24, 3), labels, where

    images, labels, _ = batch(32)
    variables = module.init(jax.random.key(0), images)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state, images, labels):
        def loss(params):
            logits, _ = module.apply({"params": params}, images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        change, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, change), state

    params, state = variables["params"], optimizer.init(variables["params"])
    for _ in range(100):
        images, labels, _ = batch(32)
        params, state = step(params, state, images, labels)
    images, labels, where = batch(32)
    score = capture.class_score(jnp.full(32, -1))
    found = jax.jit(lambda p, x: capture.observe(module, {"params": p}, {"images": x}, score))(params, images)
    captured = capture.captured(module, found)
    assert (captured.output.argmax(-1) == labels).all()
    for method in image_maps.available(captured):
        ranked = image_maps.image_map(captured, method).reshape(32, 9)
        assert (ranked.argmax(1) == where).mean() > 0.85, method
