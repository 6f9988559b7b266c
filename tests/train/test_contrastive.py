"""Contrastive losses against their definitions written out pair by pair, and what must hold however they are computed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.errors import UserError
from fusionjax.train import contrastive
from tests.support import process

LOSSES = {"info_nce": contrastive.info_nce, "nt_xent": contrastive.nt_xent}


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def cross_entropy(logits, target):
    top = max(logits)
    return top + np.log(sum(np.exp(v - top) for v in logits)) - logits[target]


def info_nce_loop(a, b, scale):
    """CLIP's figure 3: the mean of the two cross-entropies."""
    a, b, n = unit(a.astype(np.float64)), unit(b.astype(np.float64)), len(a)
    to_b = np.mean([cross_entropy([scale * a[i] @ b[j] for j in range(n)], i) for i in range(n)])
    to_a = np.mean([cross_entropy([scale * b[i] @ a[j] for j in range(n)], i) for i in range(n)])
    return (to_b + to_a) / 2


def nt_xent_loop(a, b, scale):
    """SimCLR's algorithm 1: 2N anchors in one list, an anchor's own place left out."""
    z, n = unit(np.concatenate([a, b]).astype(np.float64)), len(a)
    losses = []
    for i in range(2 * n):
        others = [j for j in range(2 * n) if j != i]
        losses.append(cross_entropy([scale * z[i] @ z[j] for j in others], others.index((i + n) % (2 * n))))
    return np.mean(losses)


def simclr_total(a, b, scale):
    """google-research/simclr's objective: two softmaxes over [other view, own view without itself], their means added."""
    a, b, n = unit(a.astype(np.float64)), unit(b.astype(np.float64)), len(a)
    hidden = np.eye(n) * 1e9
    sums = 0.0
    for own, other in ((a, b), (b, a)):
        logits = np.concatenate([scale * own @ other.T, scale * own @ own.T - hidden], axis=1)
        sums += np.mean([cross_entropy(list(row), i) for i, row in enumerate(logits)])
    return sums


LOOPS = {"info_nce": info_nce_loop, "nt_xent": nt_xent_loop}


def two(rng, n=9, d=6):
    a = rng.normal(size=(n, d))
    return a.astype(np.float32), (a + rng.normal(size=(n, d))).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("name", "chunk"))
def _slopes(name, a, b, valid, temperature, chunk):
    def loss(x, y):
        return LOSSES[name](x, y, valid=valid, temperature=temperature, chunk=chunk)

    return jax.value_and_grad(loss, (0, 1))(a, b)


def slopes(name, a, b, valid=None, temperature=0.1, chunk=0):
    """The loss and its gradients; one program for a name, a chunk and a shape."""
    value, gradient = _slopes(name, a, b, valid, temperature, chunk)
    return value, np.stack(gradient)


@pytest.mark.parametrize("name", LOSSES)
def test_equals_the_loop(rng, name):
    for scale in (1.0, 10.0, 100.0):
        a, b = two(rng)
        want = LOOPS[name](a, b, scale)
        for keywords in ({"temperature": 1 / scale}, {"logit_scale": jnp.float32(scale)}):
            got = LOSSES[name](a, b, **keywords)
            assert got.dtype == jnp.float32 and got.shape == ()
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(LOSSES[name](a, b), LOOPS[name](a, b, 10.0), rtol=1e-5)  # temperature 0.1


def test_simclr_total_is_twice_ours(rng):
    a, b = two(rng)
    np.testing.assert_allclose(2 * contrastive.nt_xent(a, b), simclr_total(a, b, 10.0), rtol=1e-5)


