"""Visual question answering as a whole run, and questions as a source."""

import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fusionjax
from configs import vqa as vqa_config
from fusionjax import config as config_lib
from fusionjax import tasks
from fusionjax.data import datasets
from fusionjax.data.feature_cache import batches, store
from fusionjax.data.loading.stream import TrainStream
from fusionjax.data.vqa import json_files
from fusionjax.data.vqa.questions import Question, QuestionSource
from fusionjax.errors import UserError
from fusionjax.evaluation import vqa
from fusionjax.experiment import trainer
from fusionjax.tasks.base.protocol import Facts
from tests.support import fields as fields_lib
from tests.support import frozen_trunk, pictures, tiny_bert

pytestmark = pytest.mark.usefixtures("libraries_warn")

COLOURS = ("blue", "green", "red")
QUESTIONS = ("what colour is it", "is it red")
WORDS = ["what", "colour", "is", "it", *COLOURS]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert.write(tmp_path_factory.mktemp("bert"), WORDS)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Two questions about each of some coloured pictures; one picture's answers nobody knows. Returns the manifest."""
    root, rng = tmp_path_factory.mktemp("asked"), np.random.default_rng(0)
    lines = ["path,question,answers,question_type,split"]
    for k, name in enumerate(COLOURS):
        for i in range(9):
            cv2.imwrite(str(root / f"{name}{i}.png"), pictures.coloured(rng, k))
            split = "train" if i < 6 else "test"
            for q in QUESTIONS:
                answer = name if q.startswith("what") else "yes" if q.endswith(name) else "no"
                if (name, i) == ("red", 8):
                    answer = "purple"
                given = "|".join([answer] * 9 + ["never"]) if q.startswith("what") else answer
                lines.append(f"{name}{i}.png,{q},{given},{q.split()[0]},{split}")
    (root / "asked.csv").write_text("\n".join(lines) + "\n")
    return root / "asked.csv"


def settings(manifest, bert, **fields):
    c = fields_lib.frozen_encoders("vqa", "fusion", manifest, bert)
    c.data.questions = "columns"
    c.model.width, c.model.depth, c.model.dropout = 32, 1, 0.0
    c.train.batch_size, c.train.steps, c.train.log_every = 24, 120, 60
    c.train.checkpoint_every = 120
    c.evaluation.batch_size = 24
    frozen_trunk.start(c, bert.parent, fields)
    return fields_lib.validated(c, fields)


