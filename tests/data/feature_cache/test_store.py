"""Cached features of a frozen trunk in a whole run."""

import json

import pytest

import fusionjax
from configs import quickstart
from fusionjax.experiment import trainer


@pytest.fixture(autouse=True)
def libraries_warn(recwarn):
    """Orbax and Grain warn about their own internals; ours are errors elsewhere."""


def test_cached_features_give_the_run_that_images_give(tmp_path):
    """The small quick start; its scores again from the images; started again, the cache is used and nothing changes."""
    config = quickstart.get_config("runlocal")
    summary = trainer.Experiment(config, tmp_path).train()
    files = sorted(p.name for p in (tmp_path / "features").iterdir())
    assert len(files) == 6 and not any("part" in name for name in files)
    run = fusionjax.load(tmp_path)
    scores = run.task.scorer.scalars(run.evaluate())
    # The cache holds float16.
    assert summary["test/nll"] == pytest.approx(float(scores["test/nll"]), rel=2e-3)
    assert summary["test/accuracy"] == pytest.approx(float(scores["test/accuracy"]), abs=0.011)
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "features").iterdir()}
    again = trainer.Experiment(quickstart.get_config("runlocal"), tmp_path).train()
    assert again["test/nll"] == summary["test/nll"]
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "features").iterdir()} == stamps
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Logistic regression, frozen features" in page and "most frequent class of this split" in page
    assert json.loads((tmp_path / "config.json").read_text())["images"] == {"train": 1518, "test": 380}
