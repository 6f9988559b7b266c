"""The report of a run of the spectral task: tables, maps of the embeddings, and what was retrieved."""

from collections.abc import Mapping, Sequence
from itertools import combinations, permutations
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from fusionjax.data.image.transforms import picture_of
from fusionjax.data.loading import pipeline
from fusionjax.data.source import Source
from fusionjax.data.unreadable import DecodeError
from fusionjax.evaluation import retrieval, significance
from fusionjax.evaluation.cross_modal import COMBINED, PROTOCOLS, Result
from fusionjax.interpret import embedding_figures, rank_list

SHOWN, LISTED = 6, 6
"""Queries of a figure, and images of a list."""


def fields(
    config: ConfigDict,
    modalities: Sequence[tuple[str, Sequence[int]]],
    split: str,
    results: Mapping[str, Result],
    source: Source,
) -> dict[str, Any]:
    """Fields of `interpret.report.ReportContent`.

    Args:
        config: of the run.
        modalities: (name, indices of its channels) for each that trained.
        split: that is shown in full.
        results: by split.
        source: of `split`.
    """
    names = [name for name, _ in modalities]
    result = results[split]
    n = len(result.split.rows)
    headline = [
        (
            f"{name}, {s}",
            r.scores[name],
            significance.mean_interval(r.hits[name]),
            f"{len(r.split.rows):,} queries; what looks the same counts",
        )
        for s, r in results.items()
        for name in r.scores
        if name.startswith("recall@1/")
    ]
    if result.correct is not None:
        note = f"{n:,} images, {min(config.spectral.neighbours, n)} nearest neighbours"
        interval = significance.mean_interval(result.correct)
        headline.append((f"kNN accuracy, {split}", result.scores["accuracy"], interval, note))
    tables = _tables(names, results)
    figures: list[tuple[str, str, Figure | None]] = []
    for a, b in combinations(names, 2):
        labels = (np.asarray(result.split.labels), list(source.class_names))
        pair = (result.split.embeddings[a], result.split.embeddings[b])
        drawn = {"names": (a, b), "seed": config.seed}
        which = f": {a} and {b}" if len(names) > 2 else ""
        if n >= 3:
            drawn_map = embedding_figures.joint_map(*pair, *labels, **drawn)
            figures.append((f"Joint map{which}", _MAP, drawn_map))
        heat = embedding_figures.similarity_map(*pair, *labels, **drawn)
        figures.append((f"Similarities{which}", _HEAT, heat))
        for query, gallery in ((a, b), (b, a)):
            for wrong in (True, False):
                entries = _entries(config, dict(modalities), (query, gallery), result, source, wrong=wrong)
                if entries:
                    kind = "Wrong at rank 1" if wrong else "Drawn at random"
                    title = f"{kind}: {query} to {gallery}"
                    figures.append((title, _LISTS, rank_list.rank_list(entries, marks=_MARKS)))
    what = " and ".join(names)
    task = f"Embeddings of {what} of one image near each other ({config.spectral.fusion})."
    if len(names) == 1:
        task = f"Embeddings of {what} alone, two views of an image near each other."
    return {"task": task, "headline": headline, "tables": tables, "figures": [f for f in figures if f[2]]}


_MAP = "One UMAP of both modalities' embeddings together; thin lines join the two of an image."
_HEAT = "Cosine similarity of every image in one modality with every image in the other, sorted by class."
_LISTS = (
    "The query in one modality, then the nearest images in the other. Solid green with ✓: the same image, or one that looks "
    "the same in either modality; dashed red with ✗: another."
)

_MARKS = ("the same image, or looks the same", "another image")


def _tables(names: Sequence[str], results: Mapping[str, Result]) -> list[tuple[str, Any, Any]]:
    tables = []
    ways = list(permutations(names, 2))
    rows = []
    for split, result in results.items():
        for a, b in ways:
            for protocol, text in PROTOCOLS.items():
                ks = retrieval.KS if not protocol else (1,)
                values = [result.scores[f"recall@{k}{protocol}/{a}_to_{b}"] for k in ks]
                rows.append((split, f"{a} → {b}", text, *values, *[""] * (3 - len(values))))
    if rows:
        heads = ("split", "from → to", "what counts", *(f"recall@{k}" for k in retrieval.KS))
        tables.append(("Retrieval", heads, rows))
    rows = [
        (split, name, result.scores[f"knn/{name}"], result.scores[f"probe/{name}"])
        for split, result in results.items()
        if result.correct is not None
        for name in (*names, COMBINED)
    ]
    if rows:
        tables.append(
            ("Classes from the encoders' features", ("split", "modality", "kNN", "linear probe"), rows)
        )
    rows = [
        (
            split,
            " and ".join(pair),
            f"{m.correlation:.3f}",
            f"{m.p_value:.3f}",
            f"{m.examples:,}",
            f"{m.permutations:,}",
        )
        for split, result in results.items()
        for pair in combinations(names, 2)
        if (m := result.mantel.get("_".join(pair)))
    ]
    if rows:
        heads = ("split", "modalities", "Spearman's ρ", "p (Mantel)", "images", "permutations")
        tables.append(("Do the modalities agree on which images are alike?", heads, rows))
    return tables


def _entries(
    config: ConfigDict,
    channels: Mapping[str, Sequence[int]],
    way: tuple[str, str],
    result: Result,
    source: Source,
    *,
    wrong: bool,
) -> list[rank_list.Entry]:
    """Lists of some queries."""
    query, gallery = way
    hit = result.hits[f"recall@1/{query}_to_{gallery}"]
    rng = np.random.default_rng(config.seed)
    chosen = rng.permutation(np.flatnonzero(~hit) if wrong else len(hit))[:SHOWN]
    a, b = result.split.embeddings[query], result.split.embeddings[gallery]
    rows, alike = result.split.rows, result.duplicate_groups

    def picture(i: int, modality: str) -> np.ndarray:
        try:
            image = pipeline.view(source, int(rows[i]), config.data)
        except (DecodeError, OSError):
            return np.zeros((8, 8, 3), np.uint8)
        return picture_of(image[..., list(channels[modality])])

    entries = []
    for q in chosen:
        similar = b @ a[q]
        nearest = np.argsort(-similar, kind="stable")[:LISTED]
        entries.append(
            rank_list.Entry(
                name=str(source.names[int(rows[q])])[-24:],
                query=picture(q, query),
                images=[picture(i, gallery) for i in nearest],
                right=[bool(alike[i] == alike[q]) for i in nearest],
                scores=[float(similar[i]) for i in nearest],
            )
        )
    return entries