def test_known_values():
    """Orthogonal pairs: n − 1 negatives at 0 for info_nce, 2n − 2 for nt_xent. Collapsed: ln of the candidates."""
    n, eye = 6, np.eye(6, dtype=np.float32)
    np.testing.assert_allclose(contrastive.info_nce(eye, eye), np.log1p((n - 1) * np.exp(-10)), rtol=1e-3)
    np.testing.assert_allclose(contrastive.nt_xent(eye, eye), np.log1p((2 * n - 2) * np.exp(-10)), rtol=1e-3)
    ones = np.ones((n, 4), np.float32)
    np.testing.assert_allclose(contrastive.info_nce(ones, ones), np.log(n), rtol=1e-5)
    np.testing.assert_allclose(contrastive.nt_xent(ones, ones), np.log(2 * n - 1), rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_equals_the_loops_differences(rng, name):
    a, b = two(rng, 5, 4)
    _, got = slopes(name, a, b, temperature=0.2)
    step, x = 1e-5, np.stack([a, b]).astype(np.float64)
    want = np.zeros_like(x)
    for place in np.ndindex(*x.shape):
        e = np.zeros_like(x)
        e[place] = step
        want[place] = (LOOPS[name](*(x + e), 5.0) - LOOPS[name](*(x - e), 5.0)) / (2 * step)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_of_the_scale(rng, name):
    a, b = two(rng)
    for chunk in (0, 4):
        loss = jax.jit(lambda s, c=chunk: LOSSES[name](a, b, logit_scale=s, chunk=c))
        slope = jax.grad(loss)(jnp.float32(7))
        want = (LOOPS[name](a, b, 7.001) - LOOPS[name](a, b, 6.999)) / 0.002
        np.testing.assert_allclose(slope, want, rtol=1e-3)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("chunk", [3, 4])
def test_chunks_change_nothing(rng, name, chunk):
    a, b = two(rng)
    for valid in (np.ones(9, np.float32), np.float32([1, 1, 0, 1, 1, 1, 0, 1, 1])):
        value, gradient = slopes(name, a, b, valid)
        got, slope = slopes(name, a, b, valid, chunk=chunk)
        np.testing.assert_allclose(got, value, rtol=1e-6)
        # Rounding is that of the terms, which are of the size of the largest entries.
        np.testing.assert_allclose(slope, gradient, rtol=1e-5, atol=1e-6 * np.abs(gradient).max())
    for size in (1, 9, 100):
        np.testing.assert_allclose(LOSSES[name](a, b, chunk=size), LOSSES[name](a, b), rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("chunk", [0, 5])
def test_padding_is_inert(rng, name, chunk):
    a, b = two(rng)
    value, gradient = slopes(name, a, b)
    assert value > 0
    at = [0, 4, 9]  # rows that padding takes; the others keep their order
    real = np.setdiff1d(np.arange(12), at)
    valid = np.ones(12, np.float32)
    valid[at] = 0
    for filler in (0.0, 1e20, np.nan):
        padded = np.full((2, 12, 6), filler, np.float32)
        padded[:, real] = a, b
        got, slope = slopes(name, *padded, valid=valid, chunk=chunk)
        np.testing.assert_allclose(got, value, rtol=1e-6)
        np.testing.assert_allclose(slope[:, real], gradient, rtol=1e-5, atol=1e-6)
        assert not slope[:, at].any()


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_finite_where_nothing_can_be_learned(rng, name):
    a, b = two(rng)
    hard = a.copy()
    hard[2], hard[3] = 0, hard[4]
    none, all_of_them = np.zeros(9, np.float32), np.ones(9, np.float32)
    for left, right in ((hard, b), (0 * a, 0 * b), (1e4 * a, 1e-4 * b), (a, a), (a, -a)):
        for chunk in (0, 4):
            value, gradient = slopes(name, left, right, all_of_them, temperature=0.01, chunk=chunk)
            assert np.isfinite(value) and np.isfinite(gradient).all()
            value, gradient = slopes(name, left, right, none, chunk=chunk)
            assert value == 0 and not gradient.any()
    np.testing.assert_allclose(info_nce_loop(a[:1], b[:1], 10.0), 0, atol=1e-12)  # one pair has no negative
    np.testing.assert_allclose(LOSSES[name](a[:1], b[:1]), 0, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_symmetric_and_without_order(rng, name):
    (a, b), p = two(rng), rng.permutation(9)
    value = LOSSES[name](a, b)
    np.testing.assert_allclose(LOSSES[name](b, a), value, rtol=1e-6)
    np.testing.assert_allclose(LOSSES[name](a[p], b[p]), value, rtol=1e-6)
    np.testing.assert_allclose(LOSSES[name](3 * a, 0.1 * b), value, rtol=1e-5)  # lengths do not matter
    assert abs(LOSSES[name](a[p], b) - value) > 0.1  # pairs do


@pytest.mark.parametrize("name", LOSSES)
def test_low_precision_in_float32_out(rng, name):
    a, b = (jnp.asarray(x, jnp.bfloat16) for x in two(rng))
    exact = LOSSES[name](a.astype(jnp.float32), b.astype(jnp.float32))
    assert LOSSES[name](a, b).dtype == jnp.float32
    np.testing.assert_array_equal(LOSSES[name](a, b), exact)


@pytest.mark.parametrize("name", LOSSES)
def test_memory_of_a_large_batch(name):
    """XLA's own count for 32,768 × 128, forward and gradient: within 1 GB; without chunks a matrix alone takes 4 GB."""
    x = jax.ShapeDtypeStruct((32768, 128), jnp.float32)

    def temporary(chunk):
        both = jax.value_and_grad(lambda a, b: LOSSES[name](a, b, chunk=chunk), (0, 1))
        return jax.jit(both).lower(x, x).compile().memory_analysis().temp_size_in_bytes

    assert temporary(256) < 0.5e9 < 4e9 < temporary(0)


def test_alignment_and_uniformity(rng):
    a, b = two(rng)
    valid = np.float32([1, 1, 0, 1, 1, 1, 0, 1, 1])
    a[2] = np.nan
    x, y = (unit(s[valid > 0].astype(np.float64)) for s in (a, b))
    near = np.mean([np.sum((p - q) ** 2) for p, q in zip(x, y, strict=True)])
    spread = np.mean(
        [
            np.log(np.mean([np.exp(-2 * np.sum((s[i] - s[j]) ** 2)) for i in range(7) for j in range(i)]))
            for s in (x, y)
        ]
    )
    measure = jax.jit(contrastive.alignment_uniformity, static_argnames="chunk")
    for chunk in (0, 4):
        got = measure(a, b, valid=valid, chunk=chunk)
        np.testing.assert_allclose(got, (near, spread), rtol=1e-5)
        gradient = jax.grad(lambda e, c=chunk: sum(measure(e, b, valid=valid, chunk=c)))(a)
        assert np.isfinite(gradient).all() and not gradient[2].any() and np.abs(gradient).sum() > 0
    ones, pole, both = np.ones((2, 3), np.float32), np.eye(2, 3, dtype=np.float32), np.ones(2, np.float32)
    pole[1] = -pole[0]
    for a, b, valid, want in (
        (ones, ones, both, (0, 0)),
        (pole, -pole, both, (4, -8)),
        (pole, -pole, 0 * both, (0, 0)),
        (pole, -pole, np.float32([0, 1]), (4, 0)),
    ):
        np.testing.assert_allclose(measure(a, b, valid=valid), want, rtol=1e-6, atol=1e-6)


def test_clamped_scale():
    bounds = np.log([1.0, 100.0])
    for log_scale in (-3.0, bounds[0], 0.7, np.log(10), 4.0, bounds[1], 9.0):
        want = np.clip(np.exp(log_scale), 1, 100)
        got = contrastive.clamped_scale(jnp.float32(log_scale))
        assert 1 <= got <= 100
        np.testing.assert_allclose(got, want, rtol=1e-6)
        for sign in (1, -1):
            slope = jax.grad(lambda x, s=sign: s * contrastive.clamped_scale(x))(jnp.float32(log_scale))
            out = (want >= 100 and sign < 0) or (want <= 1 and sign > 0)  # descent would lead further out
            np.testing.assert_allclose(slope, 0 if out else sign * want, rtol=1e-6)


def test_scale_comes_back_from_beyond_its_bound(rng):
    """Random pairs want a low scale: descent from beyond the upper bound finds back, which a plain clip would not."""
    a, b = rng.normal(size=(2, 32, 4)).astype(np.float32)
    step = jax.jit(jax.grad(lambda s: contrastive.info_nce(a, b, logit_scale=contrastive.clamped_scale(s))))
    log_scale = jnp.float32(5.5)
    for _ in range(200):
        log_scale = log_scale - 0.02 * step(log_scale)
    assert np.log(1) - 0.1 < log_scale < np.log(5)


def test_total_and_curriculum():
    assert contrastive.total(2.0, [1.0, 4.0], 0.2) == pytest.approx(0.2 * 2 + 0.8 * 2.5)
    assert contrastive.total(2.0, [1.0, 4.0], 0.5, 3.0) == pytest.approx(0.5 * 2 + 3 * 2.5)
    weight = jax.jit(lambda step: contrastive.curriculum(step, 100))
    np.testing.assert_allclose(
        [weight(s) for s in (0, 25, 50, 100, 999)], [0.2, 0.35, 0.5, 0.8, 0.8], rtol=1e-6
    )
    assert contrastive.curriculum(5, 10, start=1.0, end=0.0) == 0.5
    with pytest.raises(UserError, match="at least one modality"):
        contrastive.total(1.0, [], 0.5)
    with pytest.raises(UserError, match="steps=0 of the curriculum must be at least 1"):
        contrastive.curriculum(0, 0)


@pytest.mark.usefixtures("unchecked")
def test_mistakes_are_one_line():
    x = np.zeros((4, 2), np.float32)
    for keywords, message in (
        ({"temperature": 0.1, "logit_scale": 10.0}, "not both"),
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"chunk": -1}, "chunk=-1 must be the number of rows"),
    ):
        for loss in LOSSES.values():
            with pytest.raises(UserError, match=message) as caught:
                loss(x, x, **keywords)
            assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="are not both"):
        contrastive.info_nce(x, x[:3])
    with pytest.raises(ValueError, match=r"valid \(3,\)"):
        contrastive.nt_xent(x, x, valid=np.ones(3))


