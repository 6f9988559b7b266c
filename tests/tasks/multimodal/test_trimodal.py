"""Image, sound and text as a whole run: what is read, learned, scored, reported and refused."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fusionjax
from fusionjax import tasks
from fusionjax.errors import UserError
from fusionjax.experiment import trainer
from fusionjax.models import parameters
from fusionjax.tasks.base.protocol import Facts
from fusionjax.train import optim
from tests.support import fields as fields_lib
from tests.support import frozen_trunk, modality_tree, tiny_bert
from tests.support.modality_tree import CLASSES

pytestmark = pytest.mark.usefixtures("libraries_warn")

SUBSETS = ("image", "audio", "text", "image_audio", "image_text", "audio_text")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert.write(tmp_path_factory.mktemp("bert"), modality_tree.WORDS)


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    return modality_tree.write(tmp_path_factory.mktemp("things"))


def settings(manifest, bert, **fields):
    c = fields_lib.frozen_encoders("trimodal", "trimodal", manifest, bert)
    c.data.max_bad_fraction = 0.2
    c.trimodal.hidden, c.trimodal.modality_dropout = 16, 0.3
    c.text.allow_empty = True
    c.audio.seconds, c.audio.width, c.audio.depth, c.audio.heads = 0.4, 16, 1, 2
    frozen_trunk.start(c, bert.parent, fields)
    return fields_lib.validated(c, fields)


@pytest.fixture(scope="module")
def trained(things, bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    c = settings(
        things, bert, train__steps=40, train__checkpoint_every=40,
        trimodal__pairings=("image_from_audio", "audio_from_image", "text_from_image", "audio_from_text"),
    )  # fmt: skip
    return folder, trainer.Experiment(c, folder).train()


def test_a_run_learns_scores_every_subset_and_reports_it(trained):
    folder, summary = trained
    assert summary["test/accuracy"] == 1, "each modality tells the class"
    assert all(0 <= summary[f"test/accuracy_{s}"] <= 1 for s in SUBSETS)
    page = (folder / "report" / "index.html").read_text()
    assert "Accuracy by the modalities at test" in page and "audio + text" in page
    assert "1 sounds of train could not be read" in page and "red0.wav" in page
    assert "1 sounds of train are silent" in page and "green0.wav" in page
    assert "Sound files that were read" in page
    cells = [f"<td[^>]*>{text}</td>" for text in ("train", "8,000 Hz", "1", "1")]
    assert re.search(r"\s*".join(cells), page), "the rate and the channels of what was read are named"
    assert re.search(r"\s*".join([cells[0], "<td[^>]*>16,000 Hz</td>", "<td[^>]*>2</td>", cells[3]]), page)
    assert "Attention between image, audio, text" in page
    assert list((folder / "report").glob("figure_*.png"))
    stored = json.loads((folder / "results.json").read_text())
    with np.load(folder / "outcomes.npz", allow_pickle=False) as file:
        assert file["correct"].mean() == pytest.approx(stored["test/accuracy"])


def test_the_loaded_run_gives_the_same_scores_and_predicts_what_it_is_given(trained, things):
    folder, summary = trained
    run = fusionjax.load(folder)
    for name, value in run.task.scorer.scalars(run.evaluate()).items():
        assert summary[name] == pytest.approx(value, abs=1e-3), name
    image = things.parent / "green9.png"
    for text in ("a thing of colour green", ""):
        found = run.predict([image], texts=[text])[0]
        assert len(found.classes) == 3 and found.probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_the_loaded_run_predicts_with_the_given_sounds(trained, things, caplog):
    run = fusionjax.load(trained[0])
    image, texts = things.parent / "green9.png", [""]
    sound = things.with_name("green9.wav")
    heard, mute, silent = (
        run.predict([image], texts=texts, sounds=[file])[0]
        for file in (sound, "", things.with_name("green0.wav"))
    )
    assert heard.classes[0] == "green" and np.abs(heard.probabilities - mute.probabilities).max() > 1e-3
    np.testing.assert_array_equal(silent.probabilities, mute.probabilities)
    assert "green0.wav: it is silent" in caplog.text and "no sound is given" not in caplog.text
    np.testing.assert_array_equal(run.predict([image], texts=texts)[0].probabilities, mute.probabilities)
    assert "the model has audio input and no sound is given" in caplog.text
    for files, words in (([things.with_name("red0.wav")], "red0.wav cannot be read: the file ends after"),
                         (["none.ogg"], "there is no such file"), ([], "give 1 sounds")):  # fmt: skip
        with pytest.raises(UserError, match=words):
            run.predict([image], texts=texts, sounds=files)


def batch_of(task, variables, source, size=6, seed=0):
    """Rows of the training split as a run gives them, images for features."""
    rng = np.random.default_rng(seed)
    rows = [{k: np.array(v) for k, v in task.inputs.padding_example().items()} for _ in range(size)]
    extra = task.inputs.prepare("train", source, variables)
    for i, row in enumerate(rows):
        row.update(extra.row(i, 0))
    batch = {k: np.stack([r[k] for r in rows]) for k in rows[0]}
    batch |= {"image": rng.integers(0, 255, (size, 32, 32, 3), np.uint8), "valid": np.ones(size, np.float32)}
    return batch | {"label": np.arange(size, dtype=np.int32) % 3, "index": np.arange(size, dtype=np.int32)}


@pytest.fixture(scope="module")
def made(things, bert):
    """A task, its weights, and the training source."""
    run = trainer.Experiment(settings(things, bert), "/nonexistent")
    return run.task, run.initial_variables(), run.source


def test_what_stands_in_a_missing_sound_or_text_moves_no_bit(made):
    task, variables, source = made
    batch = batch_of(task, variables, source)
    predict = jax.jit(task.scorer.predict)
    batch["audio_mask"][:2], batch["text_mask"][1:3] = False, False
    want = predict(variables, batch)["probabilities/combined"]
    assert np.isfinite(want).all()
    for value in (0, 1e4, np.nan):
        other = {k: np.array(v) for k, v in batch.items()}
        other["audio"][~batch["audio_mask"]] = value
        other["text"][~batch["text_mask"]] = value
        np.testing.assert_array_equal(predict(variables, other)["probabilities/combined"], want)


def test_a_subset_is_what_masks_make_of_it(made):
    task, variables, source = made
    batch = batch_of(task, variables, source)
    predict = jax.jit(task.scorer.predict)
    whole = predict(variables, batch)
    silent = predict(variables, batch | {"audio_mask": np.zeros_like(batch["audio_mask"])})
    # Other parts of one program, compiled apart: equal but for rounding. To the bit: `test_trimodal.py`.
    np.testing.assert_allclose(silent["probabilities/combined"], whole["probabilities/image_text"], rtol=1e-5)
    mute = predict(variables, batch | {"text_mask": np.zeros_like(batch["text_mask"])})
    np.testing.assert_allclose(mute["probabilities/combined"], whole["probabilities/image_audio"], rtol=1e-5)
    assert np.abs(silent["probabilities/combined"] - whole["probabilities/combined"]).max() > 1e-4


@pytest.mark.parametrize("encoder", ["mel", "wav2vec2_base"])
def test_three_clips_of_unequal_lengths_equal_the_three_alone(things, bert, encoder, monkeypatch):
    """Through the whole audio side, sound to tokens."""
    from fusionjax.models.backbones import audio as audio_models

    small = dict(width=16, depth=1, heads=2, hidden=16, conv_width=8, pos_kernel=6, pos_groups=4)
    monkeypatch.setitem(audio_models.CONFIGS, "wav2vec2_base", small)
    sizes = {} if encoder == "mel" else dict(audio__width=128, audio__depth=2, audio__heads=4)  # of mel alone
    c = settings(things, bert, audio__encoder=encoder, **sizes)
    side = tasks.create(c, Facts(tuple(CLASSES))).inputs.audio
    rng = np.random.default_rng(0)
    lengths = (6_400, 3_000, 5_001)

    def batch(own, total):
        out = {k: np.zeros((len(own), *v.shape), v.dtype) for k, v in side.padding_example().items()}
        out["audio"], out["audio_mask"] = (
            np.full((len(own), total), 9.0, np.float32),
            np.zeros((len(own), total), bool),
        )
        for i, clip in enumerate(own):
            out["audio"][i, : len(clip)], out["audio_mask"][i, : len(clip)] = clip, True
        frames = side.frames(total)
        out["hidden_frames"] = np.zeros((len(own), frames), bool)
        out["hidden_frames"][0, 2:4] = True
        return out

    clips = [rng.normal(size=n).astype(np.float32) for n in lengths]

    def hear(variables, rows):
        given = side.arguments(rows)
        mask = given.pop("audio_mask")
        return side.module.apply(variables, given.pop("audio"), mask, **given)

    def first(rows):
        given = side.arguments(rows)
        return side.module.init(jax.random.key(0), given["audio"], given["audio_mask"])

    variables = jax.jit(first)(batch(clips, 6_400))
    together, aux = jax.jit(hear)(variables, batch(clips, 6_400))
    for i, clip in enumerate(clips):
        rows = batch([clip], len(clip))
        rows["hidden_frames"][0] = i == 0
        rows["hidden_frames"][0, 4:] = rows["hidden_frames"][0, :2] = False
        alone, own = jax.jit(hear)(variables, rows)
        n = int(aux["mask"][i].sum())
        assert n == int(own["mask"].sum()) >= 2
        np.testing.assert_allclose(together[i, :n], alone[0, :n], atol=2e-4)
        assert not np.asarray(together[i, n:]).any()


def test_killed_and_resumed_equals_uninterrupted(things, bert, tmp_path):
    kinds = {"trimodal__modalities": ("image", "audio"), "text__encoder": "", "report__enabled": False}
    c = settings(things, bert, **kinds)
    whole = trainer.Experiment(c, tmp_path / "whole").train()

    def stop(step, scalars):
        raise KeyboardInterrupt

    c = settings(things, bert, train__eval_every_epochs=1.0, **kinds)
    with pytest.raises(KeyboardInterrupt):
        trainer.Experiment(c, tmp_path / "parts").train(on_scores=stop)
    parts = trainer.Experiment(c, tmp_path / "parts").train()
    a, b = (fusionjax.load(tmp_path / name).variables for name in ("whole", "parts"))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert whole["test/nll"] == parts["test/nll"]


@pytest.mark.parametrize(
    "fields",
    [
        {"trimodal__modalities": ("audio",), "model__trunk": "", "model__freeze_trunk": False,
         "model__trunk_norm": False, "data__cache__enabled": False, "data__cache__passes": 3},
        {"trimodal__modalities": ("image", "text"), "text__freeze": False},
        {"task": "audiovisual", "trimodal__modalities": ("image", "audio"), "text__encoder": "",
         "text__allow_empty": False, "text__max_tokens": 64, "data__cache__enabled": False,
         "data__cache__passes": 3, "model__freeze_trunk": False},
        {"trimodal__pairings": ()},
    ],
)  # fmt: skip
def test_every_option_gives_a_finite_loss_and_gradient(things, bert, fields):
    run = trainer.Experiment(settings(things, bert, **fields), "/nonexistent")
    task = run.task
    variables = run.initial_variables()
    batch = batch_of(task, variables, run.source)
    loss = functools.partial(task.objective, groups=1)
    still = [name for name in ("trunk", "text") if f"^{name}/" in task.model.frozen]
    (value, (metrics, new)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        variables, batch, jax.random.key(1)
    )
    assert np.isfinite(value) and metrics["accuracy"].count == 6
    assert set(new) == set(variables) - {"params"}
    for path, leaf in jax.tree.leaves_with_path(gradient["params"]):
        assert np.isfinite(leaf).all(), path
        if path[0].key in still:
            assert not np.asarray(leaf).any(), path
    out = jax.eval_shape(task.scorer.predict, variables, batch)
    assert set(out) == {f"probabilities/{b}" for b in task.scorer.branches}


def test_weight_decay_leaves_the_frozen_convolutions_of_wav2vec2_as_they_are(things, bert, monkeypatch):
    from fusionjax.models.backbones import audio as audio_models

    small = dict(width=16, depth=1, heads=2, hidden=16, conv_width=8, pos_kernel=6, pos_groups=4)
    monkeypatch.setitem(audio_models.CONFIGS, "wav2vec2_base", small)
    sizes = dict(audio__width=128, audio__depth=2, audio__heads=4)  # of mel alone
    decay = dict(optim__weight_decay=0.5, optim__decay_all=True)
    c = settings(things, bert, audio__encoder="wav2vec2_base", **sizes, **decay)
    model = tasks.create(c, Facts(tuple(CLASSES))).model
    params = jax.jit(model.init)(jax.random.key(0))["params"]
    optimizer = optim.create(
        c.optim,
        params,
        steps=9,
        steps_per_epoch=3,
        frozen=model.frozen,
        parameters=parameters.of(model.module),
    )
    trained, frozen = optimizer.split(params)
    own = {name for name in frozen if name.startswith("audio/")}
    assert own == {*(f"audio/conv_{i}" for i in range(7)), "audio/conv_norm/scale", "audio/conv_norm/bias"}
    updates, _ = optimizer.tx.update(
        jax.tree.map(jnp.zeros_like, trained), optimizer.tx.init(trained), trained
    )
    assert np.asarray(updates["audio/feature_proj/kernel"]).any() and not own & set(updates)


def test_an_image_may_be_missing(bert, tmp_path):
    manifest = modality_tree.write(tmp_path, per_class=6, images_missing=True)
    c = settings(manifest, bert, data__carry=("has_image",), train__steps=3, report__examples=1)
    run = trainer.Experiment(c, tmp_path / "run")
    assert 0 <= run.train()["test/accuracy"] <= 1
    source, task = run.source, run.task
    assert [bool(v) for v in source.columns["has_image"]] == [True, False, True, True] * 3
    variables = run.initial_variables()
    rows = batch_of(task, variables, source)
    np.testing.assert_array_equal(rows["image_present"], [1, 0, 1, 1, 1, 0])
    predict = jax.jit(task.scorer.predict)
    want = predict(variables, rows)["probabilities/combined"]
    other = rows | {"image": np.where(rows["image_present"][:, None, None, None], rows["image"], 77)}
    np.testing.assert_array_equal(predict(variables, other)["probabilities/combined"], want)
    assert (
        predict(variables, rows | {"image": rows["image"][::-1].copy()})["probabilities/combined"] != want
    ).any()


def test_a_split_for_evaluation_may_lack_every_sound_and_caption(things, bert, tmp_path):
    lines = things.read_text().splitlines()
    mute = [
        line if line.split(",")[2] != "test" else ",".join([*line.split(",")[:3], "", ""]) for line in lines
    ]
    manifest = things.with_name("mute.csv")
    manifest.write_text("\n".join(mute) + "\n")
    run = trainer.Experiment(settings(manifest, bert, train__steps=3), tmp_path / "run")
    summary = run.train()
    assert summary["test/accuracy"] == summary["test/accuracy_image"] == summary["test/accuracy_image_text"]
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "no example of test has a sound" in page and "12 of 12 captions have no word in them" in page


def test_mistakes_are_one_line(things, bert, tmp_path):
    for fields, words in (
        ({"trimodal__modalities": ("image", "smell")}, "modalities contains 'smell', which is not one of"),
        (
            {"trimodal__pairings": ("image_from_smell",)},
            "pairings contains 'image_from_smell', which is not one of",
        ),
        ({"trimodal__modalities": ("audio", "text")}, "trimodal.modalities has no image"),
        (
            {"model__trunk": "", "data__cache__enabled": False, "data__cache__passes": 3},
            "name the image encoder",
        ),
        ({"model__name": "vit_shallow"}, "the task trimodal builds 'trimodal'"),
        ({"model__depth": 3}, "config.model.depth=3"),
        ({"audio__seconds": 0.02}, "a clip must be longer than a frame"),
        ({"audio__encoder": "mp3"}, "config.audio.encoder='mp3'"),
        ({"audio__source": "w.pth"}, "there are no weights of mel"),
        ({"task": "audiovisual"}, "the task audiovisual reads image and audio"),
        ({"text__encoder": ""}, "config.text.encoder"),
        ({"data__max_bad_fraction": 0.01}, "1 of 23 audio files are unreadable"),
        ({"text__allow_empty": False}, "has no word in it"),
    ):
        with pytest.raises(UserError, match=words) as e:
            trainer.Experiment(
                settings(things, bert, report__enabled=False, **fields), tmp_path / "x"
            ).train()
        assert "\n" not in str(e.value)
    silent = tmp_path / "silent.csv"
    silent.write_text(things.read_text().replace(",audio", ",sound"))
    for image in things.parent.glob("*.png"):
        (tmp_path / image.name).write_bytes(image.read_bytes())
    with pytest.raises(UserError, match="has no column audio"):
        trainer.Experiment(settings(silent, bert), tmp_path / "y")
