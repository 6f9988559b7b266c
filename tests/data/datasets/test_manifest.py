"""A manifest of several modalities: what may be missing, what stays together, questions and answers."""

import csv

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from fusionjax import config
from fusionjax.data import datasets, fingerprint
from fusionjax.data.image.decode import decode
from fusionjax.data.loading import pipeline
from fusionjax.data.source import Source
from fusionjax.errors import UserError
from tests.support import trees
from tests.support.sounds import encoded, sine

ROWS = [
    {"path": f"ash/{i:02d}.jpg" if i % 4 else "", "label": "leaf" if i % 2 else "nut", "split": "train" if i < 8 else "test",
     "caption": f"number {i}" if i % 3 else "", "audio": "a.ogg|b.ogg" if i % 4 == 0 else ("b.ogg" if i == 9 else "")}
    for i in range(12)
]  # fmt: skip


def write(root, rows, suffix=".csv"):
    trees.folder(root, ("ash",), images=12)
    for k, name in enumerate("ab"):
        (root / f"{name}.ogg").write_bytes(encoded(sine(400 + k, 0.1), format="OGG"))
    path = root / f"list{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    with open(path, "w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path


def settings(path, carry=("has_image",)):
    data = config.default().data
    data.source, data.root, data.carry = "manifest", str(path), carry
    data.resize = data.image_size = 16
    return data


def open_split(path, split="train", carry=("has_image",), seed=0):
    return datasets.create(settings(path, carry), split, seed=seed)


def fails(match, path, **how):
    with pytest.raises(UserError, match=match) as e:
        open_split(path, **how)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_row_may_lack_any_modality(tmp_path, suffix):
    rows = ROWS
    if suffix == ".parquet":  # a list, and nothing in place of ""
        rows = [
            {**r, "audio": r["audio"].split("|") if r["audio"] else None, "path": r["path"] or None}
            for r in ROWS
        ]
    path = write(tmp_path, rows, suffix)
    train = open_split(path)
    assert isinstance(train, Source) and train.root == tmp_path and len(train) == 8
    assert train.columns["has_image"].tolist() == [0, 1, 1, 1, 0, 1, 1, 1]
    assert train.columns["audio"].tolist() == ["a.ogg|b.ogg", "", "", ""] * 2
    assert train.columns["caption"][:4].tolist() == ["", "number 1", "number 2", ""]
    assert len(set(train.names)) == 8 and train.names[1] == "ash/01.jpg"
    assert train.names[4] == ("list.csv line 6" if suffix == ".csv" else "list.parquet row 5")
    assert train.file(4) is None and train.file(1) == tmp_path / "ash/01.jpg"
    assert (decode(train.load(4), 100) == 255).all() and decode(train.load(1), 10_000).shape == (40, 48, 3)
    assert [s is None for s in fingerprint.stamps(train)] == [True, False, False, False] * 2


def test_what_is_missing_travels_with_the_batch(tmp_path):
    path = write(tmp_path, ROWS)
    (batch,) = pipeline.eval_batches(open_split(path), settings(path), batch_size=10)
    assert (
        batch["has_image"].tolist() == [0, 1, 1, 1, 0, 1, 1, 1, 0, 0]
        and batch["valid"].tolist() == [1] * 8 + [0] * 2
    )
    assert (batch["image"][0] == 255).all() and not (batch["image"][1] == 255).all()


def test_a_run_that_needs_images_refuses_a_row_without(tmp_path):
    path = write(tmp_path, ROWS)
    fails(
        r"line 2: 'path' is empty \(a run that may lack images has has_image in config\.data\.carry\)",
        path,
        carry=(),
    )
    bare = [{**r, "caption": "", "audio": ""} if i == 4 else r for i, r in enumerate(ROWS)]
    fails("line 6: 'path' is empty, and so are audio and caption", write(tmp_path, bare))
    whole = [{**r, "path": f"ash/{i:02d}.jpg"} for i, r in enumerate(ROWS)]
    assert "has_image" not in open_split(write(tmp_path, whole), carry=()).columns
    assert open_split(write(tmp_path, whole)).columns["has_image"].all()


def test_a_missing_sound_is_named(tmp_path):
    rows = [{**r, "audio": "a.ogg|gone.ogg"} if i == 4 else r for i, r in enumerate(ROWS)]
    fails(r"audio file .*gone\.ogg is missing; it is listed in list\.csv, line 6", write(tmp_path, rows))


