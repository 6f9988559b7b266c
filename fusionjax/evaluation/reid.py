"""Re-identification: mAP, mINP and ranks of the first match, for any number of queries and gallery entries.

The protocol is that of Market-1501 (Zheng et al., ICCV 2015) as it is commonly followed; see docs/methods/reid.md. Identity −1
is junk and ignored; 0 is an identity like any other, which Market uses for distractors. For a query, gallery entries of its
identity **and** camera are removed; every other entry of its identity is a match (multi-shot). Ties are ordered by gallery
index. `ap` selects the definition of average precision and the treatment of queries without a match:

* "step", as in TransReID, torchreid and fast-reid: the mean over the matches of (matches so far) / rank; a query without a
  match is skipped in every measure.
* "trapezoid", as in the authors' MATLAB code: the precision at a match is the mean of the precision before and after it
  (before the first entry it is 1); a query without a match counts as 0 in every measure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import jax
import numpy as np
from jaxtyping import Float, Integer

from fusionjax.errors import UserError
from fusionjax.evaluation import rerank as rerank_lib
from fusionjax.evaluation import similarity
from fusionjax.evaluation.rerank import Rerank

JUNK = -1
"""Identity of entries that are ignored."""
RANKS = (1, 5, 10)
AVERAGE_PRECISION = ("step", "trapezoid")

QueryFeatures: TypeAlias = Float[np.ndarray, "queries width"]
QueryInts: TypeAlias = Integer[np.ndarray, " queries"] | Sequence[int]
GalleryFeatures: TypeAlias = Float[np.ndarray, "gallery width"]
GalleryInts: TypeAlias = Integer[np.ndarray, " gallery"] | Sequence[int]


@dataclass(frozen=True, eq=False)
class Ranking:
    """Result of `rank` for every query, in the order of the queries.

    Attributes:
        matches: (Q,) int64, number of matches in the gallery.
        first: (Q,) int64, rank of the first match, from 1; 0 if there is none.
        average_precision: (Q,) float64; NaN if there is no match.
        inverse_negative_penalty: (Q,) float64, matches / rank of the last match (Ye et al., TPAMI 2022); NaN if there is none.
        junk: (Q,) bool, queries of identity −1, which no measure counts.
        index: (Q, k) int64, indices into the gallery, nearest first; −1 past the end and for junk.
        score: (Q, k) float32: cosine similarity, negated Euclidean distance, or negated re-ranked distance; NaN where `index`
            is −1.
        right: (Q, k) bool, whether the entry has the query's identity.
        metric, ap, rerank: arguments of `rank`.
    """

    matches: np.ndarray
    first: np.ndarray
    average_precision: np.ndarray
    inverse_negative_penalty: np.ndarray
    junk: np.ndarray
    index: np.ndarray
    score: np.ndarray
    right: np.ndarray
    metric: str
    ap: str
    rerank: Rerank | None

    def scalars(self) -> dict[str, float]:
        """Returns mAP, mINP, rank1, rank5 and rank10 as fractions.

        Raises:
            UserError: no query has a match.
        """
        matched = self.matches > 0
        if not matched.any():
            raise UserError(
                "no query has a match in the gallery: check the identities, and that each has more than one camera"
            )
        counted = int(matched.sum() if self.ap == "step" else (~self.junk).sum())
        first = self.first[matched]
        return {
            "mAP": float(self.average_precision[matched].sum() / counted),
            "mINP": float(self.inverse_negative_penalty[matched].sum() / counted),
        } | {f"rank{k}": int((first <= k).sum()) / counted for k in RANKS}

    @property
    def protocol(self) -> str:
        """One line for a report on how the scores were measured."""
        n = len(self.matches) - int(self.junk.sum())
        lost = n - int((self.matches > 0).sum())
        distance = "cosine similarity" if self.metric == "cosine" else "Euclidean distance"
        definition = "step definition" if self.ap == "step" else "trapezoid of the official MATLAB code"
        fate = "skipped" if self.ap == "step" else "counted as 0"
        again = f", {self.rerank}" if self.rerank else ""
        return f"{distance}{again}; AP: {definition}; {lost} of {n} queries have no match and are {fate}"


def evaluate(
    query_features: QueryFeatures,
    query_ids: QueryInts,
    query_cameras: QueryInts | None,
    gallery_features: GalleryFeatures,
    gallery_ids: GalleryInts,
    gallery_cameras: GalleryInts | None,
    *,
    metric: str = "cosine",
    ap: str = "step",
    rerank: Rerank | Mapping[str, float] | None = None,
    same_set: bool = False,
) -> dict[str, float]:
    """Computes mAP, mINP, rank1, rank5 and rank10 of a query and a gallery set.

    Args, Raises: as for `rank`.

    Returns:
        name → fraction.

    >>> unit = np.eye(3, dtype=np.float32)
    >>> evaluate(unit[:1], [7], [0], unit, [7, 7, 8], [0, 1, 1])["mAP"]
    1.0
    """
    return rank(
        query_features,
        query_ids,
        query_cameras,
        gallery_features,
        gallery_ids,
        gallery_cameras,
        metric=metric,
        ap=ap,
        rerank=rerank,
        same_set=same_set,
        top=0,
    ).scalars()


def rank(
    query_features: QueryFeatures,
    query_ids: QueryInts,
    query_cameras: QueryInts | None,
    gallery_features: GalleryFeatures,
    gallery_ids: GalleryInts,
    gallery_cameras: GalleryInts | None,
    *,
    metric: str = "cosine",
    ap: str = "step",
    rerank: Rerank | Mapping[str, float] | None = None,
    same_set: bool = False,
    top: int = 10,
    block: int = similarity.BLOCK,
) -> Ranking:
    """Ranks the gallery for every query.

    The device multiplies blocks of queries with the gallery, and the host ranks them. Memory beyond the inputs: one float32
    copy of the features on the host, one on the device (on the CPU they are the same), and two blocks of similarities.

    Args:
        query_features: (Q, D) float.
        query_ids: (Q,) int; −1 is junk.
        query_cameras: (Q,) int; None for both sets if there are no cameras: then nothing is removed, except the image
            itself with `same_set`.
        gallery_features: (G, D) float.
        gallery_ids: (G,) int.
        gallery_cameras: (G,) int or None.
        metric: "cosine" or "euclidean".
        ap: "step" or "trapezoid".
        rerank: parameters of the re-ranking, or a mapping of them; None for no re-ranking.
        same_set: query i and gallery entry i are the same image, for all i: it is removed from its own list, and re-ranking
            uses it once.
        top: length k of the ranked lists to keep, nearest first; 0 for none.
        block: maximum number of similarities in memory.

    Returns:
        Ranking.

    Raises:
        UserError: `metric` or `ap` is unknown, features are not finite, a re-ranking parameter is out of range, a set is
            empty, only one set has cameras, or `same_set` is given for sets that differ.
        ValueError: shapes do not agree, or identities are not integers.
    """
    query_set = _set("query", query_features, query_ids, query_cameras)
    gallery_set = _set("gallery", gallery_features, gallery_ids, gallery_cameras)
    return _rank(query_set, gallery_set, metric, ap, rerank_lib.create(rerank), same_set, top, block)


def _rank(
    query_set: "_Set",
    gallery_set: "_Set",
    metric: str,
    ap: str,
    rerank: Rerank | None,
    same_set: bool,
    top: int,
    block: int,
) -> Ranking:
    query_features, query_ids, query_cameras = query_set
    gallery_features, gallery_ids, gallery_cameras = gallery_set
    if ap not in AVERAGE_PRECISION:
        raise UserError(f"ap={ap!r} is unknown; use {' or '.join(AVERAGE_PRECISION)}")
    if (query_cameras is None) != (gallery_cameras is None):
        raise UserError("only one of query and gallery has cameras; give both or neither")
    if same_set and not (
        np.array_equal(query_ids, gallery_ids)
        and (query_features is gallery_features or np.array_equal(query_features, gallery_features))
    ):
        raise UserError(
            "same_set=True, but query and gallery differ: give the same features and ids for both"
        )
    junk, kept = query_ids == JUNK, np.flatnonzero(gallery_ids != JUNK)
    queries = np.flatnonzero(~junk)
    if not len(queries) or not len(kept):
        which = "gallery" if len(queries) else "query"
        raise UserError(f"the {which} set is empty or all junk (identity {JUNK})")

    gallery = ("gallery", gallery_features, None if len(kept) == len(gallery_ids) else kept)
    query = ("query", query_features, queries if junk.any() else None)
    features = similarity.prepare([gallery] if same_set else [query, gallery], metric)
    if rerank:
        blocks = rerank_lib.rows(features, None if same_set else len(queries), rerank, block=block)
    else:
        first = 0 if same_set else len(queries)
        on_device = jax.device_put(features[first:])  # on the CPU the same memory
        blocks = similarity.rows(features[: len(queries)], on_device, metric, block=block)
    same = _Same(gallery_ids[kept], None if gallery_cameras is None else gallery_cameras[kept])

    n, k = len(query_ids), min(top, len(gallery_ids))
    out = Ranking(
        matches=np.zeros(n, np.int64),
        first=np.zeros(n, np.int64),
        average_precision=np.full(n, np.nan),
        inverse_negative_penalty=np.full(n, np.nan),
        junk=junk,
        index=np.full((n, k), -1),
        score=np.full((n, k), np.nan, np.float32),
        right=np.zeros((n, k), bool),
        metric=metric,
        ap=ap,
        rerank=rerank,
    )
    for start, rows in blocks:
        for i, row in enumerate(rows, start):
            q = queries[i]
            matches, removed = same(query_ids[q], None if query_cameras is None else query_cameras[q])
            if same_set:
                matches, removed = matches[matches != i], np.append(removed, i)
            row = row.copy()
            row[removed] = -np.inf
            _enter(out, q, row, matches, kept)
    out.right[:] = (out.index >= 0) & (gallery_ids[out.index] == query_ids[:, None])
    if metric == "euclidean" and not rerank:
        np.sqrt(np.maximum(-out.score, 0), out=out.score)
        np.negative(out.score, out=out.score)
    return out


class _Set(NamedTuple):
    """Features (N, D), identities (N,) and cameras (N,) or None."""

    features: np.ndarray
    ids: np.ndarray
    cameras: np.ndarray | None


def _set(
    name: str,
    features: np.ndarray,
    ids: np.ndarray | Sequence[int],
    cameras: np.ndarray | Sequence[int] | None,
) -> _Set:
    made = _Set(np.asarray(features), np.asarray(ids), None if cameras is None else np.asarray(cameras))
    if made.features.ndim != 2 or made.ids.shape != made.features.shape[:1]:
        raise ValueError(
            f"{name}: features {made.features.shape} and ids {made.ids.shape} are not (N, D) and (N,)"
        )
    if made.cameras is not None and made.cameras.shape != made.ids.shape:
        raise ValueError(f"{name}: cameras {made.cameras.shape} are not (N,) = {made.ids.shape}")
    for what, values in (("ids", made.ids), ("cameras", made.cameras)):
        if values is not None and values.size and not np.issubdtype(values.dtype, np.integer):
            raise ValueError(f"{name}: {what} are {values.dtype}, not integers")
    return made


class _Same:
    """Looks up the gallery entries of an identity by index: the matches, and those of the query's own camera."""

    def __init__(self, ids: np.ndarray, cameras: np.ndarray | None) -> None:
        self.order = np.argsort(ids, kind="stable")
        self.ids, self.cameras = ids[self.order], cameras

    def __call__(self, identity: np.integer, camera: np.integer | None) -> tuple[np.ndarray, np.ndarray]:
        low, high = np.searchsorted(self.ids, identity, "left"), np.searchsorted(self.ids, identity, "right")
        members = self.order[low:high]
        if camera is None or self.cameras is None:
            return members, members[:0]
        own = self.cameras[members] == camera
        return members[~own], members[own]


