"""Optimiser, step and losses."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from clu import metrics as clu_metrics

from fusionjax import config as config_lib
from fusionjax.errors import UserError
from fusionjax.models.parameters import Parameters, Place
from fusionjax.train import losses, optim, state, step


def params():
    return {
        "blocks": {"fc": {"kernel": jnp.ones((3, 2, 2)), "bias": jnp.ones((3, 2))}},
        "patch_embed": {"kernel": jnp.ones((2, 2))},
        "head": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
    }


def known():
    """What `models.parameters.of` says of a ViT of depth 3."""
    return Parameters(
        (),
        (
            Place(re.compile("patch_embed/.*"), 4),
            Place(re.compile("blocks/.*"), 3, stacked=True),
            Place(re.compile("head/.*"), 0),
        ),
    )


def settings(**fields):
    c = config_lib.default().optim
    with c.unlocked():
        c.update(fields)
    return c


def updates(config, grads=None, steps=10):
    optimizer = optim.create(config, params(), steps=steps, steps_per_epoch=5, parameters=known())
    trainable, _ = optimizer.split(params())
    grads = jax.tree.map(jnp.ones_like, trainable) if grads is None else grads
    return optimizer.tx.update(grads, optimizer.tx.init(trainable), trainable)[0]


def test_sgd_step_is_the_gradient_times_the_rate():
    got = updates(settings(name="sgd", schedule="constant", learning_rate=0.5))
    assert all(np.allclose(u, -0.5) for u in got.values())


def test_decay_spares_what_the_patterns_name():
    got = updates(
        settings(name="sgd", schedule="constant", learning_rate=1.0, weight_decay=0.1, no_decay=("bias$",))
    )
    for name, u in got.items():
        np.testing.assert_allclose(u, -1.0 if name.endswith("bias") else -1.1, rtol=1e-6)


def test_adam_decays_in_the_gradient_and_adamw_beside_it():
    zero = {n: jnp.zeros_like(v) for n, v in state.flatten(params()).items()}
    coupled = updates(settings(name="adam", schedule="constant", learning_rate=1.0, weight_decay=0.1), zero)
    apart = updates(settings(name="adamw", schedule="constant", learning_rate=1.0, weight_decay=0.1), zero)
    np.testing.assert_allclose(
        coupled["head/bias"], -1, rtol=1e-4
    )  # Adam's step is the sign, whatever the size
    np.testing.assert_allclose(apart["head/bias"], -0.1, rtol=1e-4)


def test_layer_decay_falls_from_the_head_down():
    got = updates(settings(name="sgd", schedule="constant", learning_rate=1.0, layer_decay=0.5))
    np.testing.assert_allclose(got["head/kernel"], -1)
    np.testing.assert_allclose(got["blocks/fc/bias"][:, 0], [-0.125, -0.25, -0.5])
    np.testing.assert_allclose(got["patch_embed/kernel"], -0.0625)


def test_rules_multiply():
    got = updates(
        settings(
            name="sgd", schedule="constant", learning_rate=1.0, lr_rules=(("bias$", 2.0), ("^head/", 3.0))
        )
    )
    np.testing.assert_allclose(got["head/bias"], -6)
    np.testing.assert_allclose(got["head/kernel"], -3)
    np.testing.assert_allclose(got["blocks/fc/bias"], -2)


def test_frozen_parameters_have_no_optimiser_state():
    optimizer = optim.create(settings(freeze=("^blocks/",)), params(), steps=1, steps_per_epoch=1)
    trainable, frozen = optimizer.split(params())
    assert set(frozen) == {"blocks/fc/kernel", "blocks/fc/bias"}
    held = optimizer.tx.init(trainable)
    assert not any(
        "blocks" in jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_flatten_with_path(held)[0]
    )
    assert jax.tree.structure(optimizer.join(trainable, frozen)) == jax.tree.structure(params())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(freeze=("nothing",)), "'nothing' matches no parameter"),
        (dict(no_decay=("(",)), "not a regular expression"),
        (dict(lr_rules=(("zzz", 2.0),)), "'zzz' matches no parameter"),
        (dict(freeze=(".",)), "leaves no parameter to train"),
        (dict(freeze=("^(blocks|patch_embed)/",), layer_decay=0.5), "no parameter that trains belongs to"),
    ],
)
def test_patterns_that_do_nothing_are_refused(fields, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        updates(settings(**fields))


def test_schedule_warms_up_and_falls():
    c = settings(learning_rate=1.0, final_lr=0.1, warmup_epochs=1.0)
    rate = optim.create(c, params(), steps=20, steps_per_epoch=5).schedule
    np.testing.assert_allclose([rate(i) for i in range(5)], [0.2, 0.4, 0.6, 0.8, 1.0], rtol=1e-5)
    assert rate(5) == 1.0 and abs(rate(20) - 0.1) < 1e-6
    assert all(rate(i) >= rate(i + 1) for i in range(5, 20))


def test_label_smoothing_equals_optax(rng):
    logits, labels = rng.normal(size=(6, 4)), rng.integers(0, 4, 6)
    smooth = optax.smooth_labels(jax.nn.one_hot(labels, 4), 0.1)
    want = optax.softmax_cross_entropy(logits, smooth)
    np.testing.assert_allclose(losses.cross_entropy(logits, labels, label_smoothing=0.1), want, rtol=1e-5)
    np.testing.assert_allclose(losses.cross_entropy(logits, smooth), want, rtol=1e-5)


def test_padding_does_not_enter_the_mean():
    values = jnp.array([1.0, 3.0, jnp.inf])
    assert losses.masked_mean(values, jnp.array([1.0, 1.0, 0.0])) == 2
    assert jax.grad(lambda v: losses.masked_mean(v, jnp.array([1.0, 1.0, 0.0])))(values)[2] == 0
    assert losses.masked_mean(values, jnp.zeros(3)) == 0


def test_uncertainty_weighting_is_the_equation():
    got = losses.uncertainty_weighted({"sa": 2.0, "glca": 3.0}, {"sa": 0.5, "glca": -1.0, "pwca": 9.0})
    assert abs(got - 0.5 * (np.exp(-0.5) * 2 + 0.5 + np.exp(1.0) * 3 - 1)) < 1e-5
    start = losses.uncertainty_weighted({"sa": 2.0}, {"sa": 0.0})
    assert start == 1.0


def linear_problem(rng, *, accumulate=1, ema=0.0, batch=8):
    x, y = rng.normal(size=(batch, 3)).astype(np.float32), rng.normal(size=batch).astype(np.float32)

    def loss(variables, batch, key):
        error = batch["x"] @ variables["params"]["w"] - batch["y"]
        mean = clu_metrics.Average(total=jnp.abs(error).sum(), count=jnp.float32(error.size))
        return (error**2).mean(), ({"error": mean}, {"seen": {"n": variables["seen"]["n"] + 1}})

    variables = {"params": {"w": jnp.ones(3)}, "seen": {"n": jnp.zeros((), jnp.int32)}}
    config = settings(name="sgd", schedule="constant", learning_rate=0.1)
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


def test_micro_batches_are_neighbours_on_their_device():
    parts = step._micro_batches(jnp.arange(8), 2, 2)
    np.testing.assert_array_equal(parts, [[0, 1, 4, 5], [2, 3, 6, 7]])


def test_a_step_that_is_not_finite_changes_nothing():
    make, begin, batch = linear_problem(np.random.default_rng(0), ema=0.9)
    batch["y"][2] = np.nan
    after, metrics = jax.jit(make)(begin, batch)
    assert metrics["nonfinite"].total == 1
    jax.tree.map(np.testing.assert_array_equal, after, begin)


def test_moving_average():
    make, begin, batch = linear_problem(np.random.default_rng(0), ema=0.9)
    after, _ = jax.jit(make)(begin, batch)
    want = 0.1 * begin.params["w"] + 0.9 * after.params["w"]  # (1 + 0) / (10 + 0) at the first step
    np.testing.assert_allclose(after.ema["w"], want, rtol=1e-6)
    np.testing.assert_array_equal(after.averaged["params"]["w"], after.ema["w"])


def test_what_a_task_freezes_is_not_decayed_either():
    config = settings(name="adamw", weight_decay=0.5, learning_rate=1.0, schedule="constant")
    optimizer = optim.create(config, params(), steps=1, steps_per_epoch=1, frozen=("^patch_embed/",))
    assert "patch_embed/kernel" in optimizer.frozen
    assert "patch_embed/kernel" not in optimizer.split(params())[0]
