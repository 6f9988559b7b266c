"""Convolutional trunks before DCAL: frozen, cut, cached."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fusionjax
from configs import quickstart
from fusionjax import config as config_lib
from fusionjax import models, tasks
from fusionjax.errors import UserError
from fusionjax.experiment import trainer
from fusionjax.tasks.base.protocol import Facts


@pytest.fixture(autouse=True)
def libraries_warn(recwarn):
    """Orbax and Grain warn about their own internals; ours are errors elsewhere."""


def small(**fields):
    return models.create(
        "dcal_vit_shallow",
        trunk="efficientnet_lite0",
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
        models.create("dcal_vit_shallow", **{"trunk": "efficientnet_lite0", "image_size": 64, **fields})


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


def test_cached_features_give_the_run_that_images_give(tmp_path):
    """The small quick start; its scores again from the images; started again, the cache is used and nothing changes."""
    config = quickstart.get_config("runlocal")
    summary = trainer.Experiment(config, tmp_path).train()
    files = sorted(p.name for p in (tmp_path / "features").iterdir())
    assert len(files) == 6 and not any("part" in name for name in files)
    run = fusionjax.load(tmp_path)
    scores = run.task.scorer.scalars(run.evaluate())
    # The cache holds float16.
    assert summary["test/nll"] == pytest.approx(float(scores["test/nll"]), rel=2e-3)
    assert summary["test/accuracy"] == pytest.approx(float(scores["test/accuracy"]), abs=0.011)
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "features").iterdir()}
    again = trainer.Experiment(quickstart.get_config("runlocal"), tmp_path).train()
    assert again["test/nll"] == summary["test/nll"]
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "features").iterdir()} == stamps
    page = (pathlib.Path(tmp_path) / "report" / "index.html").read_text()
    assert "Logistic regression, frozen features" in page and "most frequent class of this split" in page
    assert json.loads((tmp_path / "config.json").read_text())["images"] == {"train": 1518, "test": 380}
