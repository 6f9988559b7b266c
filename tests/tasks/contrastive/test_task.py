"""The spectral task: its loss, whole runs, their files, and what is refused."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax import config as config_lib
from fusionjax import tasks
from fusionjax.data import datasets
from fusionjax.distributed import mesh as mesh_lib
from fusionjax.errors import UserError
from fusionjax.evaluation import export
from fusionjax.experiment import inference as run_lib
from fusionjax.experiment import trainer
from fusionjax.interpret import embedding_figures
from fusionjax.studies import comparison
from fusionjax.tasks.base import multispectral_inputs
from fusionjax.tasks.base.baselines import Untrained
from fusionjax.tasks.base.protocol import Facts
from fusionjax.tasks.contrastive import encoders
from fusionjax.train import checkpoint, contrastive, metrics
from fusionjax.train.augment import multispectral as augmentation
from tests.support import fields as fields_lib
from tests.support import process, tiny_spectral

pytestmark = pytest.mark.usefixtures("libraries_warn")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_spectral.images(tmp_path_factory.mktemp("bands") / "root")


def config(root, arg="", **fields):
    return fields_lib.put(tiny_spectral.get_config(f"root={root}{arg}"), fields)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    c = config(data, ",steps=12", report__enabled=True)
    with pytest.MonkeyPatch.context() as patch:  # UMAP compiles itself for longer than the run takes
        patch.setattr(embedding_figures, "joint_coordinates", lambda a, b, seed=0: (a[:, :2], b[:, :2]))
        return folder, trainer.Experiment(c, folder).train()


def batch_of(n, seed=0, valid=None):
    rng = np.random.default_rng(seed)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (n, 16, 16, 6)), jnp.uint8),
        "valid": jnp.ones(n) if valid is None else jnp.asarray(valid, jnp.float32),
        "label": jnp.zeros(n, jnp.int32),
        "index": jnp.arange(n),
    }


def made_task(arg="", done=0, **fields):
    task = tasks.create(config_lib.validate(config("x", arg, **fields)), Facts(("a", "b")))
    variables = jax.jit(task.model.init)(jax.random.key(0))
    low, high = np.zeros(6, np.float32), np.full(6, 255, np.float32)
    variables["pixels"] = {"low": low, "high": high, "mean": low + 0.5, "std": low + 0.25}
    variables["progress"] = {"done": jnp.asarray(done), "of": jnp.asarray(10)}
    return task, variables


def oracle(task, variables, batch, key, w_cross):
    """Cross and intra losses of the task's embeddings, by NumPy in float64, pair by pair."""
    drawn, _ = jax.random.split(key)
    p = variables["pixels"]
    x = np.asarray(batch["image"]) / 255
    views = jax.jit(lambda x: augmentation.two_views(drawn, x, task.objective.spec))(
        jnp.asarray(x, jnp.float32)
    )
    model = {"params": variables["params"]}
    z = []
    for v in views:
        made, _ = jax.jit(task.model.module.apply)(model, (v - p["mean"]) / p["std"])
        z.append(
            {m: np.asarray(e, np.float64) / np.linalg.norm(e, axis=1, keepdims=True) for m, e in made.items()}
        )
    t, n = 0.1, len(x)

    def softmax_loss(anchor, positive, others):
        return -(anchor @ positive) / t + np.log(sum(np.exp(anchor @ o / t) for o in others))

    cross = np.mean(
        [
            softmax_loss(v[a][i], v[b][i], v[b])
            for v in z
            for a, b in (("rgb", "uv"), ("uv", "rgb"))
            for i in range(n)
        ]
    )
    intra = []
    for m in ("rgb", "uv"):
        every = np.concatenate([z[0][m], z[1][m]])
        losses = [
            softmax_loss(every[i], every[(i + n) % (2 * n)], [o for j, o in enumerate(every) if j != i])
            for i in range(2 * n)
        ]
        intra.append(np.mean(losses))
    return w_cross * cross + (1 - w_cross) * np.mean(intra)


def test_the_loss_is_the_equations():
    task, variables = made_task(",fusion=attention", done=5)
    batch, key = batch_of(4), jax.random.key(3)
    value, (logged, new) = jax.jit(functools.partial(task.objective, groups=1))(variables, batch, key)
    # Half-way from 0.2 to 0.8.
    assert float(value) == pytest.approx(oracle(task, variables, batch, key, 0.5), rel=1e-5)
    assert logged["cross_weight"].total == pytest.approx(0.5)
    assert new["progress"]["done"] == 6 and new["progress"]["of"] == 10
    assert {
        "cross",
        "intra_rgb",
        "intra_uv",
        "alignment_rgb_uv",
        "uniformity_rgb_uv",
        "grad_norm_embedding_uv",
    } <= set(logged)


