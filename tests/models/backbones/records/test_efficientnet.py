"""EfficientNet as the trunk of a DCAL: frozen, and cut in two."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import quickstart
from fusionjax import config as config_lib
from fusionjax import models, tasks
from fusionjax.errors import UserError
from fusionjax.tasks.base.protocol import Facts


def small(**fields):
    return models.create(
        "dcal_vit_shallow",
        trunk="tf_efficientnet_lite0",
        image_size=64,
        width=16,
        heads=2,
        depth=1,
        num_classes=3,
        **fields,
    )


def test_a_cut_trunk_is_the_whole_one(rng):
    images = rng.normal(size=(2, 64, 64, 3)).astype(np.float32)
    whole, cut = (
        small(trunk_features="stride32"),
        small(trunk_features="stride32", train_trunk_from="stride16"),
    )
    a = whole.init(jax.random.key(0), images)
    b = cut.init(jax.random.key(0), images)
    parts = {"trunk": b["params"]["trunk"], "neck": b["params"]["neck"]}
    assert not set(parts["trunk"]) & set(parts["neck"])
    assert set(parts["trunk"]) | set(parts["neck"]) == set(a["params"]["trunk"])
    for tree in ("params", "batch_stats"):
        for part in ("trunk", "neck"):
            b[tree][part] = {name: a[tree]["trunk"][name] for name in b[tree][part]}
    b["params"] |= {k: v for k, v in a["params"].items() if k != "trunk"}
    np.testing.assert_allclose(cut.apply(b, images)[0], whole.apply(a, images)[0], rtol=1e-4, atol=1e-5)
    features = cut.apply(b, images, method="run_trunk")
    assert features.shape == (2, 4, 4, 112)
    np.testing.assert_allclose(
        cut.apply(b, features=features)[0], cut.apply(b, images)[0], rtol=1e-4, atol=1e-5
    )


def test_a_frozen_trunk_has_no_gradient_and_keeps_its_statistics(rng):
    images = rng.normal(size=(2, 64, 64, 3)).astype(np.float32)
    module = small(freeze_trunk=True, trunk_norm=True, train_trunk_from="stride16")
    variables = module.init(jax.random.key(0), images)

    def loss(params):
        (_, aux), new = module.apply(
            {**variables, "params": params},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(1)},
        )
        return sum(jnp.square(x).sum() for x in aux["logits"].values()), new

    grads, new = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    assert not any(np.any(g) for g in jax.tree.leaves(grads["trunk"]))
    assert any(np.any(g) for g in jax.tree.leaves(grads["neck"]))
    before, after = variables["batch_stats"], new["batch_stats"]
    for part in ("trunk", "neck"):
        jax.tree.map(np.testing.assert_array_equal, before[part], after[part])
    assert np.any(before["feature_norm"]["mean"] != after["feature_norm"]["mean"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(train_trunk_from="stride8"), "allowed is stride16"),
        (dict(trunk_features="stride16", train_trunk_from="stride16"), "allowed is stride16"),
        (dict(trunk="vgg"), "model.trunk='vgg' is not known"),
    ],
)
def test_impossible_trunks(fields, message):
    with pytest.raises(UserError, match=message):
        models.create("dcal_vit_shallow", **{"trunk": "tf_efficientnet_lite0", "image_size": 64, **fields})


def test_pretrained_weights_land_in_both_parts():
    config = config_lib.validate(quickstart.get_config())
    task = tasks.create(config, Facts(("a", "b", "c")))
    variables = jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(task.model.init, jax.random.key(0))
    )
    merged = task.model.load_pretrained(variables)
    for part in ("trunk", "neck"):
        assert all(np.any(x) for x in jax.tree.leaves(merged["params"][part]))
        assert all(np.any(x) for x in jax.tree.leaves(merged["batch_stats"][part]))
    assert not any(np.any(x) for x in jax.tree.leaves(merged["params"]["blocks"]))