def _enter(out: Ranking, q: np.integer, row: np.ndarray, matches: np.ndarray, kept: np.ndarray) -> None:
    """Writes the result of one query, from its similarities with removed entries at −inf, into its row."""
    ordered, k = np.sort(row), out.index.shape[1]
    if k:
        nearest = _nearest(row, ordered, k)
        out.index[q, : len(nearest)], out.score[q, : len(nearest)] = kept[nearest], row[nearest]
    if len(matches):
        ranks = _ranks(row, ordered, matches)
        out.matches[q], out.first[q] = len(ranks), ranks[0]
        out.average_precision[q] = _average_precision(ranks, out.ap)
        out.inverse_negative_penalty[q] = len(ranks) / ranks[-1]


def _ranks(row: np.ndarray, ordered: np.ndarray, matches: np.ndarray) -> np.ndarray:
    """Computes the ranks of the matches, from 1, in ascending order.

    A rank is one more than the number of entries with a larger similarity, or an equal one and a lower index. These are
    integer counts, so nothing is rounded.

    Args:
        row: (G,) similarities; −inf for removed entries.
        ordered: (G,) the same in ascending order.
        matches: (P,) indices, ascending, P ≥ 1.
    """
    values = row[matches]
    right = np.searchsorted(ordered, values, "right")
    ranks = len(ordered) - right + 1
    tied = right - np.searchsorted(ordered, values, "left") > 1
    for value in np.unique(values[tied]) if tied.any() else ():
        equal = values == value
        ranks[equal] += np.searchsorted(np.flatnonzero(row == value), matches[equal])
    ranks.sort()
    return ranks


def _nearest(row: np.ndarray, ordered: np.ndarray, k: int) -> np.ndarray:
    """Returns the indices of the k largest values, ties by lower index; fewer if entries are removed."""
    least = max(ordered[-k] if k <= len(ordered) else ordered[0], np.finfo(np.float32).min)
    candidates = np.flatnonzero(row >= least)
    return candidates[np.argsort(-row[candidates], kind="stable")[:k]]


def _average_precision(ranks: np.ndarray, definition: str) -> float:
    found = np.arange(1, len(ranks) + 1)
    precision = found / ranks
    if definition == "step":
        return float(precision.mean())
    before = np.where(ranks > 1, (found - 1) / np.maximum(ranks - 1, 1), 1.0)
    return float(((before + precision) / 2).mean())
