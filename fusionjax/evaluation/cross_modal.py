"""Evaluation of the embeddings of several modalities: cross-modal retrieval, classification, agreement."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Integer

from fusionjax.evaluation import knn, probe, retrieval
from fusionjax.evaluation.mantel import Mantel, mantel

COMBINED = "combined"
"""Name of the feature of all modalities together, beside those of the modalities."""
PROTOCOLS = {
    "": "pixel-identical duplicates of the partner count as correct, too",
    "_centred": "the same, after subtracting the mean of each side",
    "_strict": "only the partner is correct",
    "_distinct": "examples with a duplicate in any modality are left out, as queries and from the gallery",
}
"""Suffix of recall@1 → definition."""


@dataclass(frozen=True, eq=False)
class Embedded:
    """The embeddings of a split; row i of all arrays belongs to the same example.

    Attributes:
        embeddings: modality → (N, d) float32, the input of the loss.
        features: modality → (N, D) float32, before the projection; also `COMBINED`.
        rows: (N,) int, indices in the data source.
        labels: (N,) int, class indices.
    """

    embeddings: Mapping[str, np.ndarray]
    features: Mapping[str, np.ndarray]
    rows: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class Result:
    """Result of `evaluate`.

    Attributes:
        split: the evaluated embeddings.
        scores: name → score, e.g. recall@1/rgb_to_uv, knn/rgb, probe/combined, alignment/rgb_uv.
        hits: recall@1/a_to_b → (N,) bool, whether the first retrieved entry of a query is correct.
        correct: (N,) bool, whether kNN with the combined feature predicts the class; None if there are no classes.
        mantel: a_b → Mantel test.
        duplicate_groups: (N,) int, equal for examples that share a picture.
    """

    split: Embedded
    scores: Mapping[str, float]
    hits: Mapping[str, np.ndarray]
    correct: np.ndarray | None
    mantel: Mapping[str, Mantel]
    duplicate_groups: np.ndarray


def evaluate(
    split: Embedded,
    duplicate_groups: Integer[np.ndarray, " examples"],
    reference: Embedded | None,
    *,
    neighbours: int = 20,
    probe_c: float = 0.01,
    permutations: int = 999,
    most: int = 500,
    seed: int = 0,
) -> Result:
    """Evaluates the embeddings of a split.

    Retrieval and alignment use the embeddings, kNN and linear probe the features. Recall is computed without centring, and
    duplicates count as correct; see `PROTOCOLS` for the other definitions, which are computed at rank 1.

    Args:
        split: the embeddings to evaluate, of N examples.
        duplicate_groups: (N,) int, equal for examples that share a picture.
        reference: training examples of kNN and linear probe; None for neither.
        neighbours: k of kNN, clipped to the number of reference examples.
        probe_c: inverse strength of the linear probe's L2 penalty; 0 to select it, see `probe.logistic_regression`.
        permutations: of the Mantel test.
        most: maximum number of examples in the Mantel test; if there are more, as many are drawn at random.
        seed: of the random draws.

    Returns:
        Result.
    """
    names = list(split.embeddings)
    scores: dict[str, float] = {}
    hits: dict[str, np.ndarray] = {}
    found: dict[str, Mantel] = {}
    for a, b in combinations(names, 2):
        recalls, right = _retrieval(split.embeddings[a], split.embeddings[b], duplicate_groups, (a, b))
        scores |= recalls
        hits |= right
    for a, b in combinations(names, 2):
        if len(split.rows) < 3:
            continue
        chosen = np.sort(np.random.default_rng(seed).permutation(len(split.rows))[:most])
        tested = mantel(
            split.embeddings[a][chosen], split.embeddings[b][chosen], permutations=permutations, seed=seed
        )
        found[f"{a}_{b}"] = tested
        scores |= {f"alignment/{a}_{b}": tested.correlation, f"alignment_p/{a}_{b}": tested.p_value}
    correct = None
    if reference is not None:
        k = min(neighbours, len(reference.rows))
        for name, features in split.features.items():
            known = reference.features[name]
            guess = knn.predict(known, reference.labels, features, k)
            scores[f"knn/{name}"] = float(np.mean(guess == split.labels))
            if name == COMBINED:
                correct = guess == split.labels
        for name, features in split.features.items():
            fitted = probe.logistic_regression(
                reference.features[name],
                reference.labels,
                features,
                split.labels,
                seed=seed,
                c=probe_c or None,
            )
            scores[f"probe/{name}"] = fitted["accuracy"]
        scores["accuracy"] = scores[f"knn/{COMBINED}"]
    return Result(split, scores, hits, correct, found, duplicate_groups)


def score_names(modalities: list[str], *, classes: bool) -> tuple[str, ...]:
    """Returns the names of `Result.scores`.

    Args:
        modalities: names of the embedded modalities.
        classes: whether there is a reference.
    """
    names: list[str] = []
    for a, b in combinations(modalities, 2):
        ways = (f"{a}_to_{b}", f"{b}_to_{a}")
        names += [f"recall@{k}/{way}" for k in retrieval.KS for way in ways]
        names += [f"recall@1{p}/{way}" for p in PROTOCOLS if p for way in ways]
        names += [f"alignment/{a}_{b}", f"alignment_p/{a}_{b}"]
    if classes:
        names += [f"{kind}/{m}" for kind in ("knn", "probe") for m in (*modalities, COMBINED)] + ["accuracy"]
    return tuple(names)


def _retrieval(
    a: np.ndarray, b: np.ndarray, ids: np.ndarray, names: tuple[str, str]
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Computes recall in both directions by every protocol, and which queries are correct at rank 1."""
    scores: dict[str, float] = {}
    hits: dict[str, np.ndarray] = {}
    alone = np.arange(len(a))
    single = np.isin(ids, np.unique(ids)[np.unique(ids, return_counts=True)[1] == 1])
    ways = (((a, names[0]), (b, names[1])), ((b, names[1]), (a, names[0])))
    for (query, source), (gallery, target) in ways:
        way = f"{source}_to_{target}"

        def first(
            by: np.ndarray,
            rows: np.ndarray | slice = slice(None),
            *,
            query: np.ndarray = query,
            gallery: np.ndarray = gallery,
            center: bool = False,
        ) -> np.ndarray:
            return retrieval.first_ranks(
                query[rows], gallery[rows], query_ids=by[rows], gallery_ids=by[rows], center=center
            )

        ranks = first(ids)
        scores |= {f"recall@{k}/{way}": float(np.mean(ranks <= k)) for k in retrieval.KS}
        hits[f"recall@1/{way}"] = ranks == 1
        scores[f"recall@1_centred/{way}"] = float(np.mean(first(ids, center=True) == 1))
        scores[f"recall@1_strict/{way}"] = float(np.mean(first(alone) == 1))
        distinct = float(np.mean(first(alone, single) == 1)) if single.any() else float("nan")
        scores[f"recall@1_distinct/{way}"] = distinct
    return scores, hits
