"""Re-ID evaluation against scikit-learn, pytrec_eval and the protocol written out entry by entry."""

import tracemalloc

import numpy as np
import pytest
import pytrec_eval
from sklearn.metrics import average_precision_score

from fusionjax.errors import UserError
from fusionjax.evaluation import reid

CASES = 200


def case(seed, d=4):
    """Small integers as features: junk, distractors, ties, identities of one image, queries without a match. Distances between
    them are exact in float32, so that ties are ties for every way of computing them."""
    rng = np.random.default_rng(seed)

    def one(n, junk):
        ids = rng.integers(1 if not junk else 0, 7, n)
        ids[rng.random(n) < 0.15] = rng.integers(100, 140)
        ids[rng.permutation(np.arange(1, n))[:junk]] = -1
        return rng.integers(-2, 3, (n, d)).astype(np.float32), ids, rng.integers(0, 3, n)

    query, gallery = one(6, 0), one((12, 36)[seed % 2], 3)  # few shapes, few compilations
    query[1][0], gallery[1][0] = 3, 3  # at least one query has a match
    query[2][0], gallery[2][0] = 0, 1
    return query, gallery


def similarities(query, gallery, metric):
    a, b = query.astype(np.float64), gallery.astype(np.float64)
    if metric == "euclidean":
        return -np.square(a[:, None] - b).sum(-1)
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30) for x in (a, b))
    return a @ b.T


def lists(query, gallery, scores):
    """Of every query: the gallery's order without removed entries, and which entries match."""
    for row, identity, camera in zip(scores, query[1], query[2], strict=True):
        out = [
            (-s, j)
            for j, s in enumerate(row)
            if gallery[1][j] != -1 and not (gallery[1][j] == identity and gallery[2][j] == camera)
        ]
        order = [j for _, j in sorted(out)]
        yield order, np.array([gallery[1][j] == identity for j in order], bool)


def walk(right):
    """The authors' definition, entry by entry: the area under precision and recall, by trapezoids."""
    area, old_recall, old_precision, found = 0.0, 0.0, 1.0, 0
    for position, good in enumerate(right, 1):
        found += good
        recall, precision = found / right.sum(), found / position
        area += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
    return area


@pytest.mark.parametrize("metric", reid.similarity.METRICS)
def test_equals_independent_oracles(metric):
    junk = distractors = ties = lost = single = 0
    for seed in range(CASES):
        query, gallery = case(seed)
        if (
            metric == "cosine"
        ):  # here float32 and float64 disagree about ties of integers; real features have few
            gallery = (gallery[0] + np.random.default_rng(seed).normal(size=gallery[0].shape), *gallery[1:])
        scores = similarities(query[0], gallery[0], metric)
        got = reid.rank(*query, *gallery, metric=metric)
        step, trapezoid, inp, first, judged, run = [], [], [], [], {}, {}
        for i, (order, right) in enumerate(lists(query, gallery, scores)):
            values = -np.arange(len(order), dtype=float)  # scores that hold our order among equals
            np.testing.assert_array_equal(got.index[i][: len(order)], order[:10])
            np.testing.assert_array_equal(got.right[i][: len(order)], right[:10])
            ties += len(np.unique(scores[i][order])) < len(order)
            if not right.any():
                lost += 1
                trapezoid.append(0.0)
                assert np.isnan(got.average_precision[i]) and got.first[i] == 0 and got.matches[i] == 0
                continue
            places = np.flatnonzero(right) + 1
            step.append(average_precision_score(right, values))
            trapezoid.append(walk(right))
            inp.append(len(places) / places[-1])
            first.append(places[0])
            judged[str(i)] = {str(j): int(r) for j, r in zip(order, right, strict=True)}
            run[str(i)] = {str(j): float(v) for j, v in zip(order, values, strict=True)}
            np.testing.assert_allclose(got.average_precision[i], step[-1], atol=1e-9)
        trec = pytrec_eval.RelevanceEvaluator(judged, {"map", "success"}).evaluate(run)
        want = {
            "mAP": np.mean(step),
            "mINP": np.mean(inp),
            **{f"rank{k}": np.mean(np.array(first) <= k) for k in (1, 5, 10)},
        }
        result = reid.evaluate(*query, *gallery, metric=metric)
        assert result == got.scalars() and list(result) == ["mAP", "mINP", "rank1", "rank5", "rank10"]
        for name, value in want.items():
            assert abs(result[name] - value) < 1e-6
        for name, key in (
            ("map", "mAP"),
            ("success_1", "rank1"),
            ("success_5", "rank5"),
            ("success_10", "rank10"),
        ):
            assert abs(np.mean([x[name] for x in trec.values()]) - result[key]) < 1e-6
        old = reid.evaluate(*query, *gallery, metric=metric, ap="trapezoid")
        assert abs(old["mAP"] - np.mean(trapezoid)) < 1e-6
        assert abs(old["rank1"] - want["rank1"] * len(step) / len(query[1])) < 1e-6
        junk, distractors = junk + (gallery[1] == -1).sum(), distractors + (gallery[1] == 0).sum()
        single += (np.unique(gallery[1], return_counts=True)[1] == 1).sum()
    assert min(junk, distractors, lost, single) > CASES / 2  # the cases hold what they are for
    assert metric == "cosine" or ties > CASES


