"""Optimisers and their groups of parameters; LARS against google-research/simclr's update, written out in NumPy."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fusionjax import config as config_lib
from fusionjax import models
from fusionjax.errors import UserError
from fusionjax.models import parameters
from fusionjax.models.parameters import Parameters, Place
from fusionjax.train import optim
from fusionjax.train import state as state_lib

SHAPES = {"layer/kernel": (3, 4), "layer/bias": (4,), "norm/scale": (4,), "pos_embed": (1, 2, 4),
          "blocks/mlp/kernel": (2, 4, 4),
          "blocks/norm/scale": (2, 4), "new/kernel": (2, 2)}  # fmt: skip
ADAPTED = ("layer/kernel", "blocks/mlp/kernel", "new/kernel")
RATE, DECAY, MOMENTUM, TRUST = 0.3, 0.1, 0.9, 0.02


def reference(params, grads, velocity):
    """One update of every layer; a stacked block is a layer each."""
    for name, w in params.items():
        layers = range(len(w)) if name.startswith("blocks/") else [slice(None)]
        for i in layers:
            g = grads[name][i].astype(np.float64)
            rate = RATE
            if name in ADAPTED:
                g = g + DECAY * w[i]
                norms = np.linalg.norm(w[i]), np.linalg.norm(g)
                rate *= TRUST * norms[0] / norms[1] if min(norms) > 0 else 1.0
            velocity[name][i] = MOMENTUM * velocity[name][i] + rate * g
            w[i] -= velocity[name][i]


def test_lars_is_the_reference(rng):
    c = config_lib.default().optim
    c.name, c.learning_rate, c.schedule, c.weight_decay, c.momentum = (
        "lars",
        RATE,
        "constant",
        DECAY,
        MOMENTUM,
    )
    c.trust_coefficient, c.no_decay = TRUST, ("pos_embed$",)
    start = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    start["new/kernel"][:] = 0  # without a norm there is no ratio
    optimizer = optim.create(
        c,
        optim.unflatten({k: jnp.asarray(v) for k, v in start.items()}),
        steps=9,
        steps_per_epoch=3,
        parameters=Parameters((), (Place(re.compile("blocks/.*"), 2, stacked=True),)),
    )
    params = {k: jnp.asarray(v) for k, v in start.items()}
    state = optimizer.tx.init(params)
    mine = {k: v.astype(np.float64) for k, v in start.items()}
    velocity = {k: np.zeros_like(v) for k, v in mine.items()}
    for _ in range(4):
        grads = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
        updates, state = optimizer.tx.update({k: jnp.asarray(g) for k, g in grads.items()}, state, params)
        params = optax.apply_updates(params, updates)
        reference(mine, grads, velocity)
    for name, value in mine.items():
        np.testing.assert_allclose(params[name], value, rtol=2e-5, atol=1e-6, err_msg=name)


def test_crossvits_stacked_blocks_are_a_layer_each_and_their_biases_are_not_adapted(rng):
    """Two blocks of which one has ten times the weights: each moves by its own ratio."""
    module = models.create("crossvit_9_240", img_size=(48, 48), depth=((1, 2, 0),), embed_dim=(12, 24))
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 48, 48, 3)))["params"]
    c = config_lib.default().optim
    c.name, c.learning_rate, c.schedule, c.weight_decay, c.momentum = "lars", 1.0, "constant", 0.0, 0.0
    c.trust_coefficient = TRUST
    optimizer = optim.create(c, shapes, steps=9, steps_per_epoch=3, parameters=parameters.of(module))
    flat = optim.flatten(shapes)
    params = {k: jnp.asarray(rng.normal(size=v.shape), jnp.float32) for k, v in flat.items()}
    kernel, bias = "stage_0_branch_1/mlp/fc1/kernel", "stage_0_branch_1/mlp/fc1/bias"
    params[kernel] = params[kernel].at[1].multiply(10)
    grads = {k: jnp.asarray(rng.normal(size=v.shape), jnp.float32) for k, v in flat.items()}
    updates, _ = optimizer.tx.update(grads, optimizer.tx.init(params), params)
    np.testing.assert_allclose(updates[bias], -grads[bias], rtol=1e-6)
    for block in range(2):
        w, g = params[kernel][block], grads[kernel][block]
        want = -TRUST * np.linalg.norm(w) / np.linalg.norm(g) * g
        np.testing.assert_allclose(updates[kernel][block], want, rtol=1e-5)


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
    zero = {n: jnp.zeros_like(v) for n, v in state_lib.flatten(params()).items()}
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


def test_what_a_task_freezes_is_not_decayed_either():
    config = settings(name="adamw", weight_decay=0.5, learning_rate=1.0, schedule="constant")
    optimizer = optim.create(config, params(), steps=1, steps_per_epoch=1, frozen=("^patch_embed/",))
    assert "patch_embed/kernel" in optimizer.frozen
    assert "patch_embed/kernel" not in optimizer.split(params())[0]
