"""Image–text classification as a whole: what a run reads, learns, scores, reports and refuses."""

import dataclasses
import json
import shutil

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fusionjax
from fusionjax import pretrained, tasks
from fusionjax.data.text.texts import LEAK
from fusionjax.errors import UserError
from fusionjax.experiment import sharing, trainer
from fusionjax.models import registry
from fusionjax.tasks.base.protocol import Facts
from fusionjax.tasks.image_text import text_inputs
from tests.support import fields as fields_lib
from tests.support import frozen_trunk, pictures, tiny_bert

pytestmark = pytest.mark.usefixtures("libraries_warn")

CLASSES = ("blue", "green", "red")
WORDS = ["a", "leaf", "spot", "##s", "dark", "pale", "round", "long", "with", *CLASSES]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert.write(tmp_path_factory.mktemp("bert"), WORDS)


@pytest.fixture(scope="module")
def leaves(tmp_path_factory):
    """Noise in a colour, a caption that has nothing of it, and descriptions of the classes. Returns the folder."""
    root, rng = tmp_path_factory.mktemp("leaves"), np.random.default_rng(0)
    lines = ["path,label,split,caption"]
    for k, name in enumerate(CLASSES):
        for i in range(14):
            cv2.imwrite(str(root / f"{name}{i}.png"), pictures.coloured(rng, k))
            split = "train" if i < 8 else "val" if i < 10 else "test"
            words = rng.choice(WORDS[:9], rng.integers(1, 7))
            lines.append(f"{name}{i}.png,{name},{split},{' '.join(words)}")
    (root / "leaves.csv").write_text("\n".join(lines) + "\n")
    texts = {name: [f"a {name} leaf with spots", f"{name} round"] for name in CLASSES}
    (root / "texts.json").write_text(json.dumps(texts))
    return root


def settings(leaves, bert, **fields):
    c = fields_lib.frozen_encoders("fusion", "fusion", leaves / "leaves.csv", bert)
    c.data.eval_splits, c.train.eval_every_epochs, c.model.depth = ("val", "test"), 1.0, 1
    if fields.get("text__kind", "instance") != "instance":
        c.text.descriptions = str(leaves / "texts.json")
    frozen_trunk.start(c, bert.parent, fields)
    return fields_lib.validated(c, fields)


def task_of(*args, **fields):
    return tasks.create(settings(*args, **fields), Facts(tuple(CLASSES)))


# -- whole runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(leaves, bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run = trainer.Experiment(settings(leaves, bert, evaluation__probe=True), folder)
    return folder, run.train()


def test_a_run_is_scored_and_reported(finished):
    folder, summary = finished
    assert 0 <= summary["test/accuracy"] <= 1 and "baseline/logistic_regression" in summary
    page = (folder / "report" / "index.html").read_text()
    for words in (
        "the example&#39;s own caption",
        "no look-up by the label",
        "Attention between image and text",
    ):
        assert words in page
    assert LEAK[:40] not in page


def test_evaluating_again_gives_the_same(finished):
    folder, summary = finished
    run = fusionjax.load(folder)
    again = run.task.scorer.scalars(run.evaluate(["test"]))
    for name, value in again.items():
        assert value == pytest.approx(summary[name], abs=2e-3)  # features were kept as float16


def test_predicting_needs_a_text_of_each_image(finished, leaves):
    run = fusionjax.load(finished[0])
    images = [leaves / "red0.png", leaves / "red1.png"]
    a, b = run.predict(images, texts=["a leaf", "a pale leaf with dark spots"])
    assert a.probabilities.sum() == pytest.approx(1, abs=1e-5) and len(b.classes) == 3
    alone = run.predict(images[:1], texts=["a leaf"])[0]
    np.testing.assert_allclose(alone.probabilities, a.probabilities, atol=1e-6)
    other = run.predict(images[:1], texts=["dark long spots"])[0]
    assert np.abs(other.probabilities - a.probabilities).max() > 1e-6
    with pytest.raises(UserError, match="give 2 texts, one per image"):
        run.predict(images, texts=["one"])