def test_scikit_learn_agrees_where_no_match_is_tied(rng):
    """scikit-learn takes equal scores as one group; with no match among them, the raw similarities must do."""
    gallery = np.array([[1, 0], [2, 0], [2, 0], [3, 0], [4, 0], [4, 0]], np.float32)
    ids = np.array([1, 2, 3, 1, 4, 5])
    want = average_precision_score(ids == 1, -np.square(gallery[:, 0]))
    got = reid.evaluate(np.zeros((1, 2)), [1], None, gallery, ids, None, metric="euclidean")
    assert abs(got["mAP"] - want) < 1e-12 and abs(want - (1 + 2 / 4) / 2) < 1e-12


@pytest.mark.parametrize("metric", reid.similarity.METRICS)
@pytest.mark.parametrize("width", [5, 129, 768])
def test_equal_features_are_ranked_by_gallery_index(rng, metric, width):
    """Copies of one picture, among others and spread over the blocks of a matrix product."""
    gallery = rng.normal(size=(301, width))
    copies = np.sort(rng.permutation(301)[:40])
    gallery[copies] = gallery[0] + 0.1
    ids = np.arange(1, 302)
    ids[copies[7]], ids[copies[21]] = 500, 500
    query = gallery[copies[:1]] * 1.001
    got = reid.rank(query, [500], None, gallery, ids, None, metric=metric, top=40)
    np.testing.assert_array_equal(got.index[0], copies)
    assert got.first[0] == 8 and got.average_precision[0] == (1 / 8 + 2 / 22) / 2
    assert len(set(got.score[0])) == 1


@pytest.mark.parametrize("rerank", [None, {"k1": 4, "k2": 2}])
def test_nothing_depends_on_the_blocks(rng, rerank):
    query, gallery = case(3)
    query = (rng.normal(size=query[0].shape), *query[1:])
    gallery = (rng.normal(size=gallery[0].shape), *gallery[1:])
    whole = reid.rank(*query, *gallery, rerank=rerank)
    small = reid.rank(*query, *gallery, rerank=rerank, block=1)
    for name in ("matches", "first", "average_precision", "inverse_negative_penalty", "index", "right"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(small, name))
    np.testing.assert_allclose(whole.score, small.score, atol=1e-6)


def test_order_of_queries_and_gallery_does_not_matter(rng):
    query, gallery = case(5)
    gallery = (rng.normal(size=gallery[0].shape), *gallery[1:])
    want = reid.evaluate(*query, *gallery)
    p, q = rng.permutation(len(gallery[1])), rng.permutation(len(query[1]))
    got = reid.evaluate(*(x[q] for x in query), *(x[p] for x in gallery))
    assert got == pytest.approx(want, abs=1e-12)


def test_junk_is_as_if_absent_and_identity_0_is_not(rng):
    query, gallery = case(7)
    features = rng.normal(size=gallery[0].shape)
    keep = gallery[1] != -1
    assert not keep.all()
    want = reid.evaluate(*query, features[keep], gallery[1][keep], gallery[2][keep])
    assert reid.evaluate(*query, features, *gallery[1:]) == want
    more = [np.concatenate([a, b]) for a, b in zip(query, ([[1, 2, 3, 4]], [-1], [0]), strict=True)]
    got = reid.rank(*more, features, *gallery[1:], ap="trapezoid")
    assert got.scalars() == reid.evaluate(*query, features, *gallery[1:], ap="trapezoid")
    assert got.junk[-1] and (got.index[-1] == -1).all() and not got.right[-1].any()
    near = np.array([[1.0, 0], [1, 0.1], [0, 1]])
    assert reid.evaluate(near[:1], [5], [0], near, [5, 0, 5], [0, 1, 1])["mAP"] == 0.5
    assert reid.evaluate(near[:1], [5], [0], near, [5, -1, 5], [0, 1, 1])["mAP"] == 1.0


