"""Re-identification as a whole: the neck, the losses of a branch, the scores of a run, its report, and what is refused."""

import functools
import importlib
import json
import re

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fusionjax
from fusionjax import config as config_lib
from fusionjax import tasks
from fusionjax.errors import UserError
from fusionjax.evaluation import reid
from fusionjax.experiment import trainer
from fusionjax.models import create
from fusionjax.models.layers import PatchEmbed
from fusionjax.models.methods.dcal import derangement
from fusionjax.models.methods.reid import BNNeck, ReID
from fusionjax.tasks.base.protocol import Facts
from fusionjax.train import losses, metric_losses
from fusionjax.vectors import unit
from tests.support import fields as fields_lib
from tests.support import trees

pytestmark = pytest.mark.usefixtures("libraries_warn")

IDS = ("3", "5", "8", "9")


def settings(root="", **fields):
    c = config_lib.default()
    c.task = "reid"
    c.data.source, c.data.root = "manifest", str(root)
    c.data.label, c.data.per_identity, c.data.eval_splits = "identity", 4, ("query", "gallery")
    c.data.image_shape, c.data.threads, c.data.prefetch = (32, 16), 2, 8
    c.data.augment.pad, c.data.augment.erase = 2, 0.5
    c.model.name = "dcal_vit_shallow"
    c.model.width, c.model.heads, c.model.patch, c.model.ratio = 24, 3, 8, 0.3
    c.train.batch_size, c.train.steps, c.train.log_every = 8, 20, 5
    c.train.checkpoint_every, c.train.eval_every_epochs, c.evaluation.batch_size = 20, 0.0, 8
    c.optim.learning_rate = 3e-3
    return fields_lib.validated(c, fields)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Coloured noise by identity, seen by three cameras; test identities are others than training's. Returns the manifest."""
    root, rng = tmp_path_factory.mktemp("people"), np.random.default_rng(0)
    lines = ["path,label,split,identity,camera"]
    for identity in range(12):
        colour = rng.integers(40, 216, 3)
        for camera in range(3):
            for shot in range(2):
                noise = rng.integers(-30, 30, (40, 20, 3))
                name = f"{identity:02d}_c{camera}_{shot}.png"
                cv2.imwrite(str(root / name), np.clip(colour + noise, 0, 255).astype(np.uint8))
                split = "train" if identity < 6 else ("query" if shot == 0 else "gallery")
                lines.append(f"{name},x,{split},{identity},{camera}")
    manifest = root / "people.csv"
    manifest.write_text("\n".join(lines))
    return manifest


def batch(size=8, seed=0, side=(32, 16)):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 255, (size, *side, 3), np.uint8),
        "label": (np.arange(size, dtype=np.int32) // 4) % 4,
        "valid": np.ones(size, np.float32),
        "index": np.arange(size, dtype=np.int32),
        "camera": np.arange(size, dtype=np.int32) % 3,
    }