def test_an_exported_run_brings_its_tokenizer(finished, leaves, bert, tmp_path):
    """Bit-equal predictions from a folder, without the encoder that it was trained with; its trunk starts another run."""
    run = fusionjax.load(finished[0])
    sharing.write(run, tmp_path / "shared")
    assert "text.encoder/vocab.txt" in json.loads((tmp_path / "shared" / "sums.json").read_text())["files"]
    written = b"".join(path.read_bytes() for path in (tmp_path / "shared").rglob("*") if path.is_file())
    assert str(bert).encode() not in written and str(leaves).encode() not in written
    hidden = bert.rename(bert.with_name("hidden"))
    try:
        again = fusionjax.load((tmp_path / "shared").rename(tmp_path / "elsewhere"))
        images, texts = [leaves / "red0.png", leaves / "blue1.png"], ["a leaf", "dark long spots"]
        for a, b in zip(run.predict(images, texts=texts), again.predict(images, texts=texts), strict=True):
            assert a.classes == b.classes and np.array_equal(a.probabilities, b.probabilities)
    finally:
        hidden.rename(bert)
    trunk = pretrained.load(tmp_path / "elsewhere", "vit_shallow")
    assert jax.tree.all(jax.tree.map(np.array_equal, trunk["params"], run.variables["params"]["trunk"]))


def test_killed_and_resumed_is_bit_equal(leaves, bert, tmp_path):
    class Killed(Exception):
        pass

    def kill(step, scores):
        raise Killed

    config = settings(leaves, bert, report__enabled=False, data__cache__folder=str(tmp_path / "shared"))
    whole = trainer.Experiment(config, tmp_path / "a").train()
    broken = trainer.Experiment(config, tmp_path / "b")
    with pytest.raises(Killed):
        broken.train(on_scores=kill)
    again = trainer.Experiment(config, tmp_path / "b").train()
    for name in whole:
        assert name == "seconds" or whole[name] == again[name]
    a, b = (fusionjax.load(tmp_path / x).variables for x in "ab")
    assert jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b))
    assert not (tmp_path / "a" / "features").exists()  # one folder, both runs


def test_a_bank_needs_no_text_at_prediction(leaves, bert, tmp_path):
    config = settings(leaves, bert, text__kind="bank", train__steps=2, report__examples=1)
    run = trainer.Experiment(config, tmp_path)
    run.train()
    assert run.task.sections[1].leaking == {"train": False, "val": False, "test": False}
    loaded = fusionjax.load(tmp_path)
    assert loaded.predict([leaves / "red0.png"])[0].probabilities.shape == (3,)
    with pytest.raises(UserError, match="leave texts out"):
        loaded.predict([leaves / "red0.png"], texts=["a leaf"])


def test_class_texts_leak_and_the_report_says_so_first(leaves, bert, tmp_path):
    with pytest.raises(UserError, match="allow_label_leak"):
        trainer.Experiment(settings(leaves, bert, text__kind="class"), tmp_path)
    config = settings(leaves, bert, text__kind="class", text__allow_label_leak=True, train__steps=2)
    run = trainer.Experiment(config, tmp_path)
    run.train()
    assert run.task.sections[1].leaking == {"train": True, "val": True, "test": True}
    assert run.task.inputs.warnings()[0] == LEAK
    page = (tmp_path / "report" / "index.html").read_text()
    block = page[: page.index("<header>")]  # nothing was learned in two steps, either
    assert (
        "not a measurement" in block
        and LEAK in json.loads((tmp_path / "results.json").read_text())["cautions"]
    )


# -- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"fusion__mode": "image"},
        {"fusion__mode": "text"},
        {"fusion__mode": "concat"},
        {"fusion__head": "bilinear", "fusion__bilinear_form": "hadamard"},
        {"text__kind": "bank", "text__bank_level": "token"},
        {
            "text__freeze": False,
            "data__cache__enabled": False,
            "data__cache__passes": 3,
            "model__freeze_trunk": False,
        },
        {"text__kind": "bank", "text__freeze": False},
        {
            "model__trunk": "tf_efficientnet_lite0",
            "model__trunk_features": "stride16",
            "loss__focal_gamma": 2.0,
        },
        {"loss__balanced": True, "model__remat": True},
    ],
    ids=lambda f: ",".join(f"{k.split('__')[-1]}={v}" for k, v in f.items()),
)
def test_every_variant_shapes_a_step(leaves, bert, tmp_path, fields):
    run = trainer.Experiment(settings(leaves, bert, **fields), tmp_path)
    assert "steps of 8" in run.describe()