PROGRAM = """
import jax, numpy as np
from fusionjax.distributed import mesh as mesh_lib
from tests.train.test_contrastive import LOSSES
assert jax.device_count() == 8
rng = np.random.default_rng(0)
a = rng.normal(size=(32, 6))
batch = {"a": a.astype(np.float32), "b": (a + rng.normal(size=a.shape)).astype(np.float32)}
batch["valid"] = np.float32(np.arange(32) % 11 > 0)
batch["a"][11] = np.nan
mesh = mesh_lib.create(32)
many = mesh_lib.put_batch(batch, mesh)
one = jax.device_put(batch, jax.devices()[0])
for name, loss in LOSSES.items():
    for chunk in (0, 8 if name == "info_nce" else 5):  # 5: blocks that the devices do not share evenly
        f = jax.jit(jax.value_and_grad(lambda a, b, valid: loss(a, b, valid=valid, chunk=chunk), (0, 1)))
        (u, du), (v, dv) = (f(*(data[key] for key in batch)) for data in (one, many))
        assert len(many["a"].sharding.device_set) == 8 and u > 0
        np.testing.assert_allclose(u, v, rtol=1e-6)
        for x, y in zip(du, dv):
            assert np.abs(x).max() > 1e-2
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    print(name)
"""


def test_eight_devices_give_the_loss_of_one():
    done = process.python("-c", PROGRAM, devices=8)
    assert done.stdout.split() == list(LOSSES)