@pytest.fixture(scope="module")
def trained(people, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    c = settings(
        people, evaluation__rerank=True, evaluation__rerank_k1=4, evaluation__rerank_k2=2,
        train__best_metric="test/mAP", train__eval_every_epochs=1.0,
    )  # fmt: skip
    return folder, trainer.Experiment(c, folder).train()


def test_a_run_scores_query_against_gallery_and_reports_it(trained):
    folder, summary = trained
    assert {"test/mAP", "test/mINP", "test/rank1", "test/rank10", "test/mAP_reranked"} <= set(summary)
    assert summary["test/mAP"] > 0.6, "colours are not hard"
    page = (folder / "report" / "index.html").read_text()
    (few,) = [
        line
        for line in json.loads((folder / "results.json").read_text())["cautions"]
        if "scratch" not in line
    ]
    assert "examples are few" in few and "mAP" in few and "rank1" in few and "±" in page
    assert "cosine similarity" in page and "step definition" in page and "re-ranking (k1 4, k2 2" in page
    assert {path.name for path in (folder / "report").glob("figure_queries_*.png")} == {
        "figure_queries_drawn_at_random.png", "figure_queries_with_the_lowest_average_precision.png"
    }  # fmt: skip
    records = (folder / "metrics.jsonl").read_text()
    assert "train/triplet_glca" in records and "train/identity_pwca" in records and "test/mAP" in records
    for name in ("mAP", "rank1"):
        assert (
            0 <= summary[f"test/{name}_low"] <= summary[f"test/{name}"] <= summary[f"test/{name}_high"] <= 1
        )


def test_the_loaded_run_gives_the_same_scores_and_embeds_images(trained, people):
    folder, summary = trained
    run = fusionjax.load(folder)
    for name, value in run.task.scorer.scalars(run.evaluate()).items():
        assert summary[name] == pytest.approx(value, abs=1e-6)
    names = sorted(people.parent.glob("0[67]_c[01]_0.png"))
    embeddings = run.embed(names)
    assert embeddings.shape == (4, 48)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    with pytest.raises(UserError, match="re-identification has no classes"):
        run.predict(names)
    with pytest.raises(UserError, match="query and gallery together"):
        run.evaluate(["query"])


@pytest.mark.parametrize("ablation", config_lib.ABLATIONS)
def test_every_ablation_runs(people, ablation, tmp_path):
    c = settings(people, model__ablation=ablation, train__steps=2, train__log_every=1, report__enabled=False)
    run = trainer.Experiment(c, tmp_path)
    text = run.describe(parameters=True)
    assert ("head_glca/kernel" in text) == ("glca" in ablation or ablation == "full")
    assert "neck_sa/scale" in text and "blocks/qkv/kernel" in text and "head/kernel " not in text
    assert 0 < run.train()["test/mAP"] <= 1
    trained = (tmp_path / "metrics.jsonl").read_text()
    assert ("train/triplet_pwca" in trained) == ("pwca" in ablation or ablation == "full")


@pytest.mark.parametrize(
    "fields",
    [
        {"loss__metric": "circle"},
        {"loss__margin": 0.3, "loss__branch_weighting": "sum"},
        {"loss__center_weight": 0.1, "loss__label_smoothing": 0.1},
        {"model__cameras": 3, "data__carry": ("camera",), "model__stride": 4},
        {"model__name": "vit_shallow", "model__ablation": "sa_only"},
    ],
)
def test_every_option_gives_a_finite_loss_and_gradient(fields):
    task = tasks.create(settings(**fields), Facts(tuple(IDS)))
    variables = task.model.init(jax.random.key(0))
    loss = functools.partial(task.objective, groups=1)
    (value, (_, new)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        variables, batch(), jax.random.key(1)
    )
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient["params"]))
    assert set(new) == set(variables) - {"params"}
    assert jax.tree.structure(new) == jax.tree.structure(
        {k: v for k, v in variables.items() if k != "params"}
    )


def test_the_loss_is_its_parts():
    c = settings(
        model__ablation="sa_only", loss__metric_weight=0.5, loss__identity_weight=2.0, loss__margin=0.3
    )
    task = tasks.create(c, Facts(tuple(IDS)))
    variables, rows = task.model.init(jax.random.key(0)), batch()
    rows["valid"][5] = 0
    value, _ = task.objective(variables, rows, jax.random.key(1), groups=1)
    (_, aux), _ = task.model.module.apply(
        variables,
        **task.inputs.arguments(rows),
        valid=rows["valid"],
        train=True,
        rngs={"dropout": jax.random.key(0)},
        mutable=["batch_stats"],
    )
    identity = losses.masked_mean(losses.cross_entropy(aux["logits"]["sa"], rows["label"]), rows["valid"])
    triplet = losses.masked_mean(
        *metric_losses.triplet(aux["features"]["sa"], rows["label"], rows["valid"], margin=0.3)
    )
    # One branch: ½ (e^{−w} L + w) with w = 0.
    np.testing.assert_allclose(value, (2 * identity + 0.5 * triplet) / 2, rtol=1e-5)


def test_centres_move_towards_their_class():
    task = tasks.create(settings(loss__center_weight=0.1, model__ablation="sa_glca"), Facts(tuple(IDS)))
    variables = task.model.init(jax.random.key(0))
    _, (_, new) = task.objective(variables, batch(), jax.random.key(1), groups=1)
    for b in ("sa", "glca"):
        moved = np.abs(np.asarray(new["centers"][b])).sum(-1)
        assert (moved[:2] > 0).all() and (moved[2:] == 0).all(), "classes 2 and 3 are not in the batch"


def test_flip_averages_the_two_views():
    plain, flipped = (tasks.create(settings(evaluation__flip=f), Facts(tuple(IDS))) for f in (False, True))
    variables, rows = plain.model.init(jax.random.key(0)), batch()
    mirrored = rows | {"image": rows["image"][:, :, ::-1]}
    a, b = (plain.scorer.predict(variables, r)["embedding"] for r in (rows, mirrored))
    got = flipped.scorer.predict(variables, rows)["embedding"]
    np.testing.assert_allclose(got, unit(a + b), atol=1e-6)
    np.testing.assert_allclose(flipped.scorer.predict(variables, mirrored)["embedding"], got, atol=1e-6)