def test_frozen_features_equal_the_encoder_in_the_step(leaves, bert, tmp_path):
    """A frozen encoder's rows, kept as float16, and the encoder run on the same tokens give the same logits."""
    frozen = trainer.Experiment(settings(leaves, bert), tmp_path / "a")
    whole = trainer.Experiment(settings(leaves, bert, text__freeze=False), tmp_path / "b")
    variables = frozen.initial_variables()
    logits = []
    for run in (frozen, whole):
        extra = run.task.inputs.prepare("eval/test", run.eval_sources["test"], variables)
        rows = [extra.row(i, None) for i in range(4)]
        words = {k: jnp.stack([r[k] for r in rows]) for k in rows[0]}
        image = jnp.asarray(np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3)), jnp.uint8)
        predict = jax.jit(run.task.scorer.predict)
        logits.append(predict(variables, {"image": image, **words})["probabilities/combined"])
    np.testing.assert_allclose(logits[0], logits[1], atol=2e-4)


def test_longer_padding_of_a_batch_changes_no_bit(leaves, bert, tmp_path):
    run = trainer.Experiment(settings(leaves, bert), tmp_path)
    variables = run.initial_variables()
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.integers(0, 255, (3, 32, 32, 3)), jnp.uint8)
    text, mask = rng.normal(size=(3, 16, 16)).astype(np.float16), np.arange(16) < np.array([[5], [16], [9]])
    predict = jax.jit(run.task.scorer.predict)
    plain = predict(variables, {"image": image, "text": text, "text_mask": mask})
    wide = np.pad(text, ((0, 0), (0, 48), (0, 0)), constant_values=7.0)
    padded = predict(variables, {"image": image, "text": wide, "text_mask": np.pad(mask, ((0, 0), (0, 48)))})
    assert np.array_equal(plain["probabilities/combined"], padded["probabilities/combined"])


def test_a_baseline_does_not_see_the_other_side(leaves, bert):
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 255, (2, 32, 32, 3), np.uint8), "text_mask": np.ones((2, 8), bool),
             "text": rng.normal(size=(2, 8, 16)).astype(np.float16)}  # fmt: skip
    for mode, unseen in (("image", "text"), ("text", "image")):
        task = task_of(leaves, bert, fusion__mode=mode)
        variables = jax.jit(task.model.init)(jax.random.key(0))
        other = {**batch, unseen: batch[unseen][::-1]}
        predict = jax.jit(task.scorer.predict)
        a, b = (predict(variables, x)["probabilities/combined"] for x in (batch, other))
        assert np.array_equal(a, b)


def test_classes_chosen_by_name(leaves, bert, tmp_path):
    config = settings(leaves, bert, data__selected_classes=("red", "blue"), text__kind="bank")
    run = trainer.Experiment(config, tmp_path)
    assert run.source.class_names == ("red", "blue") and len(run.source) == 16
    assert run.task.inputs.text.bank.tokens.shape[0] == 4


def test_descriptions_of_chosen_classes_may_be_spelt_otherwise(leaves, bert, tmp_path):
    names = ("Tomato___Late_blight", "Tomato___healthy")
    texts = {"Tomato: Late blight": ["spots"], "Tomato: healthy": ["green"], "Potato: healthy": ["brown"]}
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    config = settings(
        leaves,
        bert,
        data__selected_classes=names,
        text__kind="bank",
        text__descriptions=str(tmp_path / "texts.json"),
    )
    assert text_inputs.described(config, names).texts == (("spots",), ("green",))


