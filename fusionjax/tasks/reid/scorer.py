"""Scores of re-identification: query against gallery, by the protocol of docs/methods/reid.md."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import jax
import numpy as np
from ml_collections import ConfigDict

from fusionjax.data.source import Source
from fusionjax.errors import UserError
from fusionjax.evaluation import per_example as per_example_lib
from fusionjax.evaluation import reid, significance
from fusionjax.evaluation.probe import Baseline
from fusionjax.evaluation.rerank import Rerank
from fusionjax.tasks.base.baselines import NoBaselines, PooledFeatures
from fusionjax.tasks.base.explanations import glca_selection
from fusionjax.tasks.base.image_model import ImageModel
from fusionjax.tasks.base.protocol import Batch, Outputs, Variables
from fusionjax.vectors import unit

PAIR = ("query", "gallery")
"""Splits that are scored together, under the name "test"; any other split is its own gallery."""
SCORES = ("mAP", "mINP", *(f"rank{k}" for k in reid.RANKS))
_BOUNDS = ("mAP_low", "mAP_high", "rank1_low", "rank1_high")


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """Of one query set.

    Attributes:
        ranking: the lists and scores.
        reranked: scores after re-ranking; empty where none was asked for.
        query, gallery: split names.
        query_rows, gallery_rows: index in the split's source of each row of the ranking.
    """

    ranking: reid.Ranking
    reranked: dict[str, float]
    query: str
    gallery: str
    query_rows: np.ndarray
    gallery_rows: np.ndarray

    def per_query(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The queries that are scored, in the order of the data set, and their values, whose means are the scores.

        Returns:
            (Q,) int, rows of the ranking, and "average_precision" (Q,) and "rank1" (Q,), whether the first result is a match.
        """
        ranking, matched = self.ranking, self.ranking.matches > 0
        counted = np.flatnonzero(matched if ranking.ap == "step" else ~ranking.junk)
        counted = counted[np.argsort(self.query_rows[counted], kind="stable")]
        return counted, {
            "average_precision": np.where(matched, ranking.average_precision, 0.0)[counted],
            "rank1": (ranking.first[counted] == 1).astype(np.uint8),
        }

    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 95 % bootstrap interval over queries of mAP and rank1."""
        found = {per_example_lib.score_of(name): values for name, values in self.per_query()[1].items()}
        return {str(name): significance.mean_interval(values) for name, values in found.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class ReidScorer(NoBaselines):
    """See `protocol.Scorer`.

    Attributes:
        config: of the whole run, validated.
        model: of the task.
    """

    config: ConfigDict
    model: ImageModel
    shown: ClassVar[tuple[str, ...]] = ("mAP", "rank1")
    lower_is_better: ClassVar[tuple[str, ...]] = ()
    output_names: ClassVar[tuple[str, ...]] = ("embedding",)
    closed_set: ClassVar[bool] = False
    reads_training: ClassVar[bool] = False

    @property
    def score_names(self) -> tuple[str, ...]:
        """See `Scorer`."""
        again = tuple(f"{name}_reranked" for name in SCORES) if self.config.evaluation.rerank else ()
        return (*SCORES, *_BOUNDS, *again)

    @property
    def rerank(self) -> Rerank:
        """The re-ranking that the config asks for."""
        c = self.config.evaluation
        return Rerank(c.rerank_k1, c.rerank_k2, c.rerank_lambda)

    def predict(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """See `Scorer.predict`.

        Returns:
            "embedding" (B, D), unit; with GLCA "rollout" (B, N − 1) and "selected" (B, k), as `BranchPredictor`.
        """
        arguments = self.model.inputs.arguments(batch, variables)
        embedding, aux = self.model.infer(variables, **arguments, train=False)
        if self.config.evaluation.flip:
            turned = {
                name: x[:, :, ::-1] if name in ("images", "features") else x for name, x in arguments.items()
            }
            mirrored, _ = self.model.infer(variables, **turned, train=False)
            embedding = unit(embedding + mirrored)
        return {"embedding": embedding} | glca_selection(aux)

    def evaluate(self, outputs: Mapping[str, Outputs], sources: Mapping[str, Source]) -> dict[str, Result]:
        """Results by name: "test" of query against gallery, or of a split against itself.

        Args:
            outputs: by split, the predictions of all of it.
            sources: by split, with the columns identity and, where the data have it, camera.

        Raises:
            UserError: query without gallery, or the other way round.
        """
        pairs = query_gallery_pairs(outputs.keys())
        return {name: self._evaluate(q, g, outputs, sources) for name, (q, g) in pairs.items()}

    def scalars(self, results: Mapping[str, Result]) -> dict[str, float]:
        """Flat names, e.g. test/mAP, test/rank1, test/mAP_reranked; fractions."""
        flat: dict[str, float] = {}
        for name, result in results.items():
            flat |= {f"{name}/{k}": v for k, v in result.ranking.scalars().items()}
            flat |= {
                f"{name}/{k}_{bound}": v
                for k, interval in result.intervals().items()
                for bound, v in zip(("low", "high"), interval, strict=True)
            }
            flat |= {f"{name}/{k}_reranked": v for k, v in result.reranked.items()}
        return flat

    def per_example(
        self, results: Mapping[str, Result], outputs: Mapping[str, Outputs], sources: Mapping[str, Source]
    ) -> dict[str, np.ndarray]:
        """The result of each query of "test", or else of the last result; see `Scorer.per_example`.

        Returns:
            Also "average_precision", and "rank1": whether the first result is a match. Only of evaluated queries: the
            means are mAP and rank1.
        """
        name = "test" if "test" in results else list(results)[-1]
        result = results[name]
        counted, values = result.per_query()
        return {
            "name": per_example_lib.names_of(sources[result.query], result.query_rows[counted]),
            "split": np.array(name),
            "read": np.array(list(dict.fromkeys((result.query, result.gallery)))),
            **values,
        }

    def probe(self, features: PooledFeatures) -> list[Baseline]:
        """Retrieval by the pretrained network's own features; see `Scorer.probe`."""
        test = features.test
        ids, cameras = identities_and_cameras(features.source, features.test_rows)
        scores = reid.evaluate(test, ids, cameras, test, ids, cameras, same_set=True, **self._options)
        note = "the pretrained network's features on the same images, averaged over the grid"
        # Query and gallery are another protocol than one split against itself: not to be compared.
        alone = not set(PAIR) <= set(self.config.data.eval_splits)
        measures = {"mAP": "average_precision", "rank1": "rank1"}
        return [
            Baseline(
                f"frozen_features_{name}",
                f"{name}, frozen features",
                scores[name],
                note,
                measure if alone else "",
            )
            for name, measure in measures.items()
        ]

    @property
    def _options(self) -> dict[str, Any]:
        c = self.config.evaluation
        return {"metric": c.metric, "ap": c.average_precision}

    def _evaluate(
        self, query: str, gallery: str, outputs: Mapping[str, Outputs], sources: Mapping[str, Source]
    ) -> Result:
        (q, q_rows), (g, g_rows) = (_features(outputs[s]) for s in (query, gallery))
        arguments = (
            q,
            *identities_and_cameras(sources[query], q_rows),
            g,
            *identities_and_cameras(sources[gallery], g_rows),
        )
        options = {**self._options, "same_set": query == gallery}
        ranking = reid.rank(*arguments, **options)
        again = {}
        if self.config.evaluation.rerank:
            again = reid.evaluate(*arguments, **options, rerank=self.rerank)
        return Result(ranking, again, query, gallery, q_rows, g_rows)


def query_gallery_pairs(splits: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Reported name → (query split, gallery split)."""
    splits = set(splits)
    if len(splits & set(PAIR)) == 1:
        raise UserError("name query and gallery together: one cannot be scored without the other")
    pairs = {"test": PAIR} if set(PAIR) <= splits else {}
    return pairs | {s.partition("_")[0]: (s, s) for s in sorted(splits - set(PAIR))}


def _features(rows: Outputs) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of the images that could be read, and their indices in the source."""
    good = (rows["valid"] > 0) & (rows["index"] >= 0)
    return np.asarray(rows["embedding"], np.float32)[good], rows["index"][good]


def identities_and_cameras(source: Source, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The columns identity and, where there is one, camera of some rows."""
    columns = source.columns
    cameras = np.asarray(columns["camera"])[rows] if "camera" in columns else None
    return np.asarray(columns["identity"])[rows], cameras
