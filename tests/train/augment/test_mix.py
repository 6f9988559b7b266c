"""Mixup and CutMix against what they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.train import losses
from fusionjax.train.augment import mix

MIXERS = [mix.mixup, mix.cutmix]


def batch(rng, size=6):
    images = rng.normal(size=(size, 12, 20, 3)).astype(np.float32)
    return jnp.asarray(images), mix.soft(jnp.arange(size), size)


@pytest.mark.parametrize("mixer", MIXERS)
def test_targets_stay_distributions_and_jit_equals_eager(rng, mixer):
    images, targets = batch(rng)
    compiled = jax.jit(mixer, static_argnums=3)
    for seed in range(5):
        key = jax.random.key(seed)
        mixed, soft = mixer(key, images, targets, 0.8)
        assert mixed.shape == images.shape and mixed.dtype == images.dtype
        np.testing.assert_allclose(soft.sum(-1), 1, rtol=1e-6)
        for got, want in zip(compiled(key, images, targets, 0.8), (mixed, soft), strict=True):
            np.testing.assert_allclose(got, want, atol=1e-6)
        again = mixer(key, images, targets, 0.8)
        assert np.array_equal(again[0], mixed)
        assert np.isfinite(losses.cross_entropy(jnp.zeros_like(soft), soft)).all()
    other, _ = mixer(jax.random.key(99), images, targets, 0.8)
    assert not np.array_equal(other, mixed)


def test_mixup_mixes_images_as_targets_say(rng):
    images, targets = batch(rng)
    mixed, soft = mix.mixup(jax.random.key(3), images, targets, 1.0)
    # With one-hot targets in order, the soft targets are the mixing matrix.
    np.testing.assert_allclose(mixed, jnp.einsum("ij,jhwc->ihwc", soft, images), atol=1e-5)
    shares = np.unique(np.asarray(soft).round(5))
    assert len(shares) <= 4, "one λ a batch"


def test_cutmix_pixels_come_from_one_of_two_and_targets_are_their_shares(rng):
    # Image i holds i everywhere, so that a pixel tells where it came from.
    targets = mix.soft(jnp.arange(6), 6)
    images = jnp.broadcast_to(jnp.arange(6.0)[:, None, None, None], (6, 12, 20, 3))
    seen = set()
    for seed in range(20):
        mixed, soft = mix.cutmix(jax.random.key(seed), images, targets, 1.0)
        mixed = np.asarray(mixed)
        shares = np.stack([(mixed[..., 0] == i).mean((1, 2)) for i in range(6)], 1)
        np.testing.assert_allclose(soft, shares, atol=1e-6)
        foreign = (mixed[0, ..., 0] != mixed[0, 0, 0, 0]) | (mixed[0, ..., 0] != 0)
        rows, columns = np.nonzero(foreign)
        if len(rows):
            assert foreign[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all(), (
                "a rectangle"
            )
        seen.add(round(float(np.asarray(soft).max()), 4))
    assert len(seen) > 5, "λ varies"


@pytest.mark.parametrize("mixer", MIXERS)
def test_alpha_zero_changes_nothing_and_bfloat16_stays(rng, mixer):
    images, targets = batch(rng)
    same, soft = mixer(jax.random.key(0), images, targets, 0.0)
    assert same is images and soft is targets
    half, _ = mixer(jax.random.key(0), images.astype(jnp.bfloat16), targets, 0.4)
    assert half.dtype == jnp.bfloat16


def test_mixup_shares_follow_beta(rng):
    images, targets = batch(rng, 3)
    keys = jax.random.split(jax.random.key(0), 2000)
    soft = jax.vmap(lambda key: mix.mixup(key, images, targets, 0.2)[1])(keys)
    # λ of Beta(0.2, 0.2): variance 1 / (4 · 1.4); what an example keeps is λ where the order moved it.
    moved = np.asarray(soft[:, 0])[np.asarray((soft[:, 0] > 1e-6).sum(-1) == 2)]
    assert abs(moved[:, 0].mean() - 0.5) < 0.05
    draws = [jax.random.beta(jax.random.split(key)[0], 0.2, 0.2) for key in keys[:3]]
    assert all(0 <= float(share) <= 1 for share in draws)


@pytest.mark.parametrize("mixer", MIXERS)
def test_groups_keep_to_themselves(rng, mixer):
    images, targets = batch(rng, 8)
    for seed in range(5):
        _, soft = mixer(jax.random.key(seed), images, targets, 1.0, groups=4)
        share = np.asarray(soft)
        for i in range(8):
            others = [j for j in range(8) if j // 2 != i // 2]
            assert not share[i, others].any()


def test_a_coin_decides_between_the_two(rng):
    images, targets = batch(rng)
    which = []
    for seed in range(30):
        got, soft = jax.jit(lambda k: mix.mix(k, images, targets, mixup_alpha=0.8, cutmix_alpha=1.0))(
            jax.random.key(seed)
        )
        np.testing.assert_allclose(soft.sum(-1), 1, rtol=1e-6)
        known = np.isin(np.asarray(got), np.asarray(images)).mean()
        which.append(known > 0.99)  # CutMix makes no new pixel
    assert 5 < sum(which) < 25
    for one, mixer in (("mixup_alpha", mix.mixup), ("cutmix_alpha", mix.cutmix)):
        key = jax.random.key(4)
        got = mix.mix(key, images, targets, **{one: 0.7})
        want = mixer(jax.random.split(key)[1], images, targets, 0.7)
        assert np.array_equal(got[0], want[0]) and np.array_equal(got[1], want[1])
    same = mix.mix(jax.random.key(0), images, targets)
    assert same[0] is images and same[1] is targets
