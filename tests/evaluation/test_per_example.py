"""outcomes.npz: what is written is read, damage is named, and the means are the scores."""

import numpy as np
import pytest

from fusionjax.data.source import FileSource
from fusionjax.errors import UserError
from fusionjax.evaluation import per_example, reid, significance
from fusionjax.tasks.reid.scorer import ReidScorer, Result


def stored(folder, names, correct):
    """The file of a run of classification."""
    arrays = {"name": names, "split": np.array("test"), "read": np.array(["test"]), "correct": correct}
    return per_example.write(folder, arrays)


@pytest.mark.parametrize("damage", ["cut", "text", "pickle", "range", "short", "names", "other"])
def test_damaged_results_are_named(tmp_path, damage):
    correct = (np.arange(300) % 5 > 0).astype(np.uint8)
    path = stored(tmp_path, [f"{i}.png" for i in range(300)], correct)
    assert per_example.read(tmp_path, {"test/accuracy": 0.8}).read == ("test",)
    with np.load(path) as file:
        arrays = {k: file[k] for k in file.files}
    changed = {
        "pickle": {"correct": np.array([object()] * 300)},
        "range": {"correct": arrays["correct"] * 2},
        "short": {"correct": arrays["correct"][:-1]},
        "names": {"name_ends": arrays["name_ends"] + 1},
        "other": {"correct": np.zeros(300, np.uint8)},
    }
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "text":
        path.write_text("hello")
    else:
        np.savez(path, **arrays | changed[damage])
    message = "do not belong together" if damage == "other" else "is damaged"
    with pytest.raises(UserError, match=message) as e:
        per_example.read(tmp_path, {"test/accuracy": 0.8})
    assert "\n" not in str(e.value)


def test_names_survive_whatever_they_are(tmp_path):
    names = ["a", "", "ü/日本.png", "\udcff\udcfe", "x" * 3000, "a", "line\nbreak\0"]
    stored(tmp_path, names, np.ones(7, np.uint8))
    found = per_example.read(tmp_path, {"test/accuracy": 1.0})
    assert list(found.names) == names
    with pytest.raises(ValueError, match="objects"):
        per_example.write(tmp_path, {"name": names, "correct": np.array([None] * 7)})
    with pytest.raises(ValueError, match="a value for each"):
        per_example.write(tmp_path, {"name": names, "correct": np.ones(6)})
    assert list(per_example.read(tmp_path, {"test/accuracy": 1.0}).names) == names, "the file is as it was"


@pytest.mark.parametrize("ap", ["step", "trapezoid"])
def test_results_of_queries_are_the_scores(tmp_path, ap):
    """With queries that have no match, and junk; the rows in the order of the data set, whatever that of the features."""
    rng = np.random.default_rng(0)
    features, ids = rng.standard_normal((60, 8)).astype(np.float32), rng.integers(-1, 12, 60)
    cameras, rows = rng.integers(0, 2, 60), rng.permutation(60)
    ids[ids == 11] = 100 + np.arange((ids == 11).sum())  # one image each
    ranking = reid.rank(features, ids, cameras, features, ids, cameras, same_set=True, ap=ap)
    result = Result(ranking, {}, "test_all", "test_all", rows, rows)
    source = FileSource("ids", "test_all", (), ids, [f"{i:02d}" for i in range(60)], tmp_path)
    made = ReidScorer.per_example(None, {"val": None, "test": result}, {}, {"test_all": source})
    per_example.write(tmp_path, made)
    found = per_example.read(tmp_path, {f"test/{k}": v for k, v in ranking.scalars().items()})
    counted = (ranking.matches > 0) if ap == "step" else ids != -1
    assert list(found.names) == sorted(f"{r:02d}" for r in rows[counted]) and 0 < len(found.names) < 60
    assert found.split == "test" and found.read == ("test_all",)
    values = {"mAP": found.values["average_precision"], "rank1": found.values["rank1"]}
    assert result.intervals() == {name: significance.mean_interval(v) for name, v in values.items()}
    scalars = ReidScorer.scalars(None, {"test": result})
    assert (
        scalars["test/mAP_low"] < scalars["test/mAP"] == ranking.scalars()["mAP"] < scalars["test/mAP_high"]
    )
    one = int(np.flatnonzero(counted)[3])
    at = found.names.index(f"{rows[one]:02d}")
    want = np.nan_to_num(ranking.average_precision[one])
    assert found.values["average_precision"][at] == want and found.values["rank1"][at] == (
        ranking.first[one] == 1
    )