def test_the_neck_is_batch_normalisation_without_shift(rng):
    x = rng.normal(2, 3, (16, 5)).astype(np.float32)
    neck = BNNeck()
    variables = neck.init(jax.random.key(0), x, train=True)
    assert set(variables["params"]) == {"scale"} and not np.any(variables["batch_stats"]["mean"])
    y, new = neck.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y, (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), atol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["mean"], 0.1 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["var"], 0.9 + 0.1 * x.var(0, ddof=1), rtol=1e-5)
    valid = np.array([1] * 12 + [0] * 4)
    some, _ = neck.apply(variables, np.r_[x[:12], x[12:] + 99], train=True,
                         valid=valid, mutable=["batch_stats"])  # fmt: skip
    few, _ = neck.apply(variables, x[:12], train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(some[:12], few, atol=1e-5)
    _, same = neck.apply(variables, x, train=True, update=False, mutable=["batch_stats"])
    np.testing.assert_array_equal(same["batch_stats"]["mean"], 0)


def test_pairs_are_of_different_identities():
    for groups, size, kin in ((1, 64, 4), (4, 16, 4), (2, 8, 4), (1, 6, 2)):
        seen = set()
        for seed in range(4):
            partner = np.asarray(derangement(jax.random.key(seed), groups, size, kin))
            assert (np.sort(partner, axis=1) == np.arange(size)).all(), "everyone is a partner once"
            assert (partner // kin != np.arange(size) // kin).all()
            seen.add(partner.tobytes())
        assert len(seen) > 1
    task = tasks.create(settings(), Facts(tuple(IDS)))
    variables = task.model.init(jax.random.key(0))
    rows = batch() | {"label": np.repeat([0, 1], 4).astype(np.int32)}
    _, (_, with_pairs) = task.objective(variables, rows, jax.random.key(1), groups=1)
    alone = tasks.create(settings(model__ablation="sa_glca"), Facts(tuple(IDS)))
    bare = {k: v for k, v in variables.items() if k != "params"}
    params = {k: v for k, v in variables["params"].items() if k != "log_variance_pwca"}
    _, (_, without) = alone.objective({"params": params, **bare}, rows, jax.random.key(1), groups=1)
    np.testing.assert_allclose(
        with_pairs["batch_stats"]["neck_sa"]["mean"], without["batch_stats"]["neck_sa"]["mean"], atol=1e-5
    )


def test_drawn_splits_keep_identities_whole(people, tmp_path):
    bare = tmp_path / "drawn.csv"
    lines = [line.split(",") for line in people.read_text().splitlines()]
    bare.write_text(
        "\n".join(
            ",".join([r[0] if i == 0 else f"{people.parent}/{r[0]}", r[1], *r[3:]])
            for i, r in enumerate(lines)
        )
    )
    run = trainer.Experiment(settings(bare, data__eval_splits=("test",)), tmp_path / "run")
    train, test = (set(s.columns["identity"]) for s in (run.source, run.eval_sources["test"]))
    assert train and test and not train & test


def test_cameras_move_every_token_and_scale():
    model = create("vit_shallow", width=24, heads=3, patch=8, image_size=(32, 16), num_classes=0, cameras=3)
    x = jnp.zeros((2, 32, 16, 3))
    variables = model.init(jax.random.key(0), x, camera=jnp.zeros(2, jnp.int32))

    def tokens(camera):
        return model.apply(variables, x, None, jnp.asarray(camera), train=False, method="embed")

    moved = tokens([0, 2]) - tokens([0, 1])
    np.testing.assert_allclose(moved[0], 0)
    shift = 3.0 * (variables["params"]["camera_embed"][2] - variables["params"]["camera_embed"][1])
    np.testing.assert_allclose(moved[1], jnp.broadcast_to(shift, moved[1].shape), atol=1e-5)
    with pytest.raises(ValueError, match="pass camera"):
        model.apply(variables, x)


def test_overlapping_patches_are_the_patches_at_every_stride(rng):
    x = rng.normal(size=(2, 20, 12, 3)).astype(np.float32)
    plain, dense = PatchEmbed(7, 8), PatchEmbed(7, 8, stride=4)
    variables = plain.init(jax.random.key(0), x[:, :8, :8])
    y = dense.apply(variables, x)
    assert y.shape == (2, 4, 2, 7)
    for i in range(4):
        for j in range(2):
            want = plain.apply(variables, x[:, 4 * i : 4 * i + 8, 4 * j : 4 * j + 8])[:, 0, 0]
            np.testing.assert_allclose(y[:, i, j], want, atol=1e-5)
    assert create("vit_tiny_patch16_224", image_size=(256, 128), stride=12).grid == (21, 10)


def test_published_weights_go_in_though_patches_overlap_and_cameras_are_new():
    from fusionjax import pretrained

    plain = create("vit_shallow", width=24, heads=3, patch=8, image_size=32, num_classes=5)
    weights = plain.init(jax.random.key(3), jnp.zeros((1, 32, 32, 3)))
    backbone = create(
        "dcal_vit_shallow",
        width=24,
        heads=3,
        patch=8,
        image_size=(32, 16),
        stride=4,
        num_classes=0,
        cameras=2,
    )
    model = ReID(backbone, 4)
    variables = model.init(
        jax.random.key(0), jnp.zeros((1, 32, 16, 3)), camera=jnp.zeros(1, jnp.int32), partner=None
    )
    merged = pretrained.merge(
        variables, weights, grid=model.grid,
        new=("glca_.*", "log_variance_.*", "camera_embed", "neck_.*", "head_(sa|glca)/.*"),
    )  # fmt: skip
    np.testing.assert_array_equal(
        merged["params"]["blocks"]["qkv"]["kernel"], weights["params"]["blocks"]["qkv"]["kernel"]
    )
    assert merged["params"]["pos_embed"].shape == (1, 7 * 3 + 1, 24)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"data__per_identity": 0},
            "config.data.per_identity=0 is not possible: re-identification needs at least 2",
        ),
        ({"data__per_identity": 3}, "it must divide train.batch_size=8"),
        ({"data__image_shape": (32,)}, r"config.data.image_shape=\(32,\)"),
        ({"model__cameras": 3}, r"it needs data.carry=\('camera',\)"),
        ({"data__label": "label"}, "set data.label='identity'"),
        ({"train__batch_size": 4}, "a micro-batch of 4 must hold at least 2 whole identities"),
        ({"train__batch_size": 16, "optim__accumulate": 4}, "a micro-batch of 4 must hold"),
        ({"loss__pair_group": 4}, "at least 2 whole identities of data.per_identity=4"),
        ({"data__eval_splits": ("test_base", "test_all")}, "reported under one name"),
        ({"evaluation__flip": True, "data__cache__enabled": True, "model__trunk": "tf_efficientnet_lite0",
          "model__freeze_trunk": True}, "cached features have no mirror image"),
        ({"train__best_metric": "query/mAP"}, "reported as test"),
        ({"evaluation__average_precision": "mean"}, "allowed are step, trapezoid"),
        ({"loss__metric": "contrastive"}, "allowed are triplet, circle"),
    ],
)  # fmt: skip
def test_impossible_settings(fields, message):
    with pytest.raises(UserError, match=message):
        settings(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model__name": "resnet50", "model__ablation": "sa_only", "model__width": 0, "model__heads": 0,
          "model__patch": 0, "model__ratio": 0.1}, "takes a vit_, deit_ or dcal_ model"),
        ({"loss__mixup": 0.8}, "config.loss.mixup=0.8 is not read by this run: the task 'classification' reads it"),
    ],
)  # fmt: skip
def test_tasks_that_cannot_be(fields, message):
    with pytest.raises(UserError, match=message):
        tasks.create(settings(**fields), Facts(tuple(IDS)))


