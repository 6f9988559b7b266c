"""Task mvpdr: prototypes of cached features, training-free and trained, in a learned common space and in a CLIP's."""

import csv
import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from sklearn.cluster import KMeans

import fusionjax
from fusionjax import arguments, evaluate, tasks
from fusionjax import config as config_lib
from fusionjax.errors import UserError
from fusionjax.experiment import trainer
from fusionjax.models.backbones import clip
from fusionjax.models.methods import mvpdr
from fusionjax.models.methods.prototypes import COUNTS
from fusionjax.pretrained import encoders, files
from fusionjax.tasks.base.protocol import Evaluated, Facts
from fusionjax.tasks.image_text import common_space, prototype_start
from tests.models.backbones import test_clip
from tests.support import fields as fields_lib
from tests.support import frozen_trunk, pictures, tiny_bert

pytestmark = pytest.mark.usefixtures("libraries_warn")

CLASSES = ("blue", "green", "red")
WORDS = ["a", "leaf", "spot", "dark", "pale", *CLASSES]
DESCRIPTIONS = {
    "blue": ["blue", "a blue leaf"],
    "green": ["a green leaf"],
    "red": ["red", "a red spot", "red leaf"],
}
SPLITS = ["train"] * 8 + ["val"] * 3 + ["test"] * 3


