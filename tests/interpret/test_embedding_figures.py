"""Figures of two modalities' embeddings: what they show, and that they are drawn from a seed."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from fusionjax.errors import UserError
from fusionjax.interpret import embedding_figures, figures

HOSTILE = "$\\frac{1}{0}$ <script> 日本\n\x07 " + "x" * 60
NAMES = ("color", "line")


def embeddings(n=24, classes=3, width=8, seed=0, gap=0.0):
    """Two modalities that agree about well separated classes."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    shared = 6 * np.eye(max(classes, width))[labels][:, :width] + rng.normal(size=(n, width))
    first, second = (shared + 0.1 * rng.normal(size=shared.shape) for _ in range(2))
    return first, second + gap, labels


def scattered(figure):
    """Positions and colours of both modalities' points."""
    first, second = figure.axes[0].collections
    colours = [list(map(to_hex, c)) for c in (first.get_facecolors(), second.get_edgecolors())]
    return first.get_offsets(), second.get_offsets(), colours


@pytest.fixture
def flat(monkeypatch):
    """The first two dimensions in place of UMAP, which is slow to compile."""
    calls = []

    def coordinates(first, second, *, seed=0):
        calls.append((len(first), seed))
        return first[:, :2], second[:, :2]

    monkeypatch.setattr(embedding_figures, "joint_coordinates", coordinates)
    return calls


def test_joint_coordinates_are_of_one_map_and_seeded():
    first, second, labels = embeddings()
    a, b = embedding_figures.joint_coordinates(first, 7 * second, seed=3)  # length says nothing
    assert a.shape == b.shape == (24, 2) and a.dtype == np.float32
    again = embedding_figures.joint_coordinates(first, second, seed=3)
    np.testing.assert_array_equal(np.stack([a, b]), np.stack(again))
    assert not np.array_equal(a, embedding_figures.joint_coordinates(first, second, seed=4)[0])
    # In one map a point's nearest of the other modality is of its own class.
    nearest = np.linalg.norm(a[:, None] - b, axis=-1).argmin(1)
    assert (labels[nearest] == labels).all()
    assert np.isfinite(embedding_figures.joint_coordinates(first[:3], second[:3])).all()


def test_map_shows_class_modality_and_pairs(flat):
    first, second, labels = embeddings(n=30, classes=4)
    figure = embedding_figures.joint_map(first, second, labels, [*"abcd"], names=NAMES, lines=10, seed=5)
    assert flat == [(30, 5)]
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second)]
    at, also, colours = scattered(figure)
    for points, unit, paint in zip((at, also), units, colours, strict=True):
        row = [int(np.abs(unit[:, :2] - p).sum(1).argmin()) for p in points]
        assert sorted(row) == list(range(30))
        assert paint == [figures.PALETTE[labels[i]].lower() for i in row]
    joined = figure.axes[0].lines
    assert len(joined) == 10
    for line in joined:
        x, y = line.get_data()
        i = int(np.abs(units[0][:, :2] - (x[0], y[0])).sum(1).argmin())
        np.testing.assert_allclose((x[1], y[1]), units[1][i, :2])
    texts = [t.get_text() for t in figure.legends[0].get_texts()]
    assert texts == ["color", "line", "", *"abcd"]
    assert figure.axes[0].get_xlabel().startswith("30 pairs; lines join 10 of them")


def test_map_of_many_classes_and_pairs(flat):
    n = embedding_figures.MOST_MAPPED + 100
    first, second, _ = embeddings(n=n)
    labels = np.repeat(np.arange(21), 100)[:n]
    labels[labels == 7] = 8  # class 8 is the largest, 7 has no example
    figure = embedding_figures.joint_map(first, second, labels, [f"c{i}" for i in range(21)], names=NAMES)
    at, _, colours = scattered(figure)
    assert len(at) == embedding_figures.MOST_MAPPED
    texts = [t.get_text() for t in figure.legends[0].get_texts()]
    assert len(texts) == 3 + 9 + 1 and "c8" in texts and "c7" not in texts and texts[-1] == "11 other classes"
    assert set(colours[0]) == {c.lower() for c in (*embedding_figures.MUTED, "#bbbbbb")}
    assert figure.axes[0].get_xlabel().startswith("2,000 of 2,100 pairs; lines join 60 of them")