def test_data_that_cannot_be_scored(people, tmp_path):
    with pytest.raises(UserError, match="name query and gallery together"):
        settings(people, data__eval_splits=("query",))
    c = settings(people, model__cameras=2, data__carry=("camera",))
    with pytest.raises(UserError, match="config.model.cameras=2 is not possible: split .* has camera 2"):
        trainer.Experiment(c, tmp_path)
    named = tmp_path / "named.csv"
    rows = [line.split(",") for line in people.read_text().splitlines()]
    named.write_text(
        "\n".join(",".join([f"{people.parent}/{r[0]}", *r[1:3], f"p{r[3]}", r[4]]) for r in rows[1:])
    )
    named.write_text(",".join(rows[0]) + "\n" + named.read_text())
    assert len(trainer.Experiment(settings(named), tmp_path).source.class_names) == len(
        trainer.Experiment(settings(people), tmp_path).source.class_names
    )
    trees.folder(tmp_path / "folders" / "train", images=4)
    trees.folder(tmp_path / "folders" / "test", ("beech", "yew"), images=4)
    c = settings(tmp_path / "folders", data__source="folder", data__eval_splits=("test",))
    with pytest.raises(UserError, match="split 'test' shares 1 identities with training"):
        trainer.Experiment(c, tmp_path)
    alone = tmp_path / "alone.csv"
    alone.write_text(re.sub(r"(query|gallery),(\d+),\d", r"\1,\2,0", named.read_text().replace(",p", ",")))
    with pytest.raises(UserError, match="no query has an image of its identity from another camera"):
        trainer.Experiment(settings(alone), tmp_path)
    worded = tmp_path / "worded.csv"
    worded.write_text(re.sub(r",(\d)$", r",cam\1", named.read_text().replace(",p", ","), flags=re.M))
    by_name, by_number = (
        trainer.Experiment(settings(worded), tmp_path),
        trainer.Experiment(settings(named), tmp_path),
    )
    for split in ("query", "gallery"):
        a, b = (run.eval_sources[split].columns["camera"] for run in (by_name, by_number))
        assert a.dtype == np.int64
        np.testing.assert_array_equal(a, b)  # cam0, cam1 … in every split, also in one that lacks some
    assert any("worded.csv are numbered in the order of their names: 'cam0' is 0" in n for n in by_name.notes)
    worded.write_text(worded.read_text().replace("cam1", "", 1))
    with pytest.raises(UserError, match=r"worded.csv line \d+: 'camera' is empty"):
        trainer.Experiment(settings(worded), tmp_path)
    with pytest.raises(UserError, match="P = 40 different identities"):
        trainer.Experiment(settings(people, train__batch_size=160), tmp_path)


