"""The attention of a run of every family, by one call."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fusionjax.errors import UserError
from fusionjax.experiment import explain
from fusionjax.experiment.explain import Explainer
from fusionjax.experiment.visualization import Visualizer
from fusionjax.interpret import image_maps
from fusionjax.interpret.charts import Chart
from tests.support import nasty, untrained

STREAMS = {
    "classification": {"sa", "glca", "pwca"},
    "crossvit": {"stage_0/branch_0", "stage_0/branch_1", "stage_0/fusion_0", "stage_0/fusion_1"},
    "reid": {"sa", "glca", "pwca"},
    "spectral": {"rgb/sa", "uv/sa"},
    "fusion": {"fusion/image_to_text", "fusion/text_to_image", "trunk/sa"},
    "vqa": {"fusion/image_to_text", "fusion/text_to_image", "trunk/sa"},
    "trimodal": {
        "audio/sa", "trunk/sa", "fusion/image_from_audio", "fusion/audio_from_image", "fusion/text_from_image",
    },
}  # fmt: skip


PATCHES, SCORED = {"rollout", "layers", "heads", "pca"}, {"gradient_attention", "relevance"}
KINDS = {
    "classification": {*PATCHES, *SCORED, "glca", "partner"},
    "crossvit": {*PATCHES, *SCORED, "scales"},
    "reid": {*PATCHES, *SCORED, "glca", "partner"},
    "spectral": {*PATCHES, *SCORED},
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
    """(family, options) → its explainer and three examples of the last split, in batches of two."""
    known = {}

    def made(family):
        if family not in known:
            run = untrained.run(configs[family])
            explainer, size = Explainer(run, batch=2), run.config.model.width
            widths = {"reid": 2 * size, "spectral": run.config.spectral.projection[-1]}
            target = np.ones((2, widths[family])) if family in widths else None
            options = {
                "target": target,
                "branch": "rgb" if family == "spectral" else "",
                "pairs": family in ("classification", "reid"),
            }
            split = run.config.data.eval_splits[-1]
            known[family] = explainer, explainer.rows(split, [1, 0], **options)
        return known[family]

    return made


@pytest.mark.parametrize("family", STREAMS)
def test_every_family_is_captured(explained, family):
    _, found = explained(family)
    maps = found.captured.maps
    assert set(maps) == STREAMS[family]
    assert len(found.captured) == len(found.names) == len(found.images) == 2
    for name, x in maps.items():
        assert x.shape[1] == 2 and x.shape == found.captured.gradients[name].shape, name
        stream = found.captured.streams[name]
        for axis, count in zip((stream.queries, stream.keys), x.shape[3:], strict=True):
            if axis.kind == "image":
                assert count == axis.grid[0] * axis.grid[1] + axis.prefix
        sums = x.sum(-1)
        assert np.all(np.isclose(sums, 1, atol=1e-4) | (sums == 0)), name
    if family == "spectral":
        assert found.captured.gradients["rgb/sa"].any() and not found.captured.gradients["uv/sa"].any()
    elif family != "reid":
        explained_streams = [g for name, g in found.captured.gradients.items() if name != "pwca"]
        assert all(g.any() for g in explained_streams)
        np.testing.assert_allclose(found.probabilities.sum(-1), 1, rtol=1e-5)
    if family in ("fusion", "vqa", "trimodal"):
        assert found.words[0][0] == "[CLS]" and len(found.words[0]) == found.captured.masks["text"][0].sum()
    assert (found.sounds[0] is not None) == (family == "trimodal")
    assert (found.labels >= 0).all()
    for method in image_maps.available(found.captured):
        over = image_maps.image_map(found.captured, method)
        assert over.ndim == 3 and len(over) == 2 and np.isfinite(over).all() and (over >= 0).all(), method


@pytest.mark.parametrize("family", STREAMS)
def test_every_kind_of_figure_is_drawn(explained, family):
    explainer, found = explained(family)
    visualizer = Visualizer(explainer.run)
    made = visualizer.explanation(found, list(found.images))
    assert set(made.kinds) == KINDS[family]
    for kind in ("", *made.kinds):
        for row in made.rows(kind):
            picture = row.picture.at_most(32)
            for panel in row.panels:
                if isinstance(panel, Chart):
                    panel.draw(Figure().subplots())
                else:
                    assert np.ptp(panel.drawn(picture)) > 0 and panel.drawn(picture).shape == (32, 32, 3)
        numbers = made.data(kind)
        assert numbers["image"].tolist() == found.names
        values = [v for k, v in numbers.items() if k not in ("image", "caption", "size", "seen")]
        assert values and all(np.isfinite(v).all() and v.any() for v in values), kind
    FigureCanvasAgg(made.figure(made.kinds[-1])).draw()


def test_rows_and_images_of_a_user_are_explained_alike(explained, configs):
    explainer, found = explained("classification")
    source = explainer.run.source("test")
    again = explainer.images([source.load(1), source.load(0)], pairs=True)
    np.testing.assert_array_equal(again.images, found.images)
    np.testing.assert_allclose(again.captured.maps["sa"], found.captured.maps["sa"], atol=1e-6)
    predicted = explainer.run.predict([source.load(1), source.load(0)])
    np.testing.assert_allclose(
        found.probabilities.max(-1), [p.probabilities[0] for p in predicted], rtol=1e-4
    )


def test_the_last_image_has_a_partner_too(explained, monkeypatch):
    """Three images in batches of two, then in parts of two: none is its own partner, whose share would be 0.5."""
    explainer, _ = explained("classification")
    for size in (2, 4):
        monkeypatch.setattr(explainer, "batch", size)
        monkeypatch.setattr(explain, "MEMORY", 1)
        monkeypatch.setattr(explainer, "_fitting", {})
        found = explainer.rows("test", [0, 1, 2], pairs=True, gradients=False).captured
        assert found.maps["pwca"].shape[1] == 3 == len(found)
        own, partner = np.split(found.maps["pwca"], 2, -1)
        assert (np.abs(own - partner).max((0, 2, 3, 4)) > 1e-4).all()
    with pytest.raises(UserError, match="PWCA attends to a partner, another image: name two at least"):
        explainer.rows("test", [0], pairs=True)


def test_what_does_not_fit_is_computed_in_parts(explained, monkeypatch):
    explainer, found = explained("crossvit")
    both = (*found.captured.maps.values(), *found.captured.gradients.values())
    monkeypatch.setattr(explain, "MEMORY", sum(x.nbytes for x in both))  # of two examples
    monkeypatch.setattr(explainer, "batch", 4)
    monkeypatch.setattr(explainer, "_fitting", {})
    parts = explainer.rows("test", [1, 0, 1])
    assert list(explainer._fitting.values()) == [2] and len(parts.captured) == 3
    for name, x in found.captured.gradients.items():
        np.testing.assert_allclose(parts.captured.gradients[name], x[:, [0, 1, 0]], atol=1e-6)


def test_a_target_is_a_class_of_the_run(explained):
    explainer, _ = explained("classification")
    for target in (3, "labels", np.array([0, 7]), np.array([0, 1, 2])):
        with pytest.raises(UserError, match="target"):
            explainer.rows("test", [0, 1], target=target, pairs=True)


def test_an_image_that_cannot_be_read_is_named(explained, tmp_path):
    explainer, _ = explained("classification")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="name an image"):
        explainer.images([])
    with pytest.raises(UserError, match="broken.png cannot be read"):
        explainer.images(tmp_path / "broken.png")