@pytest.fixture(scope="module", autouse=True)
def tokens_elsewhere(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert.write(tmp_path_factory.mktemp("bert"), WORDS, positions=12)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tiny_bert.write(tmp_path_factory.mktemp("clip"), WORDS)  # its tokenizer stays
    module = clip.make("tiny", **test_clip.TINY, end_token=3)

    def tower(sizes):
        return dict(hidden_size=sizes.width, num_hidden_layers=sizes.layers, num_attention_heads=sizes.heads,
                    intermediate_size=sizes.ffn, hidden_act="quick_gelu")  # fmt: skip

    config = dict(
        model_type="clip",
        projection_dim=module.projection,
        vision_config=tower(module.image) | dict(image_size=8, patch_size=4),
        text_config=tower(module.text) | dict(vocab_size=30, max_position_embeddings=9, eos_token_id=3),
    )
    (folder / "config.json").write_text(json.dumps(config))
    tensors = test_clip.reference(module, test_clip.draw(module))
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def leaves(tmp_path_factory):
    """A manifest of noisy squares in a colour that is the class; a caption says which, and something that is not the class."""
    root, rng = tmp_path_factory.mktemp("leaves"), np.random.default_rng(0)
    rows = []
    for k, name in enumerate(CLASSES):
        for i, split in enumerate(SPLITS):
            cv2.imwrite(str(root / f"{name}{i}.png"), pictures.coloured(rng, k, (32, 32)))
            caption = f"a {('dark', 'pale')[i % 2]} {name} {('leaf', 'spot', 'leaf leaf')[i % 3]}"
            rows.append({"path": f"{name}{i}.png", "label": name, "split": split, "caption": caption})
    (root / "words.json").write_text(json.dumps(DESCRIPTIONS))
    write(root / "leaves.csv", rows)
    return root / "leaves.csv", rows


def write(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def config(manifest, bert, **fields):
    """Training-free, unless fields say otherwise."""
    c = config_lib.default()
    c.task = c.model.name = "mvpdr"
    c.model.ablation, c.model.trunk, c.model.freeze_trunk = "sa_only", "vit_shallow", True
    c.data.source, c.data.root, c.data.eval_splits = "manifest", str(manifest), ("val", "test")
    c.data.resize, c.data.image_size, c.data.threads, c.data.prefetch = 36, 32, 2, 8
    c.data.cache.enabled, c.data.cache.passes = True, 3
    c.text.max_tokens, c.mvpdr.per_class = 12, 3
    if not fields.get("mvpdr__clip"):
        c.text.encoder = str(bert)
        c.mvpdr.width, c.mvpdr.align_steps, c.mvpdr.align_batch = 12, 60, 16
    if fields.get("mvpdr__prompts") != "captions":
        c.text.descriptions = str(manifest.parent / "words.json")
    c.train.batch_size, c.train.epochs, c.evaluation.batch_size, c.report.enabled = 8, 0.0, 8, False
    # Random features that tell the colours apart; those of seed 0 hardly do.
    frozen_trunk.start(c, manifest.parent, fields, seed=1)
    return fields_lib.put(c, fields)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def cached(folder, split):
    """Features of a split without their grid, (passes, N, C) float64."""
    (entry,) = (folder / "features").glob(f"{split}-*")
    maps = np.load(entry / "features.npy").astype(np.float64)
    return maps.mean((2, 3)) if maps.ndim == 5 else maps


def centres(x, labels, count, seed=0):
    """K-means in each class of (passes, N, D) features, passes made unit and averaged."""
    x = unit(unit(x).mean(0))
    return [
        unit(KMeans(count, n_init=10, random_state=seed).fit(x[labels == c]).cluster_centers_)
        for c in range(len(CLASSES))
    ]


LABELS = np.repeat(np.arange(3), 8)


@pytest.fixture(scope="module")
def free(leaves, bert, tmp_path_factory):
    """A training-free run: workdir, scores, and the parameters that the alignment gave."""
    folder, seen = tmp_path_factory.mktemp("free"), []
    with pytest.MonkeyPatch.context() as patch:
        align = common_space.align
        patch.setattr(common_space, "align", lambda *a, **k: seen.append(align(*a, **k)) or seen[-1])
        c = config(leaves[0], bert, report__enabled=True, report__examples=0, evaluation__probe=True)
        summary = trainer.Experiment(c, folder).train()
    return folder, summary, *seen[0]


def test_prototypes_are_those_of_the_cached_features(free, bert):
    folder, _, aligned, steps = free
    run = fusionjax.load(folder)
    params, counts = run.variables["params"], run.variables[COUNTS]
    kernel = np.asarray(params["projection"]["kernel"], np.float64)
    np.testing.assert_array_equal(params["projection"]["kernel"], aligned["image"]["kernel"])
    # The first pass is not augmented.
    expected = centres(cached(folder, "train")[1:] @ kernel, LABELS, 3)
    assert counts["visual_count"].tolist() == [3, 3, 3] and int(counts["align_steps"]) == steps
    for got, want in zip(np.asarray(params["visual"]), expected, strict=True):
        similar = got @ want.T
        assert sorted(similar.argmax(1)) == [0, 1, 2]
        np.testing.assert_allclose(similar.max(1), 1, atol=1e-4)
    module, variables, tokens = encoders.load_text(bert, output="mean")
    assert counts["text_count"].tolist() == [2, 1, 3] and params["text"].shape == (3, 3, 12)
    batch = tokens([words for own in DESCRIPTIONS.values() for words in own], 12)
    means, _ = jax.jit(module.apply)(variables, batch["input_ids"], batch["attention_mask"])
    want = unit(np.asarray(means, np.float64) @ np.asarray(aligned["text"]["kernel"]))
    for got, own in zip(np.asarray(params["text"]), (want[:2], want[2:3], want[3:]), strict=True):
        # The cache of texts is float16.
        np.testing.assert_allclose(got[: len(own)], own, atol=3e-3)
        assert not got[len(own) :].any()


def test_training_free_scores_are_the_equations(free):
    folder, summary, aligned, _ = free
    run = fusionjax.load(folder)
    params, counts = run.variables["params"], run.variables[COUNTS]
    sets = [
        mvpdr.Prototypes(np.asarray(params[name]), tuple(np.asarray(counts[f"{name}_count"]).tolist()))
        for name in ("visual", "text")
    ]
    x = cached(folder, "test")[0] @ np.asarray(aligned["image"]["kernel"], np.float64)
    logits, _ = mvpdr.scores(jnp.asarray(x, jnp.float32), *sets)
    _, out = run.outputs("test")
    rows = out["index"] >= 0
    got = np.log(out["probabilities/combined"][rows][np.argsort(out["index"][rows])])
    want = np.asarray(jax.nn.log_softmax(logits))
    # t is 100 times a cosine of features that the cache rounds to float16.
    np.testing.assert_allclose(got, want, atol=0.1)
    labels = np.repeat(np.arange(3), 3)
    assert summary["test/accuracy"] == pytest.approx((want.argmax(1) == labels).mean())
    assert summary["step"] == 0 and summary["test/accuracy"] > 0.6, "three colours are not hard"


def test_the_report_names_the_space_and_that_no_text_is_read(free):
    folder, summary, _, steps = free
    page = (folder / "report" / "index.html").read_text()
    assert "text of an example at test" in page and "none is read" in page
    assert f"{steps} steps of InfoNCE on the training split, chosen on validation" in page
    assert "as they are (training-free)" in page and "1 to 3, descriptions of the class" in page
    assert "baseline/logistic_regression" in summary


def test_the_evaluate_command_gives_the_same_numbers(free, capsys):
    folder, summary, *_ = free
    evaluate.main(arguments.parse(evaluate.COMMAND, [f"--workdir={folder}"]))
    again = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert {"val/accuracy", "test/accuracy", "test/nll"} <= set(again)
    for name, value in again.items():
        near = dict(rel=0.03, abs=0.01) if name.endswith(("nll", "ece")) else dict(abs=1e-4)
        assert float(value) == pytest.approx(summary[name], **near), name


def test_a_training_free_run_started_again_computes_nothing(free, leaves, bert, monkeypatch):
    folder, summary, *_ = free
    monkeypatch.setattr(prototype_start.PrototypeStart, "__call__", forbidden)
    c = config(leaves[0], bert, report__enabled=True, report__examples=0, evaluation__probe=True)
    again = trainer.Experiment(c, folder).train()
    assert {k: v for k, v in again.items() if k != "seconds"} == {
        k: v for k, v in summary.items() if k != "seconds"
    }


def forbidden(*args, **kwargs):
    raise AssertionError("the start was computed again")


class Stopped(Exception):
    pass


def test_it_trains_and_resumes_exactly(leaves, bert, tmp_path, monkeypatch):
    shared = dict(train__epochs=4.0, train__best_metric="val/accuracy", train__checkpoint_every=3, mvpdr__align_steps=5,
                  optim__learning_rate=1e-2, data__cache__folder=str(tmp_path / "features"))  # fmt: skip

    def stop(step, scores):
        if step == 6:
            raise Stopped

    whole = trainer.Experiment(config(leaves[0], bert, **shared), tmp_path / "a").train()
    with pytest.raises(Stopped):
        trainer.Experiment(config(leaves[0], bert, **shared), tmp_path / "b").train(on_scores=stop)
    monkeypatch.setattr(prototype_start.PrototypeStart, "__call__", forbidden)
    resumed = trainer.Experiment(config(leaves[0], bert, **shared), tmp_path / "b").train()
    assert {k: v for k, v in whole.items() if k != "seconds"} == {
        k: v for k, v in resumed.items() if k != "seconds"
    }
    a, b = (fusionjax.load(tmp_path / name) for name in "ab")
    jax.tree.map(np.testing.assert_array_equal, a.variables, b.variables)
    # Prototypes learn, places without one stay empty, frozen encoders stay as they were.
    norms = np.linalg.norm(a.variables["params"]["text"], axis=-1)
    assert not np.allclose(norms[norms > 0], 1, atol=1e-4) and (norms > 0).sum(1).tolist() == [2, 1, 3]
    assert whole["step"] > 0


def test_no_text_of_a_test_example_is_read(leaves, bert, tmp_path):
    path, rows = leaves
    outcomes = []
    for name, splits in (("same", ()), ("test", ("val", "test")), ("train", ("train",))):
        own = [r for r in rows if r["split"] in splits]
        words = [r["caption"] for r in own][::-1]
        of = {r["path"]: w for r, w in zip(own, words, strict=True)}
        changed = [r | {"caption": of.get(r["path"], r["caption"])} for r in rows]
        manifest = write(path.parent / f"{name}.csv", changed)
        c = config(manifest, bert, mvpdr__prompts="captions", data__cache__passes=1, mvpdr__align_steps=20,
                   data__cache__folder=str(tmp_path / "features"), mvpdr__max_prompts=8, text__descriptions="")  # fmt: skip
        trainer.Experiment(c, tmp_path / name).train()
        outcomes.append(fusionjax.load(tmp_path / name).outputs("test")[1]["probabilities/combined"])
    same, test, train = outcomes
    np.testing.assert_array_equal(same, test)
    assert np.abs(same - train).max() > 1e-3, "captions of training examples do count"


def test_captions_as_prompts(leaves, bert, tmp_path):
    c = config(leaves[0], bert, mvpdr__prompts="captions", mvpdr__max_prompts=4, data__cache__passes=1,
               mvpdr__align_steps=2, text__descriptions="")  # fmt: skip
    trained = trainer.Experiment(c, tmp_path)
    task = trained.task
    own = [r["caption"] for r in leaves[1] if r["split"] == "train"]
    start, rows = task.model.starts, np.arange(24)
    texts = start.texts[0]
    chosen = start._prompts(rows, LABELS)
    assert [len(part) for part in chosen] == [4, 4, 4], "six different captions of a class, four places"
    for c, part in enumerate(chosen):
        assert set(part) <= {int(texts.index[i]) for i in rows if LABELS[i] == c} and len(set(part)) == 4
    assert len(set(own)) == 18 and len(texts.tokens) == 18
    with pytest.raises(UserError, match=r"no training example of class 'green' has a caption"):
        start._prompts(rows[LABELS != 1], LABELS[LABELS != 1])


def test_a_clip_brings_its_own_space(leaves, clip_folder, tmp_path, monkeypatch):
    reads = []

    def read(path, *part, shapes_only, log):
        reads.append(shapes_only)
        return files.read(path, shapes_only=shapes_only, log=log)

    monkeypatch.setattr(encoders, "read", read)
    c = config(leaves[0], "", mvpdr__clip=str(clip_folder), model__trunk="", model__freeze_trunk=False,
               data__resize=12, data__image_size=8, text__max_tokens=9)  # fmt: skip
    trainer.Experiment(c, tmp_path).train()
    assert reads == [True, False], "the shapes are validated, and the values are read once"
    run = fusionjax.load(tmp_path)
    params = run.variables["params"]
    module, variables, tokens = encoders.load_clip(clip_folder)
    assert set(params) == {"trunk", "visual", "text"} and "text_tower" not in params["trunk"]
    jax.tree.map(np.testing.assert_array_equal, params["trunk"],
                 {k: variables["params"][k] for k in ("image_tower", "image_projection", "logit_scale")})  # fmt: skip
    batch = tokens([words for own in DESCRIPTIONS.values() for words in own], 9)
    encode = jax.jit(lambda *words: module.apply(variables, *words, method="encode_text")[0])
    want = np.asarray(encode(batch["input_ids"], batch["attention_mask"]))
    for got, own in zip(np.asarray(params["text"]), (want[:2], want[2:3], want[3:]), strict=True):
        np.testing.assert_allclose(got[: len(own)], own, atol=1e-5)
    features = cached(tmp_path, "train")
    assert features.shape == (3, 24, 10)
    for got, want in zip(np.asarray(params["visual"]), centres(features[1:], LABELS, 3), strict=True):
        np.testing.assert_allclose((got @ want.T).max(1), 1, atol=1e-4)
    seen = Evaluated({}, {}, {}, run.variables)
    assert ["common space", f"{clip_folder}, both towers frozen"] in run.task.sections[1](seen)["tables"][0][
        2
    ]


def synthetic(rng, count=40):
    """Images and texts that are two linear views of the same points; three passes of noise."""
    z = rng.standard_normal((count, 4))
    images = z @ rng.standard_normal((4, 9)) + 0.01 * rng.standard_normal((3, count, 9))
    return images.astype(np.float32), (z @ rng.standard_normal((4, 7))).astype(np.float32)


def test_alignment_brings_pairs_together(rng):
    images, texts = synthetic(rng)
    pairs = common_space.Pairs(np.arange(40), np.ones(40, int))
    how = dict(width=4, batch_size=32, learning_rate=1e-2, seed=1)
    params, steps = common_space.align(images, texts, pairs, steps=200, **how)
    similar = unit(images[0] @ params["image"]["kernel"]) @ unit(texts @ params["text"]["kernel"]).T
    assert steps == 200 and (similar.argmax(1) == np.arange(40)).mean() > 0.9
    asked = []

    def score(params):
        asked.append(jax.device_get(params))
        return (0.1, 0.5, 0.3, 0.5, 0.0)[len(asked) - 1]

    chosen, steps = common_space.align(images, texts, pairs, steps=20, score=score, **how)
    assert steps == 2 and len(asked) == 5, "after 1, 2, 5, 10 and 20; the earliest of the best"
    jax.tree.map(np.testing.assert_array_equal, chosen, asked[1])


def test_images_of_one_text_are_no_negatives(rng):
    assert common_space.distinct(np.array([4, 2, 4, 2, 9])).tolist() == [1, 1, 0, 0, 1]
    labels = np.arange(40) % 2
    images = (np.eye(2)[labels] + 0.05 * rng.standard_normal((1, 40, 2))).astype(np.float32)
    texts = np.eye(3, dtype=np.float32)[[0, 0, 1]] + np.float32([[0, 0, 0.2], [0, 0, -0.2], [0, 0, 0]])
    pairs = common_space.Pairs(np.array([0, 2])[labels], np.array([2, 1])[labels])
    params, _ = common_space.align(
        images, texts, pairs, width=2, steps=150, batch_size=40, learning_rate=2e-2, seed=0
    )
    similar = unit(images[0] @ params["image"]["kernel"]) @ unit(texts @ params["text"]["kernel"]).T
    own = np.where(labels[:, None] == 0, similar[:, :2].min(1, keepdims=True), similar[:, 2:])
    other = np.where(labels[:, None] == 0, similar[:, 2:], similar[:, :2].max(1, keepdims=True))
    assert (own > other).all()
    with pytest.raises(UserError, match="two different texts or more"):
        common_space.align(images, texts, common_space.Pairs(np.zeros(40, int), np.ones(40, int)), width=2, steps=1,
                        batch_size=4, learning_rate=1e-2, seed=0)  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(data__cache__enabled=False), "data.cache.enabled=False is not possible: mvpdr makes its prototypes"),
        (dict(text__freeze=False), "text.freeze=False is not possible: mvpdr works on frozen"),
        (dict(loss__label_smoothing=0.1), "loss.label_smoothing=0.1 is not read by this run"),
        (dict(loss__balanced=True), "loss.balanced=True is not read by this run: one of the tasks classification, fusion"),
        (dict(mvpdr__prompts="titles"), "allowed are descriptions, captions"),
        (dict(mvpdr__per_class=0), r"mvpdr.per_class=0 is not possible: allowed is \[1"),
        (dict(mvpdr__clip="x"), "mvpdr.clip brings its own image encoder"),
        (dict(task="fusion"), "set train.epochs or train.steps"),
        (dict(text__descriptions=""), "text.descriptions='' is not possible: the prompts of the classes"),
        (dict(model__trunk="", model__freeze_trunk=False, data__cache__enabled=True), "only the outputs of a frozen"),
        (dict(model__trunk_norm=True), "'mvpdr' has no such field"),
        (dict(model__name="vit_shallow"), "the task mvpdr builds 'mvpdr'"),
        (dict(task="classification", train__epochs=1.0), "not read by this run: the task 'mvpdr' reads it"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(leaves, bert, fields, message):
    with pytest.raises(UserError, match=message) as caught:
        tasks.create(config_lib.validate(config(leaves[0], bert, **fields)), Facts(tuple(CLASSES)))
    assert "\n" not in str(caught.value)


def test_what_the_data_lack_is_one_line(leaves, bert, clip_folder, tmp_path):
    bare = write(
        leaves[0].parent / "bare.csv", [{k: v for k, v in r.items() if k != "caption"} for r in leaves[1]]
    )
    with pytest.raises(UserError, match="has no column caption; its columns are path, label"):
        trainer.Experiment(config(bare, bert, mvpdr__prompts="captions", text__descriptions=""), tmp_path)
    with pytest.raises(UserError, match="the CLIP takes 8 pixels a side"):
        c = config(leaves[0], "", mvpdr__clip=str(clip_folder), model__trunk="", model__freeze_trunk=False)
        trainer.Experiment(c, tmp_path)
    # Without captions the images are aligned with descriptions of their classes.
    made = trainer.Experiment(config(bare, bert), tmp_path).task
    pairs = made.model.starts._pairs(np.arange(24), LABELS)
    assert pairs.first.tolist() == [0] * 8 + [2] * 8 + [3] * 8
    assert pairs.choices.tolist() == [2] * 8 + [1] * 8 + [3] * 8