def test_same_set_leaves_out_the_image_itself(rng):
    features, ids = rng.normal(size=(20, 6)), np.arange(20) // 4
    got = reid.rank(features, ids, None, features, ids, None, same_set=True, top=19)
    assert (got.matches == 3).all() and not (got.index == np.arange(20)[:, None]).any()
    cameras = np.arange(20)  # the same said with cameras: every image its own
    assert reid.evaluate(features, ids, cameras, features, ids, cameras) == got.scalars()
    with_self = reid.rank(features, ids, None, features, ids, None)
    assert (with_self.matches == 4).all() and with_self.scalars()["rank1"] == 1
    ids[3] = -1
    got = reid.rank(features, ids, None, features, ids, None, same_set=True, top=19)
    assert (
        got.matches[0] == 2 and not (got.index == 3).any() and not (got.index == np.arange(20)[:, None]).any()
    )


def test_scores_are_what_they_are_called(rng):
    query, gallery = rng.normal(size=(1, 5)), rng.normal(size=(4, 5)) + 1000  # far from the origin
    got = reid.rank(query, [1], None, gallery, np.ones(4, int), None, metric="euclidean", top=3)
    distances = np.linalg.norm(query - gallery, axis=1)
    np.testing.assert_allclose(-got.score[0], np.sort(distances)[:3], rtol=1e-6)
    got = reid.rank(query + 1000, [1], None, gallery, np.ones(4, int), None, metric="euclidean", top=4)
    distances = np.linalg.norm(query + 1000 - gallery, axis=1)
    np.testing.assert_allclose(-got.score[0], np.sort(distances), rtol=1e-4)
    got = reid.rank(3 * query, [1], None, gallery, np.ones(4, int), None, top=9)
    cosine = similarities(query, gallery, "cosine")[0]
    np.testing.assert_allclose(got.score[0], np.sort(cosine)[::-1], atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_float_and_features_of_zero(dtype):
    features = np.array([[1, 0], [0, 0], [0.5, 0.1]], dtype)
    got = reid.rank(features[:1], [1], None, features, [1, 2, 1], None)
    np.testing.assert_array_equal(got.index[0], [0, 2, 1])
    assert got.score[0, 2] == 0


def test_protocol_is_named():
    query, gallery = case(11)
    text = reid.rank(*query, *gallery, metric="euclidean", ap="trapezoid", rerank={"k1": 5}).protocol
    assert text.startswith("Euclidean distance, k-reciprocal re-ranking (k1 5, k2 6, λ 0.3); AP: trapezoid")
    assert f"of {len(query[1])} queries have no match and are counted as 0" in text
    text = reid.rank(*query, *gallery).protocol
    assert text.startswith("cosine similarity; AP: step definition") and text.endswith("skipped")


@pytest.mark.usefixtures("unchecked")
def test_mistakes_are_one_line(rng):
    f, ids = rng.normal(size=(3, 2)), np.array([1, 2, 1])
    ok = (f, ids, None, f, ids, None)

    def message(error, *arguments, **options):
        with pytest.raises(error) as caught:
            reid.evaluate(*arguments, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "'cosin' is unknown; use cosine or euclidean" in message(UserError, *ok, metric="cosin")
    assert "use step or trapezoid" in message(UserError, *ok, ap="11-point")
    assert "only one" in message(UserError, f, ids, ids, f, ids, None)
    assert "no query has a match" in message(UserError, f, ids, ids, f, ids, ids)
    assert "no query has a match" in message(UserError, f, ids, None, f, ids + 7, None, ap="trapezoid")
    assert "gallery set is empty" in message(UserError, f, ids, None, f, ids * 0 - 1, None)
    assert "query set is empty" in message(UserError, f[:0], ids[:0], None, f, ids, None)
    for other in ((f, ids + 1, None), (f + 1, ids, None)):
        assert "give the same features and ids" in message(UserError, f, ids, None, *other, same_set=True)
    assert "no parameter 'k'" in message(UserError, *ok, rerank={"k": 3})
    bad = f.copy()
    bad[2, 0] = np.nan
    assert "row 2 of the gallery features" in message(
        UserError, f, ids, None, bad, np.array([-1, 2, 1]), None
    )
    assert "not (N, D)" in message(ValueError, f, ids[:2], None, f, ids, None)
    assert "cameras" in message(ValueError, f, ids, ids[:2], f, ids, ids)
    assert "not integers" in message(ValueError, f, ids + 0.5, None, f, ids, None)
    assert "not (n, 2)" in message(ValueError, f, ids, None, f[:, :1], ids, None)


def test_memory_does_not_grow_with_queries_times_gallery(rng):
    """Host memory (NumPy's, which holds blocks and rows) with four times the queries: only the lists grow."""
    gallery, ids = rng.normal(size=(4000, 4)).astype(np.float32), rng.integers(1, 50, 4000)

    def peak(n):
        features, own = np.repeat(gallery[:500], n // 500, 0), np.repeat(ids[:500], n // 500)
        tracemalloc.start()
        reid.evaluate(features, own, None, gallery, ids, None)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(500)
    few, many = peak(500), peak(2000)
    assert many - few < 1500 * 200  # 24 MB if the similarities of 1,500 more queries were held
