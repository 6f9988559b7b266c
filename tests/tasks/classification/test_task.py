"""Any image model as a classifier: CrossViT with its recipe, convolutional networks, and what does not go together."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fusionjax
from fusionjax import config as config_lib
from fusionjax import pretrained, tasks
from fusionjax.errors import UserError
from fusionjax.experiment import trainer
from fusionjax.tasks.base.protocol import Facts
from fusionjax.train import losses, optim, state, step
from tests.support import frozen_trunk, tiny


def config(name, **model):
    c = tiny.get_config()
    default = config_lib.default().model
    c.model = default.copy_and_resolve_references()
    c.model.name = name
    for key, value in model.items():
        c.model[key] = value
    return c


def crossvit(**loss):
    c = config("crossvit_9_240", drop_path=0.1)
    m = c.model.crossvit
    m.img_size, m.patch_size, m.embed_dim, m.num_heads = (32, 32), (8, 16), (12, 24), (3, 3)
    m.depth, m.mlp_ratio = ((1, 2, 0),), (2.0, 2.0, 1.0)
    for key, value in loss.items():
        c.loss[key] = value
    return config_lib.validate(c)


def batch(size=4, side=32, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 255, (size, side, side, 3), np.uint8),
        "label": np.arange(size, dtype=np.int32) % 3,
        "valid": np.ones(size, np.float32),
        "index": np.arange(size, dtype=np.int32),
    }


def test_crossvit_predicts_classes_and_a_map():
    task = tasks.create(crossvit(), Facts(tuple(tiny.CLASSES)))
    variables = task.model.init(jax.random.key(0))
    out = jax.jit(task.scorer.predict)(variables, batch())
    np.testing.assert_allclose(out["probabilities/combined"].sum(-1), 1, rtol=1e-5)
    assert task.model.grid == (2, 2) and out["rollout"].shape == (4, 4) and (out["rollout"] > 0).all()


@pytest.mark.parametrize("mixing", [{"mixup": 0.8, "cutmix": 1.0}, {"mixup": 0.8}, {"cutmix": 1.0}])
def test_mixing_trains_towards_the_mixture(mixing):
    c = crossvit(**mixing)
    task = tasks.create(c, Facts(tuple(tiny.CLASSES)))
    variables = task.model.init(jax.random.key(0))
    loss = jax.jit(functools.partial(task.objective, groups=2))
    value, (metrics, _) = loss(variables, batch(), jax.random.key(1))
    plain, _ = jax.jit(
        functools.partial(tasks.create(crossvit(), Facts(tuple(tiny.CLASSES))).objective, groups=2)
    )(variables, batch(), jax.random.key(1))
    assert np.isfinite(value) and value != plain
    rows = {k: jnp.asarray(v) for k, v in batch().items()}
    inputs, target = task.objective.mixed(
        task.inputs.arguments(rows), rows, jax.random.fold_in(jax.random.key(1), 2), 2
    )
    assert ((target > 0).sum(-1) > 1).any(), "soft targets"
    dropout, _ = jax.random.split(jax.random.key(1))
    logits, _ = task.model.module.apply(variables, **inputs, train=True, rngs={"dropout": dropout})
    np.testing.assert_allclose(value, losses.cross_entropy(logits, target).mean(), rtol=1e-5)
    assert 0 <= metrics["accuracy"].compute() <= 1


def test_an_unreadable_image_has_no_share_in_the_loss():
    """Its pixels and its label may be anything: neither moves the loss of a mixture's targets."""
    task = tasks.create(crossvit(cutmix=1.0), Facts(tuple(tiny.CLASSES)))
    rows = batch()
    rows["valid"][3] = 0
    inputs = {"images": jnp.asarray(rows["image"], jnp.float32)}
    for seed in range(6):
        _, target = task.objective.mixed(
            inputs, {k: jnp.asarray(v) for k, v in rows.items()}, jax.random.key(seed), 1
        )
        rows["label"][3] = seed % 3
        _, other = task.objective.mixed(
            inputs, {k: jnp.asarray(v) for k, v in rows.items()}, jax.random.key(seed), 1
        )
        assert np.array_equal(target, other) and (target.sum(-1) <= 1 + 1e-6).all()
        assert np.isfinite(losses.cross_entropy(jnp.zeros_like(target), target)).all()


