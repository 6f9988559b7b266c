"""Retrieval: how often a match of a query is among the first k entries of the gallery.

A gallery entry matches a query if their ids are equal; if there are several, the first in the ranking counts. Ties are
ordered by gallery index, so that a collapsed encoder scores at chance level and not 1.
"""

from collections.abc import Sequence
from typing import TypeAlias

import jax
import numpy as np
from jaxtyping import Float, Integer, Shaped

from fusionjax.errors import UserError
from fusionjax.evaluation import similarity

KS = (1, 5, 10)
QueryIds: TypeAlias = Shaped[np.ndarray, " queries"] | Sequence[int]
GalleryIds: TypeAlias = Shaped[np.ndarray, " gallery"] | Sequence[int]


def recall(
    query: Float[np.ndarray, "queries width"],
    gallery: Float[np.ndarray, "gallery width"],
    ks: Sequence[int] = KS,
    *,
    query_ids: QueryIds,
    gallery_ids: GalleryIds,
    metric: str = "cosine",
    center: bool = False,
    block: int = similarity.BLOCK,
) -> dict[str, float]:
    """Computes the share of queries whose first match is at rank k or better.

    Args:
        query: (Q, D) float.
        gallery: (G, D) float.
        ks: ranks, at least 1 each; for a rank above G the recall is 1.
        query_ids, gallery_ids, metric, center, block: as for `first_ranks`.

    Returns:
        {"recall@k": fraction}.

    Raises:
        UserError: a k is below 1; or as for `first_ranks`.
        ValueError: as for `first_ranks`.

    >>> unit = np.eye(3)
    >>> recall(unit[:2], unit, (1, 3), query_ids=[7, 9], gallery_ids=[7, 8, 9])
    {'recall@1': 0.5, 'recall@3': 1.0}
    """
    if any(k < 1 for k in ks):
        raise UserError(f"ks={tuple(ks)} of recall must be 1 or more")
    first = first_ranks(
        query,
        gallery,
        query_ids=query_ids,
        gallery_ids=gallery_ids,
        metric=metric,
        center=center,
        block=block,
    )
    return {f"recall@{k}": float(np.mean(first <= k)) for k in ks}


def both_ways(
    a: Float[np.ndarray, "examples width"],
    b: Float[np.ndarray, "examples width"],
    ks: Sequence[int] = KS,
    *,
    ids: Shaped[np.ndarray, " examples"] | None = None,
    names: tuple[str, str] = ("a", "b"),
    metric: str = "cosine",
    center: bool = False,
) -> dict[str, float]:
    """Computes recall in both directions between two modalities; row i of both is the same example.

    Args:
        a, b: (N, D) float.
        ks: as for `recall`.
        ids: (N,), equal for examples that match each other; None if each example matches only itself.
        names: of the modalities.
        metric, center: as for `recall`.

    Returns:
        {"recall@1/a_to_b": fraction, …, "recall@1/b_to_a": …}, with the names in place of a and b.

    Raises:
        UserError, ValueError: as for `recall`.
    """
    own = np.arange(len(a)) if ids is None else ids
    result: dict[str, float] = {}
    for (query, source), (gallery, target) in (
        ((a, names[0]), (b, names[1])),
        ((b, names[1]), (a, names[0])),
    ):
        found = recall(query, gallery, ks, query_ids=own, gallery_ids=own, metric=metric, center=center)
        result |= {f"{key}/{source}_to_{target}": value for key, value in found.items()}
    return result


def first_ranks(
    query: Float[np.ndarray, "queries width"],
    gallery: Float[np.ndarray, "gallery width"],
    *,
    query_ids: QueryIds,
    gallery_ids: GalleryIds,
    metric: str = "cosine",
    center: bool = False,
    block: int = similarity.BLOCK,
) -> Integer[np.ndarray, " queries"]:
    """Computes the rank of each query's first match.

    Args:
        query: (Q, D) float.
        gallery: (G, D) float.
        query_ids: (Q,).
        gallery_ids: (G,).
        metric: "cosine" or "euclidean".
        center: subtract the mean of each set (for "cosine" after normalising its rows to unit length), which closes the gap
            between the embeddings of two modalities. The rank of a query then depends on the other queries.
        block: maximum number of similarities in memory.

    Returns:
        (Q,) int64, from 1.

    Raises:
        UserError: the metric is unknown, features are not finite, a set is empty, or a query has no match.
        ValueError: shapes do not agree.
    """
    queries, own = _set("query", query, query_ids)
    entries, ids = _set("gallery", gallery, gallery_ids)
    lost = ~np.isin(own, ids)
    if lost.any():
        raise UserError(
            f"{lost.sum()} of {len(lost)} queries have no match in the gallery, the first with id {own[lost][0]}: leave them "
            "out"
        )
    if center:
        queries, entries = _centered("query", queries, metric), _centered("gallery", entries, metric)
    features = similarity.prepare([("query", queries, None), ("gallery", entries, None)], metric)
    on_device = jax.device_put(features[len(queries) :])
    first = np.empty(len(queries), np.int64)
    places = np.arange(len(entries))
    for start, rows in similarity.rows(features[: len(queries)], on_device, metric, block=block):
        match = own[start : start + len(rows), None] == ids
        best = np.where(match, rows, -np.inf).max(axis=1, keepdims=True)
        equal = rows == best
        place = (equal & match).argmax(axis=1, keepdims=True)  # the first of the best matches
        first[start : start + len(rows)] = 1 + ((rows > best) | (equal & (places < place))).sum(axis=1)
    return first


def _set(name: str, features: np.ndarray, ids: np.ndarray | Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    rows, own = np.asarray(features), np.asarray(ids)
    if rows.ndim != 2 or own.shape != rows.shape[:1]:
        raise ValueError(f"{name}: features {rows.shape} and ids {own.shape} are not (N, D) and (N,)")
    if not len(own):
        raise UserError(f"the {name} set is empty: there is nothing to retrieve")
    return rows, own


def _centered(name: str, features: np.ndarray, metric: str) -> np.ndarray:
    features = similarity.prepare([(name, features, None)], metric)
    features -= features.mean(axis=0, dtype=np.float64).astype(np.float32)
    return features
