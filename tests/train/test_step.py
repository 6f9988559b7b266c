"""The step: accumulation, a step that is not finite, the moving average."""

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics

from fusionjax import config as config_lib
from fusionjax.train import optim, state, step


def settings(**fields):
    c = config_lib.default().optim
    with c.unlocked():
        c.update(fields)
    return c


def linear_problem(rng, *, accumulate=1, ema=0.0, batch=8, rate=0.1):
    x, y = rng.normal(size=(batch, 3)).astype(np.float32), rng.normal(size=batch).astype(np.float32)

    def loss(variables, batch, key):
        error = batch["x"] @ variables["params"]["w"] - batch["y"]
        mean = clu_metrics.Average(total=jnp.abs(error).sum(), count=jnp.float32(error.size))
        return (error**2).mean(), ({"error": mean}, {"seen": {"n": variables["seen"]["n"] + 1}})

    variables = {"params": {"w": jnp.ones(3)}, "seen": {"n": jnp.zeros((), jnp.int32)}}
    config = settings(name="sgd", schedule="constant", learning_rate=rate)
    optimizer = optim.create(config, variables["params"], steps=9, steps_per_epoch=1)
    begin = state.create(variables, optimizer, ema=ema > 0)
    return step.make(loss, optimizer, seed=0, accumulate=accumulate, ema_decay=ema), begin, {"x": x, "y": y}


def test_accumulation_equals_the_whole_batch():
    one, begin, batch = linear_problem(np.random.default_rng(0))
    four, _, _ = linear_problem(np.random.default_rng(0), accumulate=4)
    (a, m), (b, n) = jax.jit(one)(begin, batch), jax.jit(four)(begin, batch)
    np.testing.assert_allclose(a.params["w"], b.params["w"], rtol=1e-5)
    np.testing.assert_allclose(m["loss"].total, n["loss"].total, rtol=1e-5)
    np.testing.assert_allclose(m["error"].compute(), n["error"].compute(), rtol=1e-5)
    assert a.collections["seen"]["n"] == 1 and b.collections["seen"]["n"] == 4


def test_a_step_that_is_not_finite_changes_nothing():
    make, begin, batch = linear_problem(np.random.default_rng(0), ema=0.9)
    batch["y"][2] = np.nan
    after, metrics = jax.jit(make)(begin, batch)
    assert metrics["nonfinite"].total == 1
    jax.tree.map(np.testing.assert_array_equal, after, begin)


def test_an_update_to_parameters_that_are_not_finite_is_none():
    """Loss and gradient are finite, the learning rate is not to be borne."""
    make, begin, batch = linear_problem(np.random.default_rng(0), rate=3e38)
    after, metrics = jax.jit(make)(begin, batch)
    assert np.isfinite(metrics["grad_norm"].total) and metrics["nonfinite"].total == 1
    jax.tree.map(np.testing.assert_array_equal, after, begin)


def test_after_a_step_that_stops_the_run_nothing_changes():
    """The host sees it one step late: by then the next batch was given too."""
    make, begin, batch = linear_problem(np.random.default_rng(0))
    after, _ = jax.jit(make)(begin, batch, 0, -1)
    jax.tree.map(np.testing.assert_array_equal, after, begin)


def test_a_skipped_step_counts_and_changes_nothing_else():
    make, begin, batch = linear_problem(np.random.default_rng(0))
    batch["y"][2] = np.nan
    after, metrics = jax.jit(make)(begin, batch, 0, 1)
    assert metrics["nonfinite"].total == 1 and after.step == 1
    np.testing.assert_array_equal(after.params["w"], begin.params["w"])


def test_moving_average():
    make, begin, batch = linear_problem(np.random.default_rng(0), ema=0.9)
    after, _ = jax.jit(make)(begin, batch)
    want = 0.1 * begin.params["w"] + 0.9 * after.params["w"]  # (1 + 0) / (10 + 0) at the first step
    np.testing.assert_allclose(after.ema["w"], want, rtol=1e-6)
    np.testing.assert_array_equal(after.averaged["params"]["w"], after.ema["w"])
