"""Metric-learning losses against loops over all pairs, and what must hold whatever the batch."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.errors import UserError
from fusionjax.train import losses, metric_losses

IDS = np.array([3, 3, 5, 5, 5, 8, 3, 9], np.int32)  # 8 and 9 have no positive
LOSSES = {
    "soft": metric_losses.triplet,
    "hinge": lambda *a: metric_losses.triplet(*a, margin=0.3),
    "cosine": lambda *a: metric_losses.triplet(*a, margin=0.2, metric="cosine"),
    "circle": metric_losses.circle,
}


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def triplet_loop(x, ids, margin, metric):
    x, out = x.astype(np.float64), {}
    for a in range(len(x)):
        positive, negative = [], []
        for b in range(len(x)):
            if a == b:
                continue
            far = np.linalg.norm(x[a] - x[b]) if metric == "euclidean" else 1 - unit(x[a]) @ unit(x[b])
            (positive if ids[a] == ids[b] else negative).append(far)
        if positive and negative:
            gap = max(positive) - min(negative)
            out[a] = np.log1p(np.exp(gap)) if margin is None else max(0.0, margin + gap)
    return out


def circle_loop(x, ids, margin, scale):
    x, out = unit(x.astype(np.float64)), {}
    for a in range(len(x)):
        positive, negative = [], []
        for b in range(len(x)):
            s = x[a] @ x[b]
            if ids[a] != ids[b]:
                negative.append(np.exp(scale * max(0, s + margin) * (s - margin)))
            elif a != b:
                positive.append(np.exp(-scale * max(0, 1 + margin - s) * (s - 1 + margin)))
        if positive and negative:
            out[a] = np.log1p(sum(positive) * sum(negative))
    return out


def check(got, want):
    values, counted = got
    np.testing.assert_array_equal(np.flatnonzero(counted), sorted(want))
    np.testing.assert_allclose(
        [values[a] for a in sorted(want)], [want[a] for a in sorted(want)], rtol=2e-5, atol=1e-6
    )
    assert (
        values.dtype == counted.dtype == jnp.float32
        and not np.asarray(values)[np.asarray(counted) == 0].any()
    )


@pytest.mark.parametrize("metric", metric_losses.METRICS)
@pytest.mark.parametrize("margin", [None, 0.3, 2.0])
def test_triplet_equals_the_loop(rng, metric, margin):
    for _ in range(5):
        x = rng.normal(size=(8, 6)).astype(np.float32)
        check(
            metric_losses.triplet(x, IDS, margin=margin, metric=metric), triplet_loop(x, IDS, margin, metric)
        )


@pytest.mark.parametrize(("margin", "scale"), [(0.25, 64.0), (0.4, 8.0)])
def test_circle_equals_the_loop(rng, margin, scale):
    for _ in range(5):
        x = rng.normal(size=(8, 6)).astype(np.float32)
        check(metric_losses.circle(x, IDS, margin=margin, scale=scale), circle_loop(x, IDS, margin, scale))


def test_circle_weights_carry_no_gradient(rng):
    """One positive, one negative, all on one plane: d value / d s_n = σ(·) γ α_n with α_n held fixed."""
    x = unit(rng.normal(size=(3, 4))).astype(np.float32)
    ids, m, g = np.array([0, 0, 1]), 0.25, 4.0
    gradient = jax.grad(lambda e: metric_losses.circle(e, ids, margin=m, scale=g)[0][0])(jnp.asarray(x))[2]
    x = x.astype(np.float64)
    s_p, s_n = x[0] @ x[1], x[0] @ x[2]
    a_p, a_n = max(0, 1 + m - s_p), max(0, s_n + m)
    logit = g * (a_n * (s_n - m) - a_p * (s_p - 1 + m))
    along = x[0] - s_n * x[2]  # of the cosine, for a vector of unit length
    np.testing.assert_allclose(gradient, g * a_n / (1 + np.exp(-logit)) * along, rtol=1e-4, atol=1e-6)


def test_center_and_its_rule(rng):
    x, centers = rng.normal(size=(5, 3)).astype(np.float32), rng.normal(size=(4, 3)).astype(np.float32)
    labels, valid = np.array([0, 2, 2, 3, 0]), np.array([1, 1, 1, 0, 1], np.float32)
    want = [0.5 * sum((x[i, d] - centers[labels[i], d]) ** 2 for d in range(3)) for i in range(5)]
    np.testing.assert_allclose(metric_losses.center(x, labels, centers), want, rtol=1e-6)
    to_x, to_c = jax.grad(lambda e, c: metric_losses.center(e, labels, c).sum(), (0, 1))(x, centers)
    np.testing.assert_allclose(to_x, x - centers[labels], rtol=1e-5)
    np.testing.assert_allclose(to_c[2], 2 * centers[2] - x[1] - x[2], rtol=1e-5)
    assert not to_c[1].any()
    moved = centers.astype(np.float64)
    for j in range(4):
        mine = [i for i in range(5) if labels[i] == j and valid[i]]
        moved[j] -= 0.5 * sum((centers[j] - x[i] for i in mine), np.zeros(3)) / (1 + len(mine))
    x[3] = np.nan
    np.testing.assert_allclose(metric_losses.move_centers(x, labels, centers, valid), moved, rtol=1e-5)
    np.testing.assert_array_equal(moved[[1, 3]], centers[[1, 3]].astype(np.float64))


def total(loss):
    return jax.jit(jax.value_and_grad(lambda e, ids, valid: losses.masked_mean(*loss(e, ids, valid))))


@pytest.mark.parametrize("name", LOSSES)
def test_padding_is_inert(rng, name):
    x = rng.normal(size=(8, 6)).astype(np.float32)
    value, gradient = total(LOSSES[name])(x, IDS, np.ones(8, np.float32))
    assert value > 0 and np.abs(gradient).sum() > 0
    for filler in (0.0, 1e20, np.nan):
        padded = np.concatenate([x, np.full((4, 6), filler, np.float32)])
        ids, valid = np.concatenate([IDS, [3, 3, 0, 8]]), np.repeat(np.float32([1, 0]), [8, 4])
        got, slope = total(LOSSES[name])(padded, ids, valid)
        np.testing.assert_allclose(got, value, rtol=1e-6)
        np.testing.assert_allclose(slope[:8], gradient, rtol=1e-5, atol=1e-7)
        assert not np.asarray(slope[8:]).any()


@pytest.mark.parametrize("name", LOSSES)
def test_order_does_not_matter(rng, name):
    x, p = rng.normal(size=(8, 6)).astype(np.float32), rng.permutation(8)
    values, counted = LOSSES[name](x, IDS)
    again, counted_again = LOSSES[name](x[p], IDS[p])
    np.testing.assert_allclose(again, values[p], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(counted_again, counted[p])


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_finite_and_right(rng, name):
    ones = np.ones(8, np.float32)
    x = rng.normal(size=(8, 6)).astype(np.float32)
    x[1] = x[0]  # a positive at distance 0
    x[2] = x[0]  # a negative at distance 0
    x[5] = 0
    for batch in (x, np.zeros_like(x), 1e4 * x, np.repeat(x[:1], 8, 0)):
        value, gradient = total(LOSSES[name])(batch, IDS, ones)
        assert np.isfinite(value) and np.isfinite(gradient).all()
    if name == "circle":  # its weights are held fixed: no slope of the value itself
        return
    x = rng.normal(size=(8, 6)).astype(np.float32)
    value, gradient = total(LOSSES[name])(x, IDS, ones)
    direction = rng.normal(size=x.shape).astype(np.float32)
    step = 1e-2
    up, down = (total(LOSSES[name])(x + s * direction, IDS, ones)[0] for s in (step, -step))
    np.testing.assert_allclose((up - down) / (2 * step), (gradient * direction).sum(), rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_counts_without_pairs(rng, name):
    x = rng.normal(size=(4, 6)).astype(np.float32)
    for ids in (np.arange(4), np.zeros(4, int)):  # no positives; no negatives
        value, gradient = total(LOSSES[name])(x, ids, np.ones(4, np.float32))
        assert value == 0 and not np.asarray(gradient).any()
    value, gradient = total(LOSSES[name])(x, np.array([0, 0, 1, 1]), np.zeros(4, np.float32))
    assert value == 0 and not np.asarray(gradient).any()


def test_low_precision_in_float32_out(rng):
    x = jnp.asarray(rng.normal(size=(8, 6)), jnp.bfloat16)
    for loss in LOSSES.values():
        values, _ = loss(x, IDS)
        exact, _ = loss(x.astype(jnp.float32), IDS)
        assert values.dtype == jnp.float32
        np.testing.assert_array_equal(values, exact)


def test_unknown_metric_is_one_line():
    with pytest.raises(UserError, match="'l1' is unknown; use euclidean or cosine"):
        metric_losses.triplet(np.zeros((2, 2)), np.zeros(2, int), metric="l1")


PROGRAM = """
import jax, numpy as np
from fusionjax.distributed import mesh as mesh_lib
from fusionjax.train import losses
from tests.train.test_metric_losses import LOSSES
assert jax.device_count() == 8
rng = np.random.default_rng(0)
batch = {"x": rng.normal(size=(16, 6)).astype(np.float32), "ids": (np.arange(16) // 3).astype(np.int32)}
batch["valid"] = np.float32(np.arange(16) < 14)
mesh = mesh_lib.create(16)
many = mesh_lib.put_batch(batch, mesh)
one = jax.device_put(batch, jax.devices()[0])
for name, loss in LOSSES.items():
    f = jax.jit(jax.value_and_grad(lambda x, ids, valid: losses.masked_mean(*loss(x, ids, valid))))
    (a, da), (b, db) = (f(*(data[key] for key in batch)) for data in (one, many))
    assert len(many["x"].sharding.device_set) == 8 and a > 0
    np.testing.assert_allclose(a, b, rtol=1e-6)
    np.testing.assert_allclose(da, db, rtol=1e-5, atol=1e-6)
    print(name)
"""


def test_eight_devices_give_the_loss_of_one():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags}
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, cwd=root
    )
    assert done.stdout.split() == list(LOSSES), done.stderr