def test_a_vit_gives_tokens_in_its_grid():
    module, grid = registry.tokens("deit_tiny_patch16_224", image_size=(32, 48))
    images = jnp.ones((2, 32, 48, 3))
    variables = module.init(jax.random.key(0), images)
    tokens, _ = module.apply(variables, images)
    assert grid == (2, 3) and tokens.shape == (2, 2, 3, 192) and "head" not in variables["params"]
    with pytest.raises(UserError, match="model.trunk='nothing' is not known"):
        registry.tokens("nothing", image_size=32)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text__encoder": ""}, "text.encoder"),
        ({"text__encoder": "nowhere"}, "no folder with a config.json"),
        ({"text__max_tokens": 100}, "the encoder has 24 positions"),
        ({"model__name": "vit_shallow"}, "the task fusion builds 'fusion'"),
        (
            {
                "model__trunk": "",
                "data__cache__enabled": False,
                "data__cache__passes": 3,
                "model__freeze_trunk": False,
            },
            "name the image encoder",
        ),
        ({"model__stride": 4}, "has no such field"),
        ({"fusion__mode": "image", "fusion__head": "adaptive"}, "no head to choose"),
        ({"fusion__head": "sum"}, "is not known; allowed: concat"),
        ({"model__heads": 3}, "must divide"),
        ({"fusion__mode": "both"}, "allowed are fusion, concat, image, text"),
        ({"loss__focal_gamma": 2.0, "loss__label_smoothing": 0.1}, "no label smoothing"),
        ({"loss__class_weights": (1.0, 2.0)}, "one number for each of 3 classes"),
        ({"text__kind": "bank", "text__descriptions": ""}, "needs a built-in name or a JSON file"),
        ({"text__kind": "bank", "text__descriptions": "plant_village"}, "no description of"),
        ({"data__selected_classes": ("red", "rde")}, "has no class"),
    ],
    ids=lambda x: ",".join(x) if isinstance(x, dict) else None,
)
def test_what_cannot_be_is_said_before_anything_is_allocated(leaves, bert, tmp_path, fields, message):
    with pytest.raises(UserError, match=message) as e:
        trainer.Experiment(settings(leaves, bert, **fields), tmp_path).describe()
    assert "\n" not in str(e.value)


def test_a_run_without_captions_is_refused(leaves, bert, tmp_path):
    lines = [line.rsplit(",", 1)[0] for line in (leaves / "leaves.csv").read_text().splitlines()]
    (leaves / "plain.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match="no column caption"):
        trainer.Experiment(settings(leaves, bert, data__root=str(leaves / "plain.csv")), tmp_path)


def test_kept_text_features_are_those_of_the_weights(leaves, bert, tmp_path):
    """Other weights, other file: a stale one is never read."""
    run = trainer.Experiment(settings(leaves, bert), tmp_path)
    texts, params = run.task.inputs.text.texts(run.source), run.task.inputs.text.weights()
    a = run.task.inputs.text.features(texts, params, folder=tmp_path)
    b = run.task.inputs.text.features(texts, jax.tree.map(lambda x: x * 1.5, params), folder=tmp_path)
    assert len(list(tmp_path.glob("text-*"))) == 2 and not np.array_equal(a, b)
    np.testing.assert_array_equal(a, run.task.inputs.text.features(texts, params))
    assert (np.asarray(a)[~texts.mask] == 0).all()
    # Other sizes of the same weights are another encoder.
    run.task.inputs.text.module = run.task.inputs.text.module.clone(
        config=dataclasses.replace(run.task.inputs.text.module.config, heads=2)
    )
    c = np.array(run.task.inputs.text.features(texts, params, folder=tmp_path))
    assert len(list(tmp_path.glob("text-*"))) == 3 and not np.array_equal(a, c)
    file = max(tmp_path.glob("text-*/features.npy"), key=lambda p: p.stat().st_mtime_ns)
    file.write_bytes(file.read_bytes()[:40])
    np.testing.assert_array_equal(c, run.task.inputs.text.features(texts, params, folder=tmp_path))


def test_a_run_goes_on_with_its_own_texts_only(leaves, bert, tmp_path):
    class Killed(Exception):
        pass

    def kill(step, scores):
        raise Killed

    table, run = tmp_path / "leaves.csv", tmp_path / "run"
    lines = (leaves / "leaves.csv").read_text().splitlines()
    table.write_text("\n".join([lines[0], *(str(leaves / line) for line in lines[1:])]) + "\n")
    config = settings(leaves, bert, data__root=str(table), report__enabled=False)
    with pytest.raises(Killed):
        trainer.Experiment(config, run).train(on_scores=kill)
    table.write_text(table.read_text().replace("spot", "leaf"))
    with pytest.raises(UserError, match="its texts differ"):
        trainer.Experiment(config, run).train()


def test_a_run_is_served_with_its_own_tokenizer_only(finished, bert, leaves, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    shutil.copytree(bert, tmp_path / "bert")
    words = (tmp_path / "bert" / "vocab.txt").read_text().split("\n")
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join([*words[:5], *words[-2:4:-1], ""]))
    content = json.loads((folder / "config.json").read_text())
    content["config"]["text"]["encoder"] = str(tmp_path / "bert")
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="is not the one that it was trained with"):
        fusionjax.load(folder)
