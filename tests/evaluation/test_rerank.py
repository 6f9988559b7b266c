"""Re-ranking against the paper's equations, dense and query by query."""

import numpy as np
import pytest

from fusionjax.errors import UserError
from fusionjax.evaluation import reid, rerank, similarity
from fusionjax.evaluation.rerank import Rerank


def dense(features, n_queries, first, options):
    """Zhong et al., CVPR 2017, section 3, in float64 with sets and a full (N, N) distance: (n_queries, N − first)."""
    n, half = len(features), int(np.around(options.k1 / 2))
    distance = np.square(features[:, None] - features).sum(-1)
    distance = distance / distance.max(axis=1, keepdims=True)
    order = np.stack([np.lexsort((np.arange(n), row, np.arange(n) != i)) for i, row in enumerate(distance)])

    def reciprocal(i, k):  # equation 3; the image itself comes on top of its k neighbours
        return {j for j in order[i, : k + 1] if i in order[j, : k + 1]}

    encoded = np.zeros((n, n))
    for i in range(n):
        core = reciprocal(i, options.k1)
        expanded = set(core)
        for j in core:  # equation 5
            candidate = reciprocal(j, half)
            if 3 * len(candidate & core) > 2 * len(candidate):
                expanded |= candidate
        members = sorted(expanded)
        encoded[i, members] = np.exp(-distance[i, members])  # equation 7
        encoded[i] /= encoded[i].sum()
    encoded = np.stack([encoded[order[i, : options.k2]].mean(axis=0) for i in range(n)])  # equation 11
    shared = np.minimum(encoded[:n_queries, None], encoded[None, first:]).sum(-1)
    jaccard = 1 - shared / np.maximum(encoded[:n_queries, None], encoded[None, first:]).sum(-1)  # equation 10
    return (1 - options.lambda_value) * jaccard + options.lambda_value * distance[:n_queries, first:]


def clusters(seed, n_queries=14, n_gallery=40, width=8, spread=0.7):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(9, width))
    ids = rng.integers(0, 9, n_queries + n_gallery)
    features = centres[ids] + spread * rng.normal(size=(len(ids), width))
    return features, ids, rng.integers(0, 3, len(ids))


def prepared(features, metric):
    return similarity.prepare([("all", features, None)], metric)


def all_rows(*arguments, **options):
    return -np.concatenate([block for _, block in rerank.rows(*arguments, **options)])


@pytest.mark.parametrize("metric", similarity.METRICS)
@pytest.mark.parametrize(
    "options",
    [Rerank(), Rerank(5, 1, 0.5), Rerank(7, 3, 0.0), Rerank(1, 9, 0.9), Rerank(200, 100, 0.3)],
    ids=str,
)
def test_equals_the_dense_equations(metric, options):
    for seed in range(2):
        features, _, _ = clusters(seed)
        features = prepared(features, metric)
        want = dense(features.astype(np.float64), 14, 14, options)
        np.testing.assert_allclose(all_rows(features, 14, options), want, atol=1e-5)
        np.testing.assert_allclose(all_rows(features, 14, options, block=300), want, atol=1e-5)


def test_copies_come_in_order_and_an_image_is_its_own_first_neighbour():
    """More copies of a picture than neighbours are sought; distances of integers are exact."""
    rng = np.random.default_rng(0)
    features = rng.integers(-8, 9, (40, 5)).astype(np.float32)
    features[::3] = features[0]
    features = prepared(features, "euclidean")
    for options in (Rerank(3, 2, 0.3), Rerank(6, 1, 0.3)):
        want = dense(features.astype(np.float64), 12, 12, options)
        np.testing.assert_allclose(all_rows(features, 12, options), want, atol=1e-5)


