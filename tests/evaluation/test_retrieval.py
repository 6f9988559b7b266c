"""Recall and nearest neighbours against their definitions written out row by row, and against scikit-learn."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from fusionjax.errors import UserError
from fusionjax.evaluation import knn, retrieval, similarity


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)


def scores(query, gallery, metric):
    query, gallery = query.astype(np.float64), gallery.astype(np.float64)
    if metric == "euclidean":
        return -np.square(query[:, None] - gallery).sum(-1)
    return unit(query) @ unit(gallery).T


def first_rank(row, right):
    order = sorted(range(len(row)), key=lambda j: (-row[j], j))
    return next(place for place, j in enumerate(order, 1) if right[j])


@pytest.mark.parametrize("metric", similarity.METRICS)
@pytest.mark.parametrize("center", [False, True])
def test_equals_the_definition(metric, center):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        query, gallery = rng.normal(size=(15, 5)) + 2, rng.normal(size=(24, 5)) - 1
        ids = np.concatenate([np.arange(9), rng.integers(0, 9, 15)])
        rng.shuffle(ids)
        query_ids = rng.integers(0, 9, 15)
        a, b = (unit(query), unit(gallery)) if center and metric == "cosine" else (query, gallery)
        a, b = (a - a.mean(0), b - b.mean(0)) if center else (a, b)
        table = scores(a, b, metric)
        want = [first_rank(row, ids == q) for row, q in zip(table, query_ids, strict=True)]
        keywords = {"query_ids": query_ids, "gallery_ids": ids, "metric": metric, "center": center}
        for block in (similarity.BLOCK, 24, 100):
            np.testing.assert_array_equal(
                retrieval.first_ranks(query, gallery, block=block, **keywords), want
            )
        got = retrieval.recall(query, gallery, (1, 3), **keywords)
        assert got == {f"recall@{k}": np.mean(np.array(want) <= k) for k in (1, 3)}


def test_ties_come_in_gallery_order(rng):
    """Integers, whose products are exact: of equals the lower index is first, whichever of them matches."""
    ties = 0
    for _ in range(50):
        query, gallery = (rng.integers(-1, 2, (n, 3)).astype(np.float32) for n in (6, 18))
        ids = np.arange(18) % 6
        table = scores(query, gallery, "euclidean")
        want = [first_rank(row, ids == q) for q, row in enumerate(table)]
        got = retrieval.first_ranks(
            query, gallery, query_ids=np.arange(6), gallery_ids=ids, metric="euclidean"
        )
        np.testing.assert_array_equal(got, want)
        ties += sum(len(np.unique(row)) < len(row) for row in table)
    assert ties > 100


def test_collapsed_encoder_scores_chance():
    ones, ids = np.ones((50, 4)), np.arange(50)
    assert retrieval.recall(ones, ones, query_ids=ids, gallery_ids=ids) == {
        "recall@1": 0.02,
        "recall@5": 0.1,
        "recall@10": 0.2,
    }


def test_both_ways(rng):
    a = rng.normal(size=(30, 4))
    b = a + rng.normal(size=(30, 4))
    got = retrieval.both_ways(a, b, names=("color", "line"))
    assert list(got) == [
        f"recall@{k}/{way}" for way in ("color_to_line", "line_to_color") for k in retrieval.KS
    ]
    ids = np.arange(30)
    there = retrieval.recall(a, b, query_ids=ids, gallery_ids=ids)
    back = retrieval.recall(b, a, query_ids=ids, gallery_ids=ids)
    assert there != back
    assert list(got.values()) == list(there.values()) + list(back.values())
    shared = retrieval.both_ways(a, b, (1,), ids=ids // 2)
    assert shared["recall@1/a_to_b"] >= there["recall@1"]


def test_centring_closes_the_gap_between_modalities(rng):
    """Each side in a cone of its own: what tells rows apart is found after the cones' axes are taken away."""
    a = unit(rng.normal(size=(200, 16)))
    b = unit(a + 0.2 * rng.normal(size=a.shape))
    gap = np.zeros((2, 16))
    gap[0, 0] = gap[1, 1] = 3
    plain, centered = (
        retrieval.both_ways(a + gap[0], b + gap[1], (1,), center=center)["recall@1/a_to_b"]
        for center in (False, True)
    )
    assert centered > plain + 0.05 and centered > 0.8


