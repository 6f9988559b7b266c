"""Figures of a run of every family, from fresh weights: what is drawn does not depend on training."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from fusionjax.errors import UserError
from fusionjax.experiment import visualization
from fusionjax.experiment.visualization import Visualizer
from fusionjax.interpret import geometry
from tests.support import nasty, untrained

PATCHES = ("rollout", "layers", "heads", "pca")
SCORED = ("gradient", "relevance")
KINDS = {
    "classification": {*PATCHES, *SCORED, "glca", "partner"},
    "crossvit": {*PATCHES, *SCORED, "scales"},
    "reid": {*PATCHES, "glca", "partner"},
    "spectral": {*PATCHES},
    "mvpdr": {*PATCHES, *SCORED},
    "fusion": {*PATCHES, *SCORED, "words"},
    "vqa": {*PATCHES, *SCORED, "words"},
    "trimodal": {*PATCHES, *SCORED, "words", "sound"},
}


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    return nasty.configs(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def explained(configs):
    """Family → its run, and the explanation of two examples."""
    known = {}

    def explain(family):
        if family not in known:
            run = untrained.run(configs[family])
            made = Visualizer(run, visualization.kinds(run)).rows(
                run.config.data.eval_splits[-1], np.array([1, 0])
            )
            known[family] = run, made
        return known[family]

    return explain


@pytest.mark.parametrize("family", KINDS)
def test_every_kind_of_every_family_is_drawn(explained, family):
    run, made = explained(family)
    assert set(made.kinds) == KINDS[family]
    for kind in ("", *made.kinds):
        figure = made.figure(kind, width=7.0)
        FigureCanvasAgg(figure).draw()
        images = [axes.images[0].get_array() for axes in figure.axes if axes.images and not axes.lines]
        assert len(images) >= 2 and figure.get_size_inches()[0] == 7
        found = made.data(kind)
        maps = {k: v for k, v in found.items() if k not in ("image", "caption", "size", "seen")}
        assert maps and all(np.isfinite(v).all() for v in maps.values()), kind
        assert found["image"].tolist() == [picture.name for picture in made.pictures]
        if kind in ("rollout", "layers", "heads"):
            assert all((v >= 0).all() and v.sum() > 0 for v in maps.values())