@pytest.mark.parametrize(
    "name", ["resnet50", "efficientnet_b0", "tf_efficientnet_lite0", "vit_tiny_patch16_224"]
)
def test_every_family_trains_as_far_as_shapes_tell(name):
    c = config(name, ablation="sa_only")
    c = config_lib.validate(c)
    task = tasks.create(c, Facts(tuple(tiny.CLASSES)))
    variables = jax.eval_shape(task.model.init, jax.random.key(0))
    optimizer = optim.create(
        c.optim, variables["params"], steps=4, steps_per_epoch=1, frozen=task.model.frozen
    )
    current = jax.eval_shape(functools.partial(state.create, optimizer=optimizer, ema=False), variables)
    train = step.make(functools.partial(task.objective, groups=1), optimizer, seed=0)
    after, _ = jax.eval_shape(train, current, batch(8))
    assert jax.tree.structure(after) == jax.tree.structure(current)
    out = jax.eval_shape(task.scorer.predict, variables, batch(8))
    assert out["probabilities/combined"].shape == (8, 3)
    assert ("rollout" in out) == (task.model.grid is not None and name.startswith("dcal"))


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        (
            "resnet50",
            {"width": 64},
            "config.model.width=64 is not read by this run: the model 'resnet50' has no such field",
        ),
        (
            "crossvit_9_240",
            {"ratio": 0.3},
            "config.model.ratio=0.3 .* it has drop_path, dropout, remat, crossvit",
        ),
        ("vit_tiny_patch16_224", {"ablation": "sa_glca"}, "config.model.ablation='sa_glca'"),
        (
            "bert_base_uncased",
            {},
            "config.model.name='bert_base_uncased' is not possible: it has no image classes",
        ),
        ("resnet51", {}, "Did you mean"),
    ],
)
def test_what_does_not_go_together(name, fields, message):
    with pytest.raises(UserError, match=message):
        tasks.create(config_lib.validate(config(name, **fields)), Facts(tuple(tiny.CLASSES)))


def test_crossvit_sizes_that_do_not_fit():
    c = crossvit()
    with c.unlocked():
        c.model.crossvit.img_size = (16, 32)
    with pytest.raises(UserError, match="the first must be the images"):
        tasks.create(c, Facts(tuple(tiny.CLASSES)))
    with c.unlocked():
        c.model.crossvit.img_size, c.model.crossvit.embed_dim = (32, 32), (12,)
    with pytest.raises(UserError, match="embed_dim has 1 entries and patch_size has 2"):
        tasks.create(c, Facts(tuple(tiny.CLASSES)))


def test_a_crossvit_run_with_its_recipe(tmp_path, recwarn):
    """From pictures to the report, every augmentation on."""
    root = tiny.pictures(tmp_path / "pictures")
    c = crossvit(mixup=0.8, cutmix=1.0, label_smoothing=0.1)
    with c.unlocked():
        c.data.root, c.train.steps = str(root), 3
        c.data.augment.crop, c.data.augment.rand_operations = "random_resized", 2
        c.data.augment.erase, c.data.augment.erase_fill = 0.25, "noise"
    summary = trainer.Experiment(c, tmp_path / "run").train()
    assert 0 <= summary["test/accuracy"] <= 1
    assert list((tmp_path / "run" / "report").glob("*_rollout.png"))


def test_weights_are_read_before_anything_is_computed(tmp_path):
    root = tiny.pictures(tmp_path / "pictures")
    c = crossvit()
    with c.unlocked():
        c.data.root, c.pretrained.source = str(root), str(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="none.safetensors"):
        trainer.Experiment(c, tmp_path / "run")


def test_contradicting_arguments_of_the_small_run():
    from configs import crossvit as config_file

    with pytest.raises(UserError, match="small is a run of its own"):
        config_file.get_config("small,root=/data/flowers")


def test_a_classifier_with_cameras_reports_its_examples(tmp_path, recwarn):
    root = tiny.pictures(tmp_path / "pictures", per_class=10)
    rows = [
        f"{p.relative_to(root)},{p.parent.name},{i % 3}" for i, p in enumerate(sorted(root.rglob("*.png")))
    ]
    (root / "all.csv").write_text("\n".join(["path,label,camera", *rows]))
    c = tiny.get_config(f"root={root / 'all.csv'},steps=1")
    c.data.source, c.data.carry, c.model.cameras = "manifest", ("camera",), 3
    summary = trainer.Experiment(c, tmp_path / "run").train()
    assert 0 <= summary["test/accuracy"] <= 1 and (tmp_path / "run" / "report" / "index.html").exists()


def test_upper_blocks_train_on_cached_tokens_of_the_lower_ones(tmp_path, recwarn):
    c = tiny.get_config(f"root={tiny.pictures(tmp_path / 'pictures', per_class=8)},steps=2")
    c.model.frozen_blocks, c.data.cache.enabled, c.data.cache.passes = 1, True, 2
    c.model.width = c.model.heads = 0
    c.pretrained.source = frozen_trunk.source("vit_shallow", tmp_path)
    c.model.patch, c.data.resize, c.data.image_size = 16, 36, 32
    c.evaluation.probe = True
    run = trainer.Experiment(c, tmp_path / "run")
    summary = run.train()
    assert 0 <= summary["test/accuracy"] <= 1
    whole = pretrained.load(c.pretrained.source, "vit_shallow")["params"]
    trained = fusionjax.load(tmp_path / "run").variables["params"]
    for i, blocks in enumerate((trained["trunk"]["blocks"], trained["blocks"])):
        same = jax.tree.map(lambda a, b, i=i: bool(np.all(a[0] == b[i])), blocks, whole["blocks"])
        assert all(jax.tree.leaves(same)) == (i == 0)
    assert "logistic_regression" in (tmp_path / "run" / "results.json").read_text()