def test_rows_with_the_same_image_or_sound_stay_together(tmp_path):
    (tmp_path / "c.ogg").write_bytes(encoded(sine(500, 0.1), format="OGG"))
    rows = [{"path": f"ash/{i // 2:02d}.jpg", "label": "x", "audio": ""} for i in range(12)]
    rows[0]["audio"], rows[11]["audio"] = "a.ogg", "b.ogg|a.ogg"
    rows += [{"path": "", "label": "x", "audio": "c.ogg"}] * 3 + [
        {"path": "ash/09.jpg", "label": "x", "audio": "b.ogg"}
    ]
    path = write(tmp_path, rows)
    together = [{"ash/00.jpg", "ash/05.jpg", "ash/09.jpg"}, {f"list.csv line {i}" for i in (14, 15, 16)}]
    for seed in range(8):
        parts = [set(open_split(path, s, seed=seed).names) for s in ("train", "val", "test")]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 10
        assert all(any(group <= part for part in parts) for group in together)


QUESTIONS = [{"path": f"ash/{i % 3:02d}.jpg", "split": "train", "question": f"what is {i}?", "question_type": "what",
              "answer": ("oak|ash|oak", "elm")[i % 2]} for i in range(6)]  # fmt: skip


def test_a_file_has_one_spelling(tmp_path):
    """Else the same picture would be on both sides of a split."""
    rows = [{"path": f"{'./' * k}ash/{i:02d}.jpg", "label": "leaf", "audio": "./a.ogg | b.ogg" if i == 3 else ""}
            for i in range(12) for k in range(3)]  # fmt: skip
    path = write(tmp_path, rows)
    found = {split: open_split(path, split) for split in ("train", "val", "test")}
    names = {split: set(source.names) for split, source in found.items()}
    assert sum(map(len, names.values())) == len(set().union(*names.values())) == 12
    assert {a for source in found.values() for a in source.columns["audio"]} == {"", "a.ogg|b.ogg"}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_questions_and_answers(tmp_path, suffix):
    rows = QUESTIONS
    if suffix == ".parquet":
        rows = [
            {**{k: v for k, v in r.items() if k != "answer"}, "answers": r["answer"].split("|")} for r in rows
        ]
    source = open_split(write(tmp_path, rows, suffix), carry=())
    assert source.class_names == ("elm", "oak") and source.labels.tolist() == [1, 0] * 3
    assert source.columns["question"][1] == "what is 1?" and source.columns["question_type"][0] == "what"
    assert source.columns["answers"][:2].tolist() == ["oak|ash|oak", "elm"] and "answer" not in source.columns
    labelled = open_split(write(tmp_path, [{**r, "label": "b"} for r in rows[:3]], suffix), carry=())
    assert labelled.class_names == ("b",) and labelled.columns["answers"][1] == "elm"
    assert np.asarray(source.columns["answers"]).dtype == object


def test_questions_without_answers(tmp_path):
    fails(
        "line 4: 'answer' is empty",
        write(tmp_path, [{**r, "answer": ""} if i == 2 else r for i, r in enumerate(QUESTIONS)]),
    )
    fails("line 2: 'question' is empty", write(tmp_path, [{**r, "question": ""} for r in QUESTIONS]))
    bare = [{k: v for k, v in r.items() if k != "answer"} for r in QUESTIONS]
    fails("has a column question and no column answer", write(tmp_path, bare))
    fails(
        "has a column answer and a column answers",
        write(tmp_path, [{**r, "answers": "x"} for r in QUESTIONS]),
    )
    listed = [{**r, "answer": ["a|b"]} for r in QUESTIONS]
    fails(
        r"row 1: 'answer' contains \|, which",
        write(tmp_path, listed, ".parquet"),
    )


def test_a_file_in_two_splits_is_warned_of(tmp_path, caplog):
    rows = [
        {"path": f"ash/{i:02d}.jpg", "label": "leaf", "split": "train" if i < 6 else "test"}
        for i in range(12)
    ]
    path = write(tmp_path / "apart", rows)
    open_split(path, carry=()), open_split(path, "test", carry=())
    assert not caplog.messages
    rows[7]["path"] = rows[2]["path"]
    path = write(tmp_path / "shared", rows)
    open_split(path, carry=()), open_split(path, "test", carry=())
    assert caplog.messages == [
        "list.csv: files are in more than one split (1), first ash/02.jpg in test and train:"
        " evaluation data may have been trained on"
    ]
