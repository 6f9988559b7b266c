"""Retrieval: how often what belongs to a query is among the first k of the gallery.

An entry belongs to a query where their ids are equal; of several, the first counts. Entries of equal similarity come in the
order of their gallery index, so a collapsed encoder scores chance and not 1.
"""

from collections.abc import Sequence

import jax
import numpy as np

from fusionjax.errors import UserError
from fusionjax.evaluation import similarity

KS = (1, 5, 10)


def recall(
    query: np.ndarray,
    gallery: np.ndarray,
    ks: Sequence[int] = KS,
    *,
    query_ids: np.ndarray,
    gallery_ids: np.ndarray,
    metric: str = "cosine",
    center: bool = False,
    block: int = similarity.BLOCK,
) -> dict[str, float]:
    """Share of the queries whose first match is at rank k or before it.

    Args:
        query: (Q, D) float.
        gallery: (G, D) float.
        ks: at least 1 each; one above G gives 1.
        query_ids, gallery_ids, metric, center, block: as for `first_ranks`.

    Returns:
        {"recall@k": fraction}.

    Raises:
        UserError: a k below 1; as `first_ranks`.
        ValueError: as `first_ranks`.

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
    a: np.ndarray,
    b: np.ndarray,
    ks: Sequence[int] = KS,
    *,
    ids: np.ndarray | None = None,
    names: tuple[str, str] = ("a", "b"),
    metric: str = "cosine",
    center: bool = False,
) -> dict[str, float]:
    """Recall from each of two modalities to the other; row i of both is one example.

    Args:
        a, b: (N, D) float.
        ks: as for `recall`.
        ids: (N,), where rows may belong together; None where each row is alone.
        names: of the modalities.
        metric, center: as for `recall`.

    Returns:
        {"recall@1/a_to_b": fraction, …, "recall@1/b_to_a": …}, with the names in place of a and b.

    Raises:
        UserError, ValueError: as for `recall`.
    """
    ids = np.arange(len(a)) if ids is None else ids
    result = {}
    for (query, source), (gallery, target) in (
        ((a, names[0]), (b, names[1])),
        ((b, names[1]), (a, names[0])),
    ):
        found = recall(query, gallery, ks, query_ids=ids, gallery_ids=ids, metric=metric, center=center)
        result |= {f"{key}/{source}_to_{target}": value for key, value in found.items()}
    return result


def first_ranks(
    query: np.ndarray,
    gallery: np.ndarray,
    *,
    query_ids: np.ndarray,
    gallery_ids: np.ndarray,
    metric: str = "cosine",
    center: bool = False,
    block: int = similarity.BLOCK,
) -> np.ndarray:
    """Rank of each query's first match.

    Args:
        query: (Q, D) float.
        gallery: (G, D) float.
        query_ids: (Q,).
        gallery_ids: (G,).
        metric: "cosine" or "euclidean".
        center: the mean of each set is subtracted from it (for "cosine" after its rows are made unit), which closes the gap
            between two modalities' embeddings. It uses all rows: a query's rank then depends on the other queries.
        block: similarities that are held at a time.

    Returns:
        (Q,) int64, from 1.

    Raises:
        UserError: an unknown metric; features that are not finite; an empty set; a query without a match.
        ValueError: shapes that do not agree.
    """
    query, query_ids = _set("query", query, query_ids)
    gallery, gallery_ids = _set("gallery", gallery, gallery_ids)
    lost = ~np.isin(query_ids, gallery_ids)
    if lost.any():
        raise UserError(
            f"{lost.sum()} of {len(lost)} queries have no entry of their id in the gallery, the first with id "
            f"{query_ids[lost][0]}: leave them out"
        )
    if center:
        query, gallery = _centered("query", query, metric), _centered("gallery", gallery, metric)
    features = similarity.prepare([("query", query, None), ("gallery", gallery, None)], metric)
    on_device = jax.device_put(features[len(query) :])
    first = np.empty(len(query), np.int64)
    places = np.arange(len(gallery))
    for start, rows in similarity.rows(features[: len(query)], on_device, metric, block=block):
        match = query_ids[start : start + len(rows), None] == gallery_ids
        best = np.where(match, rows, -np.inf).max(axis=1, keepdims=True)
        equal = rows == best
        place = (equal & match).argmax(axis=1, keepdims=True)  # the first of the best
        first[start : start + len(rows)] = 1 + ((rows > best) | (equal & (places < place))).sum(axis=1)
    return first


def _set(name: str, features: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features, ids = np.asarray(features), np.asarray(ids)
    if features.ndim != 2 or ids.shape != features.shape[:1]:
        raise ValueError(f"{name}: features {features.shape} and ids {ids.shape} are not (N, D) and (N,)")
    if not len(ids):
        raise UserError(f"the {name} set is empty: there is nothing to retrieve")
    return features, ids


def _centered(name: str, features: np.ndarray, metric: str) -> np.ndarray:
    features = similarity.prepare([(name, features, None)], metric)
    features -= features.mean(axis=0, dtype=np.float64).astype(np.float32)
    return features
