"""Micro-batches: the loss and the gradient of the whole batch, whatever counts in each, in flat memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clu import metrics as clu_metrics

from fusionjax import config as config_lib
from fusionjax.train import accumulation, losses, metric_losses, optim, state, step


def loss(variables, batch, key):
    """Two means over different rows, as in re-identification: of valid rows, and of those with a positive and a negative."""
    x = batch["x"] @ variables["params"]["w"]
    fit = losses.masked_mean(jnp.square(x[:, 0] - batch["y"]), batch["valid"])
    known = losses.masked_mean(jnp.square(x[:, 1] - batch["y"]), batch["valid"] * batch["known"])
    return fit + 0.3 * known, ({"fit": clu_metrics.Average(total=fit, count=jnp.ones(()))}, {})


def batch(rng, size=8):
    return {
        "x": rng.normal(size=(size, 3)).astype(np.float32),
        "y": rng.normal(size=size).astype(np.float32),
        "valid": np.r_[np.ones(size - 1), 0].astype(np.float32),
        "known": (np.arange(size) < 3).astype(np.float32),
    }


def stepped(of, params, rows, **arguments):
    c = config_lib.default().optim
    with c.unlocked():
        c.update(dict(name="sgd", schedule="constant", learning_rate=0.1, momentum=0.0))
    optimizer = optim.create(c, params, steps=9, steps_per_epoch=1)
    begin = state.create({"params": params}, optimizer, ema=False)
    return jax.jit(step.make(of, optimizer, seed=0, **arguments))(begin, rows)


@pytest.mark.parametrize("micro_batches", [2, 4])
def test_unequal_counts_give_the_whole_batch_s_gradient(rng, micro_batches):
    params, rows = {"w": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)}, batch(rng)
    (whole, want), (parts, got) = (
        stepped(loss, params, rows), stepped(loss, params, rows, accumulate=micro_batches)
    )  # fmt: skip
    np.testing.assert_allclose(parts.params["w"], whole.params["w"], rtol=1e-5)
    for name in ("loss", "grad_norm", "fit"):
        np.testing.assert_allclose(got[name].compute(), want[name].compute(), rtol=1e-5)


def test_four_rows_of_which_one_is_invalid():
    """By hand: gradients 2 · 3 = 6, 2, … of three rows; the mean of the micro-batches' means is another number."""
    rows = {"x": np.float32([3, 1, 2, 5]), "valid": np.float32([1, 1, 1, 0])}

    def square(variables, batch, key):
        each = jnp.square(variables["params"]["w"] * batch["x"])
        return losses.masked_mean(each, batch["valid"]), ({}, {})

    _, metrics = stepped(square, {"w": jnp.ones(())}, rows, accumulate=2)
    np.testing.assert_allclose(metrics["grad_norm"].total, 2 * (9 + 1 + 4) / 3, rtol=1e-6)  # not 9


def test_a_batch_without_a_row_that_counts_has_no_gradient(rng):
    rows = {**batch(rng), "valid": np.zeros(8, np.float32)}
    _, metrics = stepped(loss, {"w": jnp.ones((3, 2))}, rows, accumulate=4)
    assert metrics["grad_norm"].total == 0 and metrics["nonfinite"].total == 0


def test_anchors_count_as_they_do_in_their_micro_batch(rng):
    """The triplet loss: hard pairs within a micro-batch, the mean over all anchors of the batch."""
    rows = {"x": rng.normal(size=(8, 3)).astype(np.float32), "id": np.array([0, 0, 1, 2, 3, 3, 4, 4])}
    rows["valid"] = np.ones(8, np.float32)
    w = jnp.asarray(rng.normal(size=(3, 3)), jnp.float32)

    def triplet(variables, batch, key):
        values = metric_losses.triplet(batch["x"] @ variables["params"]["w"], batch["id"], batch["valid"])
        return losses.masked_mean(*values), ({}, {})

    def by_hand(w):
        halves = [
            metric_losses.triplet(rows["x"][i : i + 4] @ w, rows["id"][i : i + 4], rows["valid"][i : i + 4])
            for i in (0, 4)
        ]
        return sum(v.sum() for v, _ in halves) / sum(n.sum() for _, n in halves)

    after, metrics = stepped(triplet, {"w": w}, rows, accumulate=2)
    value, slope = jax.value_and_grad(by_hand)(w)
    np.testing.assert_allclose(metrics["loss"].total, value, rtol=1e-5)
    np.testing.assert_allclose(after.params["w"], w - 0.1 * slope, rtol=1e-4, atol=1e-6)


def deep(variables, batch, key):
    x = batch["x"] @ variables["params"]["w"]
    return losses.masked_mean(jnp.square(x).sum(-1), batch["valid"]), ({}, {})


def compiled(micro_batches, width=256):
    def of(collections, batch, key):
        return jax.value_and_grad(
            lambda w: deep({"params": {"w": w}, **collections}, batch, key), has_aux=True
        )(w)

    w = jnp.ones((width, width))
    rows = {"x": jnp.ones((64, width)), "valid": jnp.ones(64)}
    run = lambda rows: accumulation.gradient(  # noqa: E731
        of, {}, rows, jax.random.key(0), micro_batches=micro_batches, shards=1
    )
    return jax.jit(run).lower(rows).compile()


def test_memory_does_not_grow_with_the_number_of_micro_batches():
    few, many = (compiled(n).memory_analysis().temp_size_in_bytes for n in (2, 32))
    assert many < 1.2 * few, "the sum of the gradients is carried, not a stack of them"


def test_counting_costs_nothing():
    """The pass that adds up the counts is compiled without the model: a fraction of one gradient's operations."""
    one, two = (compiled(n).cost_analysis()["flops"] for n in (1, 2))
    assert two < 0.75 * one, "the body of the loop is counted once, and nothing beside it"


def test_micro_batches_are_neighbours_on_their_device():
    parts = accumulation._split(jnp.arange(8), 2, 2)
    np.testing.assert_array_equal(parts, [[0, 1, 4, 5], [2, 3, 6, 7]])