@pytest.mark.usefixtures("unchecked")
def test_mistakes_are_one_line(rng):
    x, ids = rng.normal(size=(4, 3)), np.arange(4)
    good = {"query_ids": ids, "gallery_ids": ids}
    bad = x.copy()
    bad[2, 1] = np.nan
    for call, message in (
        (lambda: retrieval.recall(x, x, (0, 1), **good), "ks=\\(0, 1\\) of recall must be 1 or more"),
        (lambda: retrieval.recall(x, x, query_ids=ids + 2, gallery_ids=ids), "2 of 4 queries .* id 4"),
        (lambda: retrieval.recall(x, x, metric="l1", **good), "'l1' is unknown"),
        (lambda: retrieval.recall(x, bad, **good), "row 2 of the gallery features"),
        (lambda: retrieval.recall(x[:0], x, query_ids=ids[:0], gallery_ids=ids), "the query set is empty"),
        (lambda: knn.accuracy(x, ids, x, ids, k=5), "k=5 must be 1 … 4"),
        (lambda: knn.accuracy(x, ids, x, ids, k=1, temperature=0), "temperature=0 must be above 0"),
        (lambda: knn.accuracy(x, ids, x[:0], ids[:0], k=1), "no test row"),
        (lambda: knn.accuracy(x, ids, bad, ids, k=1), "row 2 of the test features"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="gallery: features"):
        retrieval.recall(x, x, query_ids=ids, gallery_ids=ids[:3])
    with pytest.raises(ValueError, match="do not agree"):
        knn.accuracy(x, ids, x, ids[:3], k=1)


def classes(rng, n, spread=1.2):
    labels = rng.integers(0, 5, n) * 3 + 2  # not 0 … C − 1
    centres = np.random.default_rng(7).normal(size=(20, 6))
    return centres[labels] + spread * rng.normal(size=(n, 6)), labels


def test_knn_equals_the_definition(rng):
    (x, y), (x_test, y_test) = classes(rng, 80), classes(rng, 40)
    table = unit(x_test) @ unit(x).T
    for k, temperature in ((1, 0.07), (9, 0.07), (80, 0.5), (80, 1e-3), (7, None)):
        want = []
        for row in table:
            votes = dict.fromkeys(sorted(set(y)), 0.0)
            for j in sorted(range(len(row)), key=lambda j: (-row[j], j))[:k]:
                votes[y[j]] += 1.0 if temperature is None else np.exp((row[j] - 1) / temperature)
            want.append(max(votes, key=votes.get))
        np.testing.assert_array_equal(knn.predict(x, y, x_test, k, temperature), want)
        np.testing.assert_array_equal(knn.predict(x, y, x_test, k, temperature, block=100), want)
        assert knn.accuracy(x, y, x_test, y_test, k, temperature) == np.mean(np.array(want) == y_test)


def test_plain_knn_equals_scikit_learn(rng):
    (x, y), (x_test, y_test) = classes(rng, 80), classes(rng, 40)
    for k in (1, 4, 15):
        model = KNeighborsClassifier(k, metric="cosine").fit(x, y)
        np.testing.assert_array_equal(knn.predict(x, y, x_test, k, None), model.predict(x_test))
        assert 0.3 < knn.accuracy(x, y, x_test, y_test, k, None) < 1


def test_knn_ties():
    """Equal rows: the lower index is nearer; equal votes: the lower label."""
    x, one = np.ones((6, 2)), np.ones((1, 2))
    assert knn.predict(x, np.array([4, 4, 1, 1, 1, 1]), one, 3)[0] == 4
    assert knn.predict(x, np.array([4, 4, 1, 1, 0, 0]), one, 4, None)[0] == 1
