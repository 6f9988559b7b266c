"""The report of a re-identification run: scores, protocol, rank lists."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from fusionjax.data.loading import pipeline
from fusionjax.data.source import Source
from fusionjax.interpret import rank_list
from fusionjax.tasks.base.protocol import Evaluated, ReportFields
from fusionjax.tasks.reid.scorer import SCORES, ReidScorer, Result

SHOWN = 6
"""Queries of a figure."""


@dataclasses.dataclass(frozen=True, eq=False)
class RetrievalSection:
    """See `protocol.ReportSection`.

    Attributes:
        scorer: of the task.
        identities: that training has.
    """

    scorer: ReidScorer
    identities: int

    def __call__(self, run: Evaluated) -> ReportFields:
        """Headline, table of scores with their protocol, and rank lists of the first result."""
        rows, headline = [], []
        for name, result in run.results.items():
            scores = result.ranking.scalars()
            n = int((result.ranking.matches > 0).sum())
            headline += [
                (f"{k}, {name}", scores[k], interval, f"{n:,} queries")
                for k, interval in result.intervals().items()
            ]
            where = f"{name} of {run.sources[result.query].name}"
            rows.append((where, result.ranking.protocol, *(scores[k] for k in SCORES)))
            if result.reranked:
                rows.append((where, f"{self.scorer.rerank}", *(result.reranked[k] for k in SCORES)))
        result = next(iter(run.results.values()))
        titles = {"Queries with the lowest average precision": True, "Queries drawn at random": False}
        lists = {title: self._lists(result, run.sources, worst=worst) for title, worst in titles.items()}
        return {
            "task": f"Images of the same identity, by an embedding learned on {self.identities:,} other identities.",
            "headline": headline,
            "tables": [("Retrieval", ("split", "protocol", *SCORES), rows)],
            "figures": [
                (title, _LISTS, rank_list.rank_list(found)) for title, found in lists.items() if found
            ],
        }

    def _lists(self, result: Result, sources: Mapping[str, Source], *, worst: bool) -> list[rank_list.Entry]:
        """Rank lists of queries that have a match."""
        ranking = result.ranking
        matched = np.flatnonzero(ranking.matches > 0)
        if worst:
            chosen = matched[np.argsort(ranking.average_precision[matched], kind="stable")[:SHOWN]]
        else:
            chosen = np.random.default_rng(self.scorer.config.seed).permutation(matched)[:SHOWN]
        query, gallery, data = sources[result.query], sources[result.gallery], self.scorer.config.data
        entries = []
        for q in chosen:
            kept = ranking.index[q] >= 0
            listed = result.gallery_rows[ranking.index[q][kept]]
            entries.append(
                rank_list.Entry(
                    name=_caption(query, int(result.query_rows[q])),
                    query=pipeline.view(query, int(result.query_rows[q]), data),
                    images=[pipeline.view(gallery, int(i), data) for i in listed],
                    right=[bool(r) for r in ranking.right[q][kept]],
                    scores=[float(s) for s in ranking.score[q][kept]],
                    names=[_caption(gallery, int(i)) for i in listed],
                    average_precision=float(ranking.average_precision[q]),
                    matches=int(ranking.matches[q]),
                )
            )
        return entries


_LISTS = (
    "The query, then the nearest images of the gallery; id: identity, cam: camera. Solid green with ✓: the same identity; "
    "dashed red with ✗: another. Images of the query's identity from the query's own camera are left out, as the protocol "
    "wants it."
)


def _caption(source: Source, i: int) -> str:
    columns = source.columns
    camera = f", cam {columns['camera'][i]}" if "camera" in columns else ""
    return f"id {columns['identity'][i]}{camera}"
