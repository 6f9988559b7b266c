"""What a spectral run says of its splits: names, look-alikes, tables."""

import numpy as np

from fusionjax import config as config_lib
from fusionjax import tasks
from fusionjax.data import datasets
from fusionjax.evaluation import cross_modal
from fusionjax.tasks.base.protocol import Facts
from fusionjax.tasks.contrastive import report
from tests.tasks.contrastive.test_task import config


def test_pairs_are_named_whose_names_have_more_words():
    names = ("near_ir", "far_ir")
    rng = np.random.default_rng(0)
    known = {name: rng.normal(size=(6, 4)).astype(np.float32) for name in names}
    split = cross_modal.Embedded(known, known, np.arange(6), np.zeros(6, int))
    found = cross_modal.evaluate(split, np.arange(6), None, permutations=19)
    tables = {title: rows for title, _, rows in report._tables(names, {"test": found})}
    agree = tables["Do the modalities agree on which images are alike?"]
    assert [row[1] for row in agree] == ["near_ir and far_ir"]
    assert {row[1] for row in tables["Retrieval"]} == {"near_ir → far_ir", "far_ir → near_ir"}


def test_scores_are_named_in_the_order_of_the_modalities(tmp_path):
    """Compiled programs sort what they give back: here "nir" before "vis"."""
    (tmp_path / "data").mkdir()
    rng = np.random.default_rng(0)
    for i in range(20):
        np.save(tmp_path / "data" / f"{i}.npy", rng.uniform(size=(16, 16, 6)).astype(np.float32))
    fields = {"data__modalities": (("vis", (0, 1, 2)), ("nir", (3, 4, 5))), "spectral__colour": ("vis",)}
    fields |= {
        "spectral__intensity": ("nir",),
        "spectral__reference_split": "",
        "data__eval_splits": ("test",),
    }
    c = config_lib.validate(config(tmp_path / "data", **fields))
    task, source = tasks.create(c, Facts(("a",))), datasets.create(c.data, "test", seed=0)
    rows = {
        f"{kind}/{m}": rng.normal(size=(8, 4))
        for kind in ("embedding", "features")
        for m in ("combined", "nir", "vis")
    }
    rows |= {"valid": np.ones(8), "index": np.arange(8), "label": np.zeros(8, int)}
    results = task.scorer.evaluate({"test": rows}, {"test": source})
    assert set(results["test"].scores) == set(task.scorer.score_names)
    assert list(results["test"].mantel) == ["vis_nir"]  # as the training's metrics and the report have it


def test_modalities_that_do_not_train_make_noduplicate_groups(tmp_path):
    """A third modality, the same everywhere, would make every answer right."""
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for i in range(20):
        image = np.dstack([rng.uniform(size=(16, 16, 6)), np.zeros((16, 16, 1))])
        np.save(tmp_path / "data" / f"{i}.npy", image.astype(np.float32))
    fields = {"data__modalities": (("rgb", (0, 1, 2)), ("uv", (3, 4, 5)), ("mask", (6,)))}
    fields |= {
        "spectral__train_on": ("rgb", "uv"),
        "spectral__reference_split": "",
        "data__eval_splits": ("test",),
    }
    c = config(tmp_path / "data", **fields)
    task = tasks.create(config_lib.validate(c), Facts(("a",)))
    source = datasets.create(c.data, "test", seed=0)
    assert task.scorer.duplicate_groups(source).tolist() == list(range(8))
