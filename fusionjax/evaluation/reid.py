"""Re-identification: mAP, mINP and ranks of the first match, for any number of queries and gallery entries.

The protocol is Market-1501's (Zheng et al., ICCV 2015), as its users follow it. Identity −1 is junk and takes no part; 0 is an
identity like any other, Market's distractors among them. For a query, gallery entries of its identity **and** camera are
removed; every other entry of its identity is a match (multi-shot). Entries of equal similarity come in the order of their
gallery index. The definition of average precision and of a query without a match is a choice, `ap`:

* "step", as TransReID, torchreid and fast-reid: mean over the matches of (matches so far) / rank; a query without a match is
  skipped in every measure.
* "trapezoid", as the authors' MATLAB: precision is the mean of that before and that after the match (before the first entry it
  is 1); a query without a match counts as 0 in every measure.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import numpy as np

from fusionjax.errors import UserError
from fusionjax.evaluation import rerank as rerank_lib
from fusionjax.evaluation import similarity
from fusionjax.evaluation.rerank import Rerank

JUNK = -1
"""Identity of entries that take no part."""
RANKS = (1, 5, 10)
AVERAGE_PRECISION = ("step", "trapezoid")


@dataclass(frozen=True, eq=False)
class Ranking:
    """What `rank` found, query by query, in the caller's order.

    Attributes:
        matches: (Q,) int64, gallery entries that are a match.
        first: (Q,) int64, rank of the first of them, from 1; 0 where there is none.
        average_precision: (Q,) float64; NaN where there is no match.
        inverse_negative_penalty: (Q,) float64, matches / rank of the last of them (Ye et al., TPAMI 2022); NaN likewise.
        junk: (Q,) bool, queries of identity −1; they count in nothing.
        index: (Q, k) int64 into the gallery, nearest first; −1 past the end and for junk.
        score: (Q, k) float32: cosine similarity, minus the Euclidean distance, or minus the re-ranked distance; NaN where
            there is no index.
        right: (Q, k) bool, of the query's identity.
        metric, ap, rerank: as given.
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
        """mAP, mINP, rank1, rank5, rank10: fractions.

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
        """How it was measured, for a report: one line."""
        n = len(self.matches) - int(self.junk.sum())
        lost = n - int((self.matches > 0).sum())
        distance = "cosine similarity" if self.metric == "cosine" else "Euclidean distance"
        definition = "step definition" if self.ap == "step" else "trapezoid of the official MATLAB"
        fate = "skipped" if self.ap == "step" else "counted as 0"
        again = f", {self.rerank}" if self.rerank else ""
        return f"{distance}{again}; AP: {definition}; {lost} of {n} queries have no match and are {fate}"


def evaluate(
    query_features: np.ndarray,
    query_ids: np.ndarray,
    query_cameras: np.ndarray | None,
    gallery_features: np.ndarray,
    gallery_ids: np.ndarray,
    gallery_cameras: np.ndarray | None,
    *,
    metric: str = "cosine",
    ap: str = "step",
    rerank: Rerank | Mapping | None = None,
    same_set: bool = False,
) -> dict[str, float]:
    """mAP, mINP, rank1, rank5 and rank10 of a query and a gallery set: `rank` without the lists.

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
    query_features: np.ndarray,
    query_ids: np.ndarray,
    query_cameras: np.ndarray | None,
    gallery_features: np.ndarray,
    gallery_ids: np.ndarray,
    gallery_cameras: np.ndarray | None,
    *,
    metric: str = "cosine",
    ap: str = "step",
    rerank: Rerank | Mapping | None = None,
    same_set: bool = False,
    top: int = 10,
    block: int = similarity.BLOCK,
) -> Ranking:
    """Ranks the gallery for every query.

    The device multiplies blocks of queries with the gallery, the host ranks them. Beside the inputs there is one float32 copy
    of the features on the host, one on the device (on the CPU it is the same one), and two blocks of similarities.

    Args:
        query_features: (Q, D) float.
        query_ids: (Q,) int; −1 is junk.
        query_cameras: (Q,) int; None, with the gallery's, where there are no cameras: then nothing is removed but the
            image itself under `same_set`.
        gallery_features: (G, D) float.
        gallery_ids: (G,) int.
        gallery_cameras: (G,) int or None.
        metric: "cosine" or "euclidean".
        ap: "step" or "trapezoid".
        rerank: parameters of the re-ranking, or a mapping of them; None for none.
        same_set: query i and gallery entry i are one image, for all i: it is removed from its own list, and re-ranking
            sees it once.
        top: entries of the lists, nearest first, that are kept; 0 for none.
        block: similarities that are held at a time.

    Returns:
        Ranking.

    Raises:
        UserError: an unknown `metric` or `ap`; features that are not finite; a re-ranking parameter out of range; an empty
            set; cameras of only one set; `same_set` for sets that differ.
        ValueError: shapes that do not agree, identities that are not integers.
    """
    query_features, query_ids, query_cameras = _set("query", query_features, query_ids, query_cameras)
    gallery_features, gallery_ids, gallery_cameras = _set(
        "gallery", gallery_features, gallery_ids, gallery_cameras
    )
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
    rerank = rerank_lib.create(rerank)
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


def _set(name: str, features, ids, cameras):
    features, ids = np.asarray(features), np.asarray(ids)
    if features.ndim != 2 or ids.shape != features.shape[:1]:
        raise ValueError(f"{name}: features {features.shape} and ids {ids.shape} are not (N, D) and (N,)")
    if cameras is not None:
        cameras = np.asarray(cameras)
        if cameras.shape != ids.shape:
            raise ValueError(f"{name}: cameras {cameras.shape} are not (N,) = {ids.shape}")
    for what, values in (("ids", ids), ("cameras", cameras)):
        if values is not None and values.size and not np.issubdtype(values.dtype, np.integer):
            raise ValueError(f"{name}: {what} are {values.dtype}, not integers")
    return features, ids, cameras


class _Same:
    """The gallery entries of an identity, by index: those to find, and those of the query's own camera."""

    def __init__(self, ids: np.ndarray, cameras: np.ndarray | None):
        self.order = np.argsort(ids, kind="stable")
        self.ids, self.cameras = ids[self.order], cameras

    def __call__(self, identity: int, camera: int | None) -> tuple[np.ndarray, np.ndarray]:
        low, high = np.searchsorted(self.ids, identity, "left"), np.searchsorted(self.ids, identity, "right")
        members = self.order[low:high]
        if camera is None:
            return members, members[:0]
        own = self.cameras[members] == camera
        return members[~own], members[own]


def _enter(out: Ranking, q: int, row: np.ndarray, matches: np.ndarray, kept: np.ndarray) -> None:
    """Writes what one query's similarities say, removed entries at −inf, into its row of the result."""
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
    """Ranks of the matches, from 1, in ascending order: one more than the entries with a greater similarity or with the same
    and a lower index. Counts are integers, so nothing is rounded.

    Args:
        row: (G,) similarities; −inf for removed entries.
        ordered: the same, ascending.
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
    """Indices of the k greatest, of equals the lower index first; fewer where entries are removed."""
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