def test_map_of_one_class_has_no_class_legend(flat):
    first, second, _ = embeddings(n=6)
    figure = embedding_figures.joint_map(first, second, np.zeros(6, int), ["unlabelled"], names=NAMES)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["color", "line"]
    assert "lines join all" in figure.axes[0].get_xlabel()


def test_similarity_map_is_sorted_by_class():
    first, second, labels = embeddings(n=24)
    figure = embedding_figures.similarity_map(first, second, labels, ["ash", "beech", "oak"], names=NAMES)
    axes, bar = figure.axes
    shown = np.asarray(axes.images[0].get_array())
    order = np.argsort(labels, kind="stable")
    expected = np.asarray(
        [
            [first[i] @ second[j] / np.linalg.norm(first[i]) / np.linalg.norm(second[j]) for j in order]
            for i in order
        ]
    )
    np.testing.assert_allclose(shown, expected, atol=1e-12)
    assert [t.get_text() for t in axes.get_yticklabels()] == ["ash", "beech", "oak"]
    assert axes.get_yticks().tolist() == [3.5, 11.5, 19.5]
    assert bar.get_ylabel() == "cosine similarity"
    same = labels[order][:, None] == labels[order]
    pair = np.eye(24, dtype=bool)
    means = [expected[where].mean() for where in (pair, same & ~pair, ~same)]
    title = axes.get_title(loc="left").splitlines()[1]
    assert title == "mean: a pair {:.2f}, others of its class {:.2f}, other classes {:.2f}".format(
        *means
    ).replace("-", "−")


def test_similarity_map_of_many(rng):
    n = embedding_figures.MOST_COMPARED + 50
    first, second, _ = embeddings(n=n)
    labels = rng.integers(0, 40, n)
    figure = embedding_figures.similarity_map(
        first, second, labels, [f"c{i}" for i in range(40)], names=NAMES
    )
    assert np.asarray(figure.axes[0].images[0].get_array()).shape == (400, 400)
    assert figure.axes[0].get_xlabel() == "line: 400 of 450 examples, sorted by class"


def test_any_name_can_be_drawn(tmp_path, flat):
    first, second, labels = embeddings(n=12)
    names, classes = (HOSTILE, HOSTILE), [HOSTILE, "日本", "$x$"]
    drawn = {
        "map": embedding_figures.joint_map(first, second, labels, classes, names=names, title=HOSTILE),
        "similarity": embedding_figures.similarity_map(
            first, second, labels, classes, names=names, title=HOSTILE
        ),
        "equal": embedding_figures.similarity_map(first * 0, second * 0, labels, classes, names=names),
    }
    for name, figure in drawn.items():
        with Image.open(figures.save(figure, tmp_path / f"{name}.png", dpi=60)) as picture:
            assert np.asarray(picture.convert("L")).std() > 1


def test_mistakes(monkeypatch):
    first, second, labels = embeddings(n=6)
    classes = [*"abc"]
    for figure in (embedding_figures.joint_map, embedding_figures.similarity_map):
        with pytest.raises(ValueError, match="are not two"):
            figure(first, second[:, :3], labels, classes, names=NAMES)
        with pytest.raises(ValueError, match="not one for each of 6"):
            figure(first, second, labels[:5], classes, names=NAMES)
        with pytest.raises(ValueError, match="do not fit 2 class names"):
            figure(first, second, labels, classes[:2], names=NAMES)
        broken = second.copy()
        broken[4, 1] = np.nan
        with pytest.raises(UserError, match="row 4 of the second modality's embeddings is not finite"):
            figure(first, broken, labels, classes, names=NAMES)
    with pytest.raises(UserError, match="a joint map of 2 pairs: it needs at least 3"):
        embedding_figures.joint_coordinates(first[:2], second[:2])
    with pytest.raises(UserError, match="nothing to show"):
        embedding_figures.similarity_map(first[:0], second[:0], labels[:0], classes, names=NAMES)


def test_without_umap_it_is_said_in_one_line(monkeypatch):
    first, second, labels = embeddings(n=6)
    monkeypatch.setattr(embedding_figures.importlib.util, "find_spec", lambda name: None)
    for call in (
        embedding_figures.check_umap,
        lambda: embedding_figures.joint_map(first, second, labels, [*"abc"], names=NAMES),
    ):
        with pytest.raises(UserError, match=r'umap-learn: pip install "fusionjax\[spectral\]"$') as e:
            call()
        assert "\n" not in str(e.value)