def test_a_padded_image_changes_neither_loss_nor_gradient():
    task, variables = made_task()
    batch = batch_of(4, valid=[1, 1, 1, 0])
    other = {**batch, "image": batch["image"].at[3].set(7)}

    def of(params, batch):
        return task.objective({**variables, "params": params}, batch, jax.random.key(3), groups=1)[0]

    step = jax.jit(jax.value_and_grad(of))
    a, b = (step(variables["params"], x) for x in (batch, other))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), a, b)


def test_a_learned_temperature_is_a_parameter_that_moves():
    task, variables = made_task(spectral__learned_temperature=True, spectral__temperature=0.2)
    assert float(contrastive.clamped_scale(variables["params"]["log_scale"])) == pytest.approx(5)
    loss = functools.partial(task.objective, groups=1)
    slope = jax.jit(jax.grad(lambda p: loss({**variables, "params": p}, batch_of(4), jax.random.key(0))[0]))(
        variables["params"]
    )
    assert float(slope["log_scale"]) != 0


def test_one_modality_alone_has_the_loss_within_it():
    task, variables = made_task(",modalities=uv")
    batch = batch_of(4)
    loss = jax.jit(functools.partial(task.objective, groups=1))
    value, (logged, _) = loss(variables, batch, jax.random.key(3))
    assert float(value) == pytest.approx(float(logged["intra_uv"].total)) and "cross" not in logged
    other = {**batch, "image": batch["image"].at[..., :3].set(0)}
    assert float(loss(variables, other, jax.random.key(3))[0]) == pytest.approx(float(value))
    assert task.scorer.score_names[:2] == ("knn/uv", "knn/combined")


_SHARDED = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from fusionjax.distributed import mesh
from tests.tasks.contrastive import test_task as t
assert jax.device_count() == 8
for arg in (",fusion=concat",):
    task, variables = t.made_task(arg, spectral__chunk=3 * bool(arg))
    batch = t.batch_of(16, valid=[1] * 15 + [0])
    def of(params, batch):
        return task.objective({**variables, "params": params}, batch, jax.random.key(3), groups=1)[0]
    step = jax.jit(jax.value_and_grad(of))
    one = step(*jax.device_put((variables["params"], batch), jax.devices()[0]))
    where = mesh.create(16)
    many = step(mesh.put_replicated(variables["params"], where), mesh.put_batch(jax.device_get(batch), where))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)
    assert max(float(abs(x).max()) for x in jax.tree.leaves(one[1])) > 1e-3