def test_a_folder_of_folders_is_its_identities(tmp_path):
    for split, names in (("train", "abcd"), ("query", "xy"), ("gallery", "xyz")):
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(2):
                cv2.imwrite(str(tmp_path / split / name / f"{i}.png"), np.full((20, 12, 3), 40 * i, np.uint8))
    run = trainer.Experiment(settings(tmp_path, data__source="folder"), tmp_path / "run")
    query, gallery = run.eval_sources["query"], run.eval_sources["gallery"]
    assert len(run.task.class_names) == 4
    assert len(set(query.columns["identity"]) & set(gallery.columns["identity"])) == 2
    assert len(set(gallery.columns["identity"])) == 3 and not set(run.source.columns["identity"]) & set(
        gallery.columns["identity"]
    )


def test_a_split_can_be_its_own_gallery(rng):
    task = tasks.create(settings(data__eval_splits=("test_all",)), Facts(tuple(IDS)))

    class Source:
        name, split = "s", "test_all"
        columns = {"identity": np.array([1, 1, 2, 2, 3]), "camera": np.array([0, 1, 0, 1, 0])}

    features = rng.normal(size=(8, 6)).astype(np.float32)
    rows = {
        "embedding": features,
        "valid": np.array([1, 1, 1, 1, 1, 0, 0, 0], np.float32),
        "index": np.array([4, 3, 2, 1, 0, -1, -1, -1]),
    }
    result = task.scorer.evaluate({"test_all": rows}, {"test_all": Source()})
    ids, cameras = Source.columns["identity"][[4, 3, 2, 1, 0]], Source.columns["camera"][[4, 3, 2, 1, 0]]
    want = reid.evaluate(features[:5], ids, cameras, features[:5], ids, cameras, same_set=True)
    scalars = task.scorer.scalars(result)
    assert {k: v for k, v in scalars.items() if not k.endswith(("_low", "_high"))} == {
        f"test/{k}": v for k, v in want.items()
    }
    assert scalars["test/mAP_low"] <= scalars["test/mAP"] <= scalars["test/mAP_high"]


REID_CONFIGS = ("market1501", "dukemtmc", "msmt17", "veri776")


@pytest.mark.parametrize("name", REID_CONFIGS)
def test_the_paper_s_configs(name):
    c = config_lib.validate(importlib.import_module(f"configs.{name}").get_config("root=/data/x"))
    assert (
        c.task == "reid" and c.data.source == name and c.train.batch_size == 64 and c.data.per_identity == 4
    )
    assert c.model.ratio == 0.3 and c.optim.name == "sgd" and c.optim.learning_rate == 0.008
    assert c.data.image_shape == ((256, 256) if name == "veri776" else (256, 128))