def test_one_set_is_seen_once():
    features, ids, _ = clusters(3)
    unit = prepared(features, "cosine")
    options = Rerank(6, 3, 0.3)
    want = dense(unit.astype(np.float64), len(unit), 0, options)
    off = ~np.eye(len(unit), dtype=bool)  # an image's distance to itself plays no part
    np.testing.assert_allclose(all_rows(unit, None, options)[off], want[off], atol=1e-5)
    got = reid.rank(features, ids, None, features, ids, None, rerank=options, same_set=True, top=5)
    want = want + 9 * ~off
    np.testing.assert_array_equal(got.index, np.argsort(want, axis=1, kind="stable")[:, :5])


def test_evaluation_uses_it():
    features, ids, cameras = clusters(4)
    q, g = slice(0, 14), slice(14, None)
    options = Rerank(8, 3, 0.3)
    got = reid.rank(
        features[q], ids[q], cameras[q], features[g], ids[g], cameras[g], rerank={"k1": 8, "k2": 3}, top=40
    )
    distances = dense(prepared(features, "cosine").astype(np.float64), 14, 14, options)
    for i in range(14):
        order = [
            j
            for j in np.argsort(distances[i], kind="stable")
            if ids[g][j] != ids[i] or cameras[g][j] != cameras[i]
        ]
        np.testing.assert_array_equal(got.index[i][: len(order)], order)
        assert (got.index[i][len(order) :] == -1).all() and np.isnan(got.score[i][len(order) :]).all()
        np.testing.assert_allclose(-got.score[i][: len(order)], distances[i][order], atol=1e-5)
    assert got.rerank == options


def test_it_helps_where_neighbours_share_neighbours():
    """Elongated clusters: the far end of one is nearer to another cluster, but not by way of neighbours."""
    rng = np.random.default_rng(0)
    along = rng.uniform(0, 6, 120)
    ids = np.arange(120) % 2
    features = np.stack([along, 1.5 * ids + 0.05 * rng.normal(size=120)], 1)
    plain = reid.evaluate(features, ids, None, features, ids, None, metric="euclidean", same_set=True)
    again = reid.evaluate(
        features, ids, None, features, ids, None, metric="euclidean", same_set=True, rerank={}
    )
    assert again["mAP"] > plain["mAP"] + 0.02


def test_images_all_alike_give_numbers():
    features = np.ones((30, 4), np.float32)
    out = all_rows(prepared(features, "cosine"), 5, Rerank())
    assert np.isfinite(out).all() and out.shape == (5, 25) and (out >= 0).all() and (out <= 1).all()


def test_no_array_has_all_pairs():
    """The programs that are compiled for many images hold a block of rows, not a square."""
    shapes = []

    def watch(part, start, features, norms, k):
        shapes.append(part.shape)
        return original(part, start, features, norms, k)

    original, rerank._nearest = rerank._nearest, watch
    try:
        features = prepared(np.random.default_rng(0).normal(size=(600, 4)), "cosine")
        blocks = [block.shape for _, block in rerank.rows(features, 100, Rerank(), block=600 * 16)]
    finally:
        rerank._nearest = original
    assert set(shapes) == {(16, 4)} and max(blocks) == (16, 500) and sum(b[0] for b in blocks) == 100
    compiled = original.lower(features[:16], 0, features, features[:, 0], k=21).compile().memory_analysis()
    assert compiled.temp_size_in_bytes < 600 * 600 * 4


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k1": 0}, "k1=0 must be an integer of at least 1"),
        ({"k2": 2.5}, "k2=2.5 must be an integer"),
        ({"lambda_value": 1.5}, "lambda_value=1.5 must lie between 0 and 1"),
        ({"lambda": 0.3}, "no parameter 'lambda'; it has k1, k2, lambda_value"),
    ],
)
def test_mistakes_are_one_line(options, message):
    with pytest.raises(UserError) as caught:
        rerank.create(options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_options_are_named():
    assert str(Rerank()) == "k-reciprocal re-ranking (k1 20, k2 6, λ 0.3)"
    assert rerank.create(None) is None and rerank.create({}) == Rerank()