"""


def test_eight_devices_give_loss_and_gradients_of_one():
    process.python("-c", _SHARDED, devices=8)


def test_a_run_leaves_everything(trained, data):
    folder, summary = trained
    ways = ("rgb_to_uv", "uv_to_rgb")
    assert {f"test/recall@{k}/{way}" for k in (1, 5, 10) for way in ways} <= set(summary)
    assert {f"test/{kind}/{m}" for kind in ("knn", "probe") for m in ("rgb", "uv", "combined")} <= set(
        summary
    )
    assert 0.05 <= summary["test/alignment_p/rgb_uv"] <= 1 and "train/recall@1/rgb_to_uv" not in summary
    names = {n.removeprefix("test/") for n in summary if n.startswith("test/")}
    task = tasks.create(config_lib.validate(config(data)), Facts(("a", "b")))
    assert names == set(task.scorer.score_names)
    logged = {k for r in metrics.read(folder) for k in r}
    assert {"train/grad_norm_rgb", "train/grad_norm_uv", "train/cross", "train/intra_uv"} <= logged
    found = export.read(folder / "embeddings" / "test.parquet")
    assert set(found.modalities) == {"rgb", "uv"} and len(found.names) == 16
    np.testing.assert_allclose(np.linalg.norm(found.modalities["uv"], axis=1), 1, atol=1e-5)
    assert sorted(p.name for p in (folder / "towers").iterdir()) == ["rgb.safetensors", "uv.safetensors"]
    page = (folder / "report" / "index.html").read_text()
    assert "Joint map" in page and "Similarities" in page and "rgb → uv" in page and "Mantel" in page


def test_range_mean_and_deviation_are_those_of_training(trained, data):
    run = run_lib.load(trained[0])
    known = jax.device_get(run.variables["pixels"])
    c = config(data)
    source = datasets.create(c.data, "train", seed=0)
    stack = np.stack([source.load(i) for i in range(len(source))])
    low, high = stack[..., 3:].min(), stack[..., 3:].max()
    np.testing.assert_allclose(known["low"][3:], low, rtol=1e-5)
    np.testing.assert_allclose(known["high"][3:], high, rtol=1e-5)
    np.testing.assert_allclose(
        known["mean"][3:], ((stack[..., 3:] - low) / (high - low)).mean((0, 1, 2)), rtol=1e-4
    )
    made = multispectral_inputs.normalise(known, multispectral_inputs.unit(known, jnp.asarray(stack)))
    np.testing.assert_allclose(made.mean((0, 1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(made.std((0, 1, 2)), 1, atol=1e-3)


def test_references_hold_the_results_of_each_example(data, tmp_path, monkeypatch):
    """So that the run is compared with them on the same images."""
    run = trainer.Experiment(config(data), tmp_path)
    mesh, variables = mesh_lib.create(), run.initial_variables()
    feed = run.open_feed(mesh, variables)
    monkeypatch.setattr(encoders, "put_weights", lambda config, module, variables, *rest: variables)
    found = run.task.scorer.references(Untrained({}, variables, feed.evaluation, run.eval_sources, mesh))
    paired = {b.name: b for b in found if b.measure}
    assert {"frozen_recall@1/rgb_to_uv", "frozen_recall@1/uv_to_rgb", "frozen_knn/combined"} == paired.keys()
    assert paired["frozen_knn/combined"].measure == "correct"
    for one in paired.values():
        assert len(one.values) == 16 and one.values.mean() == pytest.approx(one.value)


def test_the_loaded_run_says_the_same(trained):
    folder, summary = trained
    run = run_lib.load(folder)
    for name, value in run.task.scorer.scalars(run.evaluate()).items():
        assert summary[name] == pytest.approx(float(value), abs=1e-6), name
    with pytest.raises(UserError, match="has no classes to predict"):
        run.predict(["a.npy"])
    with pytest.raises(UserError, match="'train': evaluate it too"):
        run.evaluate(["test"])


def test_stopped_and_resumed_equals_uninterrupted(trained, data, tmp_path):
    """Stopped at step 5 by what a hook raises, when the next batch is already read."""
    c = config(data, ",steps=12")

    class Stop(Exception):
        pass

    run = trainer.Experiment(c, tmp_path)
    save = checkpoint.Checkpointer.save

    def stopping(self, at, *args, **kwargs):
        save(self, at, *args, **kwargs)
        self.wait()
        if at == 5:
            raise Stop

    checkpoint.Checkpointer.save = stopping
    try:
        with pytest.raises(Stop):
            run.train()
    finally:
        checkpoint.Checkpointer.save = save
    summary = trainer.Experiment(c, tmp_path).train()
    assert {k: v for k, v in summary.items() if k != "seconds"} == {
        k: v for k, v in trained[1].items() if k != "seconds"
    }


def test_compare_by_command_and_one_modality_alone(trained, data, tmp_path):
    alone = tmp_path / "rgb"
    process.python(
        "-m", "fusionjax.main", f"--config=tests/support/tiny_spectral.py:root={data},modalities=rgb,steps=4",
        f"--workdir={alone}",
    )  # fmt: skip
    results = json.loads((alone / "results.json").read_text())
    assert "test/knn/rgb" in results and not any("recall" in k for k in results)
    found = comparison.compare([trained[0], alone])
    assert found.measures == ["accuracy"] and found.rows[1].scores["accuracy"].p is not None
    again = tmp_path / "again"
    c = config(data, ",steps=4,fusion=attention")
    trainer.Experiment(c, again).train()
    found = comparison.compare([trained[0], again])
    assert found.measures == ["accuracy", "recall@1/rgb_to_uv", "recall@1/uv_to_rgb"]


@pytest.mark.parametrize("tower", ["towers/rgb.safetensors", ""])
def test_another_task_starts_from_an_encoder(trained, data, tmp_path, tower):
    c = config_lib.default()
    c.data.source, c.data.root = "multispectral", str(data)
    c.data.modalities, c.data.mean, c.data.std = (("rgb", (0, 1, 2)),), (), ()
    c.data.channels = tuple("abcdef")
    c.data.fractions, c.data.resize, c.data.image_size, c.data.augment.crop = (0.6, 0.0, 0.4), 16, 16, "none"
    for key in ("name", "width", "heads", "patch", "depth"):
        c.model[key] = tiny_spectral.get_config().model[key]
    c.model.ablation = "sa_only"
    c.pretrained.source = str(trained[0] / tower)
    c.train.batch_size, c.train.steps, c.evaluation.batch_size, c.report.enabled = 8, 2, 8, False
    if not tower:
        with pytest.raises(
            UserError, match="several encoders in towers/: name one, .*rgb.safetensors or .*uv"
        ):
            trainer.Experiment(c, tmp_path)
        return
    c.data.channels, c.data.modalities = (), (("all", (0, 1, 2, 3, 4, 5)),)
    run = trainer.Experiment(c, tmp_path)
    lines = []
    run.say = lines.append
    variables = run.initial_variables()
    assert any("no head: the model's stays initialised" in line for line in lines)
    assert any("3 input channels adapted to 6" in line for line in lines)
    learned = run_lib.load(trained[0]).variables["params"]["tower_rgb"]
    np.testing.assert_array_equal(
        variables["params"]["blocks"]["qkv"]["kernel"], learned["blocks"]["qkv"]["kernel"]
    )
    assert 0 <= trainer.Experiment(c, tmp_path / "run").train()["test/accuracy"] <= 1


def test_a_file_with_other_channels_or_nan_is_named(tmp_path):
    root = tiny_spectral.images(tmp_path / "data", per_class=8)
    np.save(root / "fine" / "003.npy", np.full((20, 24, 6), np.nan, np.float32))
    with pytest.raises(UserError, match=re.escape("fine/003.npy")):
        trainer.Experiment(config(root, ",steps=2"), tmp_path / "run").train()
    np.save(root / "fine" / "003.npy", np.zeros((20, 24, 5), np.float32))
    with pytest.raises(UserError, match=r"fine/003.npy has 5 channels.* and 6 are named"):
        trainer.Experiment(config(root), tmp_path / "other")


def test_an_image_that_is_listed_twice_is_named_before_training(data, tmp_path):
    """Its embedding could not be written by its name."""
    table = tmp_path / "images.csv"
    lines = [f"{data}/{name}/00{i}.npy,{name},{split}" for name in tiny_spectral.CLASSES
             for i, split in ((0, "train"), (1, "train"), (2, "test"), (2, "test"))]  # fmt: skip
    table.write_text("\n".join(["path,label,split", *lines[:-1]]))
    with pytest.raises(UserError, match=r"coarse/002.npy 2 times in 'test'.*list it once") as found:
        trainer.Experiment(config(table), tmp_path / "run")
    assert "\n" not in str(found.value)


def test_data_that_do_not_suffice_are_named(tmp_path):
    flat, small = tmp_path / "flat", tiny_spectral.images(tmp_path / "small", per_class=5)
    flat.mkdir()
    for i in range(20):
        np.save(flat / f"{i}.npy", np.load(small / "fine" / f"00{i % 5}.npy"))
    with pytest.raises(UserError, match="has 1 class there; uv alone is scored by classes: put"):
        trainer.Experiment(config(flat, ",modalities=uv"), tmp_path / "run")
    with pytest.raises(UserError, match="has 1 class there; set it to ''"):
        trainer.Experiment(config(flat), tmp_path / "run")
    with pytest.raises(UserError, match="train.batch_size=8.* 6 training images: .* its own negative"):
        trainer.Experiment(config(small), tmp_path / "run")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"spectral__colour": ("uvb",)}, "spectral.colour=.*'uvb'.*names of data.modalities.*rgb, uv"),
        ({"data__modalities": (), "data__mean": (0.5,) * 3, "data__std": (0.5,) * 3}, "data.modalities"),
        ({"data__modalities": (("rgb", (0, 1)), ("uv", (2, 3)))}, "spectral.colour.*'rgb' has 2 channels, not 3"),
        ({"data__modalities": (("rgb", (0, 1, 2)), ("combined", (3,)))}, "data.modalities.*all modalities together"),
        ({"data__mean": (0.5, 0.5, 0.5)}, "data.mean.*6 numbers, one a channel"),
        ({"data__augment__flip": 0.5}, "data.augment.flip=0.5 .*on the device"),
        ({"loss__label_smoothing": 0.1}, "loss.label_smoothing"),
        ({"spectral__cross_weight": (0.2, 1.5)}, "spectral.cross_weight.*at most 1"),
        ({"spectral__reference_split": "val"}, "spectral.reference_split='val'.*one of data.eval_splits"),
        ({"train__best_metric": "train/accuracy"}, "train.best_metric.*is not scored"),
        ({"spectral__query_heads": 3}, "spectral.query_heads"),
        ({"model__name": "dcal_vit_shallow"}, "model.name.*a plain image model"),
        ({"model__ratio": 0.5, "model__name": "resnet50"}, "model.depth=1 is not read.*resnet50"),
        ({"evaluation__probe": True}, "evaluation.probe.*pretrained.source"),
        ({"task": "classification"}, "spectral.* is not read by this run: the task 'spectral' reads it"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(fields, message):
    with pytest.raises(UserError, match=message) as found:
        tasks.create(config_lib.validate(config("x", **fields)), Facts(("a", "b")))
    assert "\n" not in str(found.value)