@pytest.fixture(scope="module")
def trained(asked, bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    # What a random encoder makes of two short questions is nearly the same: it trains.
    c = settings(asked, bert, text__freeze=False, optim__learning_rate=5e-3)
    return folder, trainer.Experiment(c, folder).train()


def test_a_run_answers_by_type_and_reports_it(trained):
    folder, summary = trained
    # "never" is known: of the questions about the odd picture only "is it red" has no answer that training knows.
    assert summary["test/answerable"] == pytest.approx(17 / 18)
    assert summary["test/vqa_accuracy"] > summary["test/prior_vqa_accuracy"] + 0.1
    assert summary["test/vqa_accuracy_what"] <= (8 + 0.3) / 9
    stored = json.loads((folder / "results.json").read_text())
    with np.load(folder / "outcomes.npz", allow_pickle=False) as file:
        assert file["correct"].mean() == pytest.approx(stored["test/accuracy"])
        assert file["soft_accuracy"].mean() == pytest.approx(stored["test/vqa_accuracy"], abs=1e-6)
        assert file["prior_soft_accuracy"].mean() == pytest.approx(
            stored["test/prior_vqa_accuracy"], abs=1e-6
        )
    page = (folder / "report" / "index.html").read_text()
    assert (
        "question prior" in page and "answer: yes/no" in page and "Attention between image and text" in page
    )
    (entry,) = (folder / "features").glob("train-*")
    stored = np.load(entry / "valid.npy")
    assert stored.shape == (2, 18), "features are computed once a picture, not once a question"
    assert "train/vqa_accuracy" in (folder / "metrics.jsonl").read_text()


def test_the_loaded_run_gives_the_same_scores(trained, asked):
    folder, summary = trained
    run = fusionjax.load(folder)
    found = run.task.scorer.scalars(run.evaluate())
    assert found["test/prior_vqa_accuracy"] == summary["test/prior_vqa_accuracy"]
    assert "test/vqa_accuracy_is" in found
    for name, value in found.items():
        assert summary[name] == pytest.approx(value, abs=0.03), name
    answer = run.predict([asked.parent / "blue8.png"], texts=["what colour is it"])[0]
    assert answer.classes[0] == "blue"
    with pytest.raises(UserError, match="is a model without audio input: leave sounds out"):
        run.predict([asked.parent / "blue8.png"], texts=["is it red"], sounds=["a.ogg"])


def test_pictures_become_questions_whose_answers_are_trainings(asked, bert):
    c = settings(asked, bert)
    train, test = (datasets.create(c.data, s, seed=0) for s in ("train", "test"))
    assert isinstance(train, QuestionSource) and len(train) == 36 and len(test) == 18
    assert (
        set(train.class_names) == {"yes", "no", "never", *COLOURS} and test.class_names == train.class_names
    )
    # Nine of ten references agree: full marks; one gives a third.
    row = train.scores[0]
    assert row[train.class_names.index("blue")] == 1
    assert row[train.class_names.index("never")] == pytest.approx(1 / 3)
    unknown = [i for i, q in enumerate(test.questions) if "purple" in q.answers]
    assert len(unknown) == 2
    assert not test.scores[unknown][:, [k for k, a in enumerate(test.class_names) if a != "never"]].any()
    assert vqa.soft_accuracy("blue", train.questions[0].answers) == 1


def batch_of(task, scores, seed=0):
    rng = np.random.default_rng(seed)
    size = len(scores)
    return {
        "features": rng.normal(size=(size, 2, 2, 256)).astype(np.float16),
        "text": rng.normal(size=(size, 16, 16)).astype(np.float16),
        "text_mask": np.ones((size, 16), bool),
        "scores": np.asarray(scores, np.float32),
        "label": np.zeros(size, np.int32),
        "valid": np.ones(size, np.float32),
        "index": np.arange(size, dtype=np.int32),
    }


def _with_loss(task, variables, batch, key):
    loss, (metrics, _) = task.objective(variables, batch, key, groups=1)
    return loss, (loss, metrics)


def test_the_loss_is_that_of_the_soft_scores_and_leaves_unknown_answers_out(asked, bert):
    task = tasks.create(settings(asked, bert), Facts(("yes", "no", "blue")))
    variables = jax.jit(task.model.init)(jax.random.key(0))
    scores = [[1, 0, 0], [0, 1, 1 / 3], [0, 0, 0]]
    batch = batch_of(task, scores)
    key = jax.random.key(1)

    @jax.jit
    def run(text):
        rows = batch | {"text": text}
        gradient, aux = jax.grad(
            lambda x: _with_loss(task, variables, rows | {"text": x}, key), has_aux=True
        )(text)
        arguments = task.inputs.arguments(rows, variables)
        return gradient, aux, task.model.train(variables, key, **arguments)[0][0]

    gradient, (loss, metrics), logits = run(jnp.asarray(batch["text"], jnp.float32))
    log = np.asarray(jax.nn.log_softmax(logits))
    want = -(log[0, 0] + 0.75 * log[1, 1] + 0.25 * log[1, 2]) / 2
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    got = [scores[i][int(logits[i].argmax())] for i in range(3)]
    np.testing.assert_allclose(metrics["vqa_accuracy"].total, sum(got), rtol=1e-6)
    moved = np.abs(gradient).sum((1, 2))
    assert moved[0] > 0 and moved[1] > 0 and moved[2] == 0


def test_features_of_a_picture_are_computed_once(rng):
    maps = rng.normal(size=(2, 3, 1, 1, 4)).astype(np.float16)
    at = np.array([2, 0, 0, 1, 2])
    view = store.IndexedRows(maps, at)
    assert view.shape == (2, 5, 1, 1, 4) and view.ndim == 5 and len(view) == 2
    np.testing.assert_array_equal(view[1, 3], maps[1, 1])
    np.testing.assert_array_equal(view[1][np.arange(5)], maps[1][at])
    np.testing.assert_array_equal(view[0][1:4], maps[0][at[1:4]])
    labels = np.arange(5)
    stream: TrainStream = batches.feature_dataset(view, labels, seed=0, batch_size=5)
    for epoch in range(2):
        batch = next(stream)
        np.testing.assert_array_equal(batch["features"], maps[epoch][at[batch["index"]]])
    stream.close()
    (batch,) = batches.feature_batches(view[0], labels, batch_size=5)
    np.testing.assert_array_equal(batch["features"], maps[0][at])


def test_mistakes_are_one_line(asked, bert, tmp_path):
    for fields, words in (
        ({"task": "fusion"}, "data.questions='columns' is not read by this run: the task 'vqa' reads it"),
        ({"data__questions": ""}, "the task vqa asks questions"),
        ({"data__questions": "captions"}, "no columns category and kind"),
        ({"data__questions": "guesses"}, "config.data.questions='guesses'"),
        (
            {"data__questions": "captions", "data__languages": ("fr", "en")},
            "questions are made from English captions",
        ),
        ({"data__question_types": ("what",)}, "only with data.questions='captions'"),
        ({"data__answer_pictures": 50}, "no answer belongs to 50 images"),
        ({"loss__focal_gamma": 2.0}, "config.loss.focal_gamma=2.0 is not read by this run"),
        ({"train__best_metric": "test/mAP"}, "config.train.best_metric"),
    ):
        with pytest.raises(UserError, match=words) as e:
            trainer.Experiment(settings(asked, bert, **fields), tmp_path)
        assert "\n" not in str(e.value)


HUMANS = ("the red",) * 6 + ("Red!",) * 3 + ("rot",)


def vqa2(root):
    """Three pictures of each split, of which one is asked about twice, in VQA v2's layout; returns the folder."""
    rng = np.random.default_rng(0)
    for split, first in (("train2014", 9), ("val2014", 42)):
        (root / split).mkdir(parents=True)
        asked = [
            Question(10 * i, i, "What colour is it?", HUMANS, "what color", "other")
            for i in range(first, first + 3)
        ]
        asked.append(Question(10 * first + 1, first, "Is it red?", ("yes",) * 10, "is it", "yes/no"))
        for q in asked:
            picture = rng.integers(0, 255, (40, 44, 3), np.uint8)
            cv2.imwrite(str(root / split / json_files.image_name(split, q.image_id)), picture)
        named = f"v2_OpenEnded_mscoco_{split}_questions.json", f"v2_mscoco_{split}_annotations.json"
        json_files.write(asked[::-1], *(root / name for name in named))
    return root


def test_vqa_v2_trains_from_its_own_files(bert, tmp_path):
    root, run = vqa2(tmp_path / "vqa"), tmp_path / "run"
    c = vqa_config.get_config(f"source=vqa2,root={root},answer_pictures=1,runlocal")
    c.text.encoder, c.text.max_tokens = str(bert), 16
    c.model.trunk, c.data.resize, c.data.image_size = "vit_shallow", 36, 32
    c = config_lib.validate(frozen_trunk.start(c, tmp_path, {}))
    train, val = (datasets.create(c.data, split, seed=0) for split in ("train", "val"))
    assert (
        len(train) == len(val) == 4 and len(train.source) == 3 and train.class_names == ("red", "rot", "yes")
    )
    assert train.source.names[0] == "train2014/COCO_train2014_000000000009.jpg"
    # By rising id of the picture, whatever the order of the file; nine say red, one rot, however they are spelt.
    assert [train.names[i].split(": ")[1] for i in (0, 3)] == ["Is it red?", "What colour is it?"]
    np.testing.assert_allclose(train.scores[3], [1, 1 / 3, 0], rtol=1e-6)
    summary = trainer.Experiment(c, run).train()
    asked = {q.question_id: q for q in json_files.read(*sorted(root.glob("*val2014*.json")))}
    given = {
        row["question_id"]: row["answer"] for row in json.loads((run / "answers" / "val.json").read_text())
    }
    assert sorted(given) == sorted(asked) == [420, 421, 430, 440]
    # The references keep what the official code leaves them: "the red" is not what "red" meets, "Red!" neither.
    official = {"red": 0.0, "rot": 0.3, "yes": 0.0}
    want = [official[a] if key % 10 == 0 else float(a == "yes") for key, a in given.items()]
    assert summary["val/vqa_accuracy"] == pytest.approx(np.mean(want))
    exact = [a == ("red" if key % 10 == 0 else "yes") for key, a in given.items()]
    assert summary["val/accuracy"] == pytest.approx(np.mean(exact)) and summary["val/answerable"] == 1


def test_mistakes_in_vqa_v2s_folder_are_one_line(bert, tmp_path):
    root = vqa2(tmp_path / "vqa")
    c = vqa_config.get_config(f"source=vqa2,root={root},answer_pictures=1,runlocal")
    c.text.encoder = str(bert)
    with pytest.raises(UserError, match="answers of split 'test' are not public"):
        datasets.create(c.data, "test", seed=0)
    c.data.check_counts = True
    with pytest.raises(UserError, match="questions of split 'train': expected 443,757, found 4"):
        datasets.create(c.data, "train", seed=0)
    c.data.check_counts = False
    (root / "val2014" / json_files.image_name("val2014", 43)).unlink()
    with pytest.raises(UserError, match=r"COCO_val2014_000000000043\.jpg is missing"):
        datasets.create(c.data, "val", seed=0)
    (root / "v2_mscoco_val2014_annotations.json").unlink()
    with pytest.raises(UserError, match="v2_mscoco_val2014_annotations.json does not exist"):
        datasets.create(c.data, "val", seed=0)
    c.task, c.data.questions = "classification", ""
    with pytest.raises(UserError, match="VQA v2 has questions of its own"):
        config_lib.validate(c)
