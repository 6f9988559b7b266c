"""Which examples are drawn, what is written, and what is refused."""

import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fusionjax.errors import UserError
from fusionjax.experiment import results, visualization
from tests.support import nasty, untrained

OUTCOMES = {
    "name": [f"{c}{i}.png" for c in nasty.CLASSES for i in (13,)],
    "split": "test", "read": ["test"], "label": [0, 1, 2], "prediction": [0, 1, 0],
    "correct": np.uint8([1, 1, 0]), "probability": np.float32([0.5, 0.9, 0.1]),
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A DCAL with fresh weights, and results that say which of its three test images it got right."""
    folder = tmp_path_factory.mktemp("data")
    made = untrained.run(nasty.configs(folder)["classification"])
    made.folder = tmp_path_factory.mktemp("runs") / "dcal"
    made.folder.mkdir()
    results.write(made.folder, {"seconds": 1.0, "test/accuracy": 2 / 3}, OUTCOMES)
    return made


def chosen(run, *args, **numbers):
    split, rows = visualization.choose(run, *args, **numbers)
    return [str(run.source(split).names[i]) for i in rows]


def test_right_and_wrong_predictions_are_those_of_the_results(run):
    assert chosen(run, right=1) == ["green13.png"] and chosen(run, wrong=4) == ["red13.png"]
    assert chosen(run, right=2, wrong=1) == ["green13.png", "blue13.png", "red13.png"]
    assert chosen(run, "test", limit=2) == ["blue13.png", "green13.png"]
    two = chosen(run, "train", random=2, seed=3)
    assert len(set(two)) == 2 and two == chosen(run, "train", random=2, seed=3)
    with pytest.raises(UserError, match="which predictions of split 'val' are right is not known"):
        visualization.choose(run, "val", wrong=1)


def test_of_an_image_with_several_questions_the_wrong_one_is_drawn(run, monkeypatch, tmp_path):
    """Its name occurs once a question; of re-identification the first hit counts, not the average precision."""
    monkeypatch.setattr(run, "folder", tmp_path)
    names = ["a.png", "b.png", "a.png", "a.png"]
    monkeypatch.setattr(run, "source", lambda split: SimpleNamespace(names=names))
    kept = {"name": names, "split": "test", "read": ["test"]}
    results.write(tmp_path, {"test/accuracy": 0.75}, {**kept, "correct": np.uint8([1, 1, 0, 1])})
    assert visualization.choose(run, wrong=4)[1].tolist() == [2]
    values = {"average_precision": np.float32([0.2, 0.2, 0.2, 1]), "rank1": np.uint8([1, 1, 0, 1])}
    results.write(tmp_path, {"test/mAP": 0.4, "test/rank1": 0.75}, {**kept, **values})
    assert visualization.choose(run, wrong=4)[1].tolist() == [2]


def test_numbers_above_the_limit_are_said(run, caplog):
    assert len(visualization.choose(run, right=2, wrong=1, limit=2)[1]) == 2
    assert "3 examples are as asked and the first 2 are drawn: raise --limit for more" in caplog.text


def test_a_query_has_the_name_of_its_own_identity(tmp_path):
    """Labels of query and gallery are not the classes that were trained."""
    reid = untrained.run(nasty.configs(tmp_path)["reid"])
    found = visualization.Visualizer(reid).rows("query", np.array([1]))
    assert reid.source("query").class_names == ("10", "11", "12")
    assert found.pictures[0].caption.endswith(" · 11")


def test_figures_and_their_numbers_are_written(run, tmp_path):
    made = visualization.write(
        [run, run], ["", "glca+pca"], tmp_path, limit=2, split="test", formats=["png", "svg"]
    )
    assert sorted(path.name for path in made) == [
        "glca+pca.npz", "glca+pca.png", "glca+pca.svg", "paper.npz", "paper.png", "paper.svg",
    ]  # fmt: skip
    with Image.open(tmp_path / "paper.png") as picture:
        assert picture.width == 2100
    svg = (tmp_path / "glca+pca.svg").read_text()
    assert "blue13.png" in svg and "GLCA − SA" in svg and "blue" in svg
    with np.load(tmp_path / "glca+pca.npz") as numbers:
        assert numbers["rollout_sa"].shape == (4, 4, 4) and numbers["selected_glca"].shape == (4, 4)
        np.testing.assert_array_equal(numbers["rollout_sa"][0], numbers["rollout_sa"][1])
        assert numbers["seen"].shape == (4, 4) and numbers["pca_sa"].shape == (4, 4, 4, 3)


def test_a_figure_of_a_users_image_is_on_its_own_pixels(run, tmp_path):
    """A wide photograph through resize and centre crop: what the network did not see is faded."""
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 60, 3), np.uint8)).save(
        tmp_path / "wide.png"
    )
    made = run.explain(tmp_path / "wide.png", target="red")
    (picture,) = made.pictures
    assert picture.original.shape[1] == 2 * picture.original.shape[0] and picture.cropped
    assert picture.placement.columns.seen == pytest.approx((0.25 * 300, 0.75 * 300), abs=3)
    assert picture.caption.startswith("wide.png · predicted: ")
    again = made.save(tmp_path / "made.pdf", "relevance", width=3)
    assert [path.name for path in again] == ["made.pdf", "made.npz"]
    assert b"/MediaBox [ 0 0 216 " in again[0].read_bytes() and zipfile.is_zipfile(again[1])
    assert "data:image/png;base64," in made._repr_html_() and "relevance" in made._repr_html_()


def test_mistakes_are_one_line(run, tmp_path):
    with pytest.raises(
        UserError, match="the run has no figure of kind 'words': dcal has rollout, glca, layers"
    ):
        visualization.write([run], ["words"], tmp_path, split="test")
    with pytest.raises(
        UserError, match="kind 'heads' is a figure of its own: beside each other stand rollout, glca"
    ):
        visualization.write([run], ["rollout+heads"], tmp_path, split="test")
    with pytest.raises(UserError, match="there is no figure of kind 'rolout'"):
        visualization.write([run], ["rolout"], tmp_path, split="test")
    with pytest.raises(UserError, match="'jpg' is no format of a figure: choose of png, pdf, svg"):
        visualization.write([run], [""], tmp_path, split="test", formats=["jpg"])
    with pytest.raises(UserError, match=r"dcal has no class 'rod' \(did you mean 'red'\?\)"):
        run.explain(run.source("test").load(0), target="rod")
    with pytest.raises(
        UserError, match="--class is the class of the gradients: it goes with --kind=relevance"
    ):
        visualization.write([run], ["", "layers"], tmp_path, split="test", target="red")
    with pytest.raises(UserError, match="reads no text of an image"):
        run.explain(run.source("test").load(0), texts=["a"])
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="broken.png cannot be read"):
        run.explain(tmp_path / "broken.png")
    with pytest.raises(UserError, match="ends in none of png, pdf, svg"):
        run.explain(run.source("test").load(0)).save(tmp_path / "figure.jpg")
    assert not list(tmp_path.glob("*.npz"))
