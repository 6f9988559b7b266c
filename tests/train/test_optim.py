"""LARS against google-research/simclr's update, written out in NumPy."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fusionjax import config as config_lib
from fusionjax import models
from fusionjax.models import parameters
from fusionjax.models.parameters import Parameters, Place
from fusionjax.train import optim

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


def test_it_is_the_reference(rng):
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
