"""Re-identification: which images of a gallery show the object of the query. Test identities are not those of training."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics
from ml_collections import ConfigDict

from fusionjax.config import impossible
from fusionjax.data.loading import pipeline
from fusionjax.data.source import Source
from fusionjax.errors import UserError
from fusionjax.evaluation import per_example, reid
from fusionjax.evaluation.probe import Baseline
from fusionjax.evaluation.rerank import Rerank
from fusionjax.interpret import rank_list
from fusionjax.models import registry
from fusionjax.models.methods.dcal import derangement
from fusionjax.models.methods.reid import ReID, unit
from fusionjax.tasks.base import model_factory
from fusionjax.tasks.base.image_task import Array, Batch, ImageTask, Outputs, PyTree, average
from fusionjax.train import losses, metric_losses

PAIR = ("query", "gallery")
"""Splits that are scored together, under the name "test"; any other split is its own gallery."""
SCORES = ("mAP", "mINP", *(f"rank{k}" for k in reid.RANKS))
SHOWN = 6


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


class ReIdentification(ImageTask):
    """An embedding in which images of one identity are near each other.

    Every branch has a cross-entropy over the training identities, after a BNNeck, and a metric loss before it (METHODS of
    DCAL, section 4.2 of the paper; TransReID's recipe). At test the CLS features of SA and GLCA stand side by side.

    Args:
        config: of the whole run, validated.
        class_names: one a training identity.
    """

    shown = ("mAP", "rank1")
    keep = ("embedding",)
    closed_set = False
    new_parameters = ("neck_.*", "head_(sa|glca)/.*")

    def __init__(self, config: ConfigDict, class_names: Sequence[str]):
        if registry.family(config.model.name) not in ("vit", "dcal", ""):
            raise impossible(config, "model.name", "re-identification takes a vit_, deit_ or dcal_ model")
        if config.loss.mixup or config.loss.cutmix:
            raise impossible(
                config, "loss.mixup" if config.loss.mixup else "loss.cutmix", "identities do not mix"
            )
        backbone = model_factory.image_model(config, 0)
        centers = config.loss.center_weight > 0
        super().__init__(config, class_names, ReID(backbone, len(class_names), centers))
        again = tuple(f"{name}_reranked" for name in SCORES) if config.evaluation.rerank else ()
        self.score_names = (*SCORES, *again)

    def check(self, sources: Mapping[str, Source]) -> None:
        """See `ImageTask.check`."""
        for split, source in sources.items():
            columns = source.columns
            if "camera" in columns and np.asarray(columns["camera"]).dtype.kind not in "iu":
                raise UserError(f"{source.name}, split {split}: the column camera must be whole numbers")
            n = self.config.model.cameras
            if n and "camera" not in columns:
                raise impossible(self.config, "model.cameras", f"{source.name} has no column camera")
            if n and not 0 <= int(columns["camera"].min()) <= int(columns["camera"].max()) < n:
                most = int(columns["camera"].max())
                raise impossible(
                    self.config, "model.cameras", f"split {split} has camera {most}; they count from 0"
                )
        for name, (query, gallery) in _pairs(sources.keys() - {"train"}).items():
            _check_matches(name, sources[query], sources[gallery], query == gallery)
            for split in {query, gallery}:
                _check_unseen(sources["train"], sources[split])

    def loss(self, variables: dict[str, PyTree], batch: Batch, key: Array, *, groups: int):
        """Loss, metrics and updated collections of one (micro-)batch; see `Classification.loss`."""
        dropout, pairs = jax.random.split(key)
        label, valid = batch["label"], batch["valid"]
        size = label.shape[0]
        extra = {}
        if "pwca" in self.module.branches:
            extra["partner"] = derangement(pairs, groups, size // groups, self.config.data.per_identity)
        mutable = [name for name in variables if name != "params"]
        (_, aux), new = self.module.apply(
            variables,
            **self.inputs(batch),
            valid=valid,
            train=True,
            rngs={"dropout": dropout},
            mutable=mutable,
            **extra,
        )
        metrics, by_branch = {}, {}
        for b, feature in aux["features"].items():
            logits = aux["logits"][b]
            identity = losses.masked_mean(
                losses.cross_entropy(logits, label, label_smoothing=self.config.loss.label_smoothing), valid
            )
            metric = losses.masked_mean(*self._metric(feature, label, valid))
            parts = {"identity": identity, self.config.loss.metric: metric}
            c = self.config.loss
            by_branch[b] = c.identity_weight * identity + c.metric_weight * metric
            if c.center_weight and b in aux["centers"]:
                centers = aux["centers"][b]
                parts["center"] = losses.masked_mean(metric_losses.center(feature, label, centers), valid)
                by_branch[b] += c.center_weight * parts["center"]
                moved = metric_losses.move_centers(jax.lax.stop_gradient(feature), label, centers, valid)
                new = {**new, "centers": {**new.get("centers", {}), b: moved}}
            for name, value in parts.items():
                metrics[f"{name}_{b}"] = clu_metrics.Average(total=value, count=jnp.ones(()))
            metrics[f"accuracy_{b}"] = average(logits.argmax(-1) == label, valid)
        metrics["accuracy"] = metrics["accuracy_sa"]
        if "log_variances" not in aux or self.config.loss.branch_weighting == "sum":
            return sum(by_branch.values()), (metrics, new)
        return losses.uncertainty_weighted(by_branch, aux["log_variances"]), (metrics, new)

    def predict(self, variables: dict[str, PyTree], batch: Batch) -> dict[str, Array]:
        """What is known of every image.

        Returns:
            "embedding" (B, D), unit; with GLCA "rollout" (B, N − 1) and "selected" (B, k), as `Classification.predict`.
        """
        inputs = self.inputs(batch)
        embedding, aux = self.module.apply(variables, **inputs, train=False)
        if self.config.evaluation.flip:
            turned = {
                name: x[:, :, ::-1] if name in ("images", "features") else x for name, x in inputs.items()
            }
            mirrored, _ = self.module.apply(variables, **turned, train=False)
            embedding = unit(embedding + mirrored)
        out = {"embedding": embedding}
        if "rollout" in aux:
            out["rollout"], out["selected"] = aux["rollout"][:, 1:], aux["selected"][:, 1:] - 1
        return out

    def evaluate(self, outputs: Mapping[str, Outputs], sources: Mapping[str, Source]) -> dict[str, Result]:
        """Results by name: "test" of query against gallery, or of a split against itself.

        Args:
            outputs: by split, `predict`'s of all of it, with "index" and "valid".
            sources: by split, with the columns identity and, where the data have it, camera.

        Raises:
            UserError: query without gallery, or the other way round.
        """
        pairs = _pairs(outputs.keys())
        return {name: self._evaluate(q, g, outputs, sources) for name, (q, g) in pairs.items()}

    def scalars(self, results: Mapping[str, Result]) -> dict[str, float]:
        """Flat names, e.g. test/mAP, test/rank1, test/mAP_reranked; fractions."""
        flat = {}
        for name, result in results.items():
            flat |= {f"{name}/{k}": v for k, v in result.ranking.scalars().items()}
            flat |= {f"{name}/{k}_reranked": v for k, v in result.reranked.items()}
        return flat

    def outcomes(
        self, results: Mapping[str, Result], outputs: Mapping[str, Outputs], sources: Mapping[str, Source]
    ) -> dict[str, np.ndarray]:
        """What happened to each query of "test", or else of the last result: see `evaluation.per_example`.

        Returns:
            Also "average_precision", and "rank1": whether the first of the list is a match. Of the queries that count: their
            means are mAP and rank1.
        """
        name = "test" if "test" in results else list(results)[-1]
        result = results[name]
        ranking, matched = result.ranking, result.ranking.matches > 0
        counted = np.flatnonzero(matched if ranking.ap == "step" else ~ranking.junk)
        counted = counted[np.argsort(result.query_rows[counted], kind="stable")]
        return {
            "name": per_example.names_of(sources[result.query], result.query_rows[counted]),
            "split": np.array(name),
            "read": np.array(list(dict.fromkeys((result.query, result.gallery)))),
            "average_precision": np.where(matched, ranking.average_precision, 0.0)[counted],
            "rank1": (ranking.first[counted] == 1).astype(np.uint8),
        }

    def probe(
        self,
        train: np.ndarray,
        train_labels: np.ndarray,
        test: np.ndarray,
        test_rows: np.ndarray,
        source: Source,
    ) -> list[Baseline]:
        """What the pretrained network's own features reach, see `Classification.probe`."""
        ids, cameras = _columns(source, test_rows)
        scores = reid.evaluate(test, ids, cameras, test, ids, cameras, same_set=True, **self._options)
        note = "the pretrained network's features on the same images, averaged over the grid"
        return [
            Baseline(f"frozen_features_{name}", f"{name}, frozen features", scores[name], note)
            for name in ("mAP", "rank1")
        ]

    def report(
        self, results: Mapping[str, Result], outputs: Mapping[str, Outputs], sources: Mapping[str, Source]
    ) -> dict[str, Any]:
        """Fields of `interpret.report.ReportContent`: scores, protocol, rank lists."""
        rows, headline = [], []
        for name, result in results.items():
            scores = result.ranking.scalars()
            n = int((result.ranking.matches > 0).sum())
            headline += [(f"{k}, {name}", scores[k], None, f"{n:,} queries") for k in ("mAP", "rank1")]
            where = f"{name} of {sources[result.query].name}"
            rows.append((where, result.ranking.protocol, *(scores[k] for k in SCORES)))
            if result.reranked:
                rows.append((where, f"{self._rerank}", *(result.reranked[k] for k in SCORES)))
        name, result = next(iter(results.items()))
        figures = [
            (title, text, rank_list.rank_list(entries))
            for title, text, entries in (
                (
                    "Queries with the lowest average precision",
                    _LISTS,
                    self._lists(result, sources, worst=True),
                ),
                ("Queries drawn at random", _LISTS, self._lists(result, sources, worst=False)),
            )
            if entries
        ]
        return {
            "task": f"Images of the same identity, by an embedding learned on {len(self.class_names):,} other identities.",
            "headline": headline,
            "tables": [("Retrieval", ("split", "protocol", *SCORES), rows)],
            "figures": figures,
        }

    @property
    def _options(self) -> dict[str, Any]:
        c = self.config.evaluation
        return {"metric": c.metric, "ap": c.average_precision}

    @property
    def _rerank(self) -> Rerank:
        c = self.config.evaluation
        return Rerank(c.rerank_k1, c.rerank_k2, c.rerank_lambda)

    def _metric(self, feature: Array, label: Array, valid: Array) -> tuple[Array, Array]:
        c = self.config.loss
        if c.metric == "circle":
            return metric_losses.circle(feature, label, valid, margin=c.margin or 0.25, scale=c.circle_scale)
        return metric_losses.triplet(feature, label, valid, margin=c.margin or None)

    def _evaluate(
        self, query: str, gallery: str, outputs: Mapping[str, Outputs], sources: Mapping[str, Source]
    ) -> Result:
        (q, q_rows), (g, g_rows) = (_features(outputs[s]) for s in (query, gallery))
        arguments = (q, *_columns(sources[query], q_rows), g, *_columns(sources[gallery], g_rows))
        options = {**self._options, "same_set": query == gallery}
        ranking = reid.rank(*arguments, **options)
        again = {}
        if self.config.evaluation.rerank:
            again = reid.evaluate(*arguments, **options, rerank=self._rerank)
        return Result(ranking, again, query, gallery, q_rows, g_rows)

    def _lists(self, result: Result, sources: Mapping[str, Source], *, worst: bool) -> list[rank_list.Entry]:
        """Rank lists of queries that have a match."""
        ranking = result.ranking
        matched = np.flatnonzero(ranking.matches > 0)
        if worst:
            chosen = matched[np.argsort(ranking.average_precision[matched], kind="stable")[:SHOWN]]
        else:
            chosen = np.random.default_rng(self.config.seed).permutation(matched)[:SHOWN]
        query, gallery, data = sources[result.query], sources[result.gallery], self.config.data
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


def _pairs(splits: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Reported name → (query split, gallery split)."""
    splits = set(splits)
    if len(splits & set(PAIR)) == 1:
        raise UserError("name query and gallery together: one cannot be scored without the other")
    pairs = {"test": PAIR} if set(PAIR) <= splits else {}
    return pairs | {s.partition("_")[0]: (s, s) for s in sorted(splits - set(PAIR))}


def _check_matches(name: str, query: Source, gallery: Source, same: bool) -> None:
    """A UserError where no query could have a match."""
    seen: dict[int, set[int]] = {}
    ids, cameras = _columns(gallery, np.arange(len(gallery)))
    for identity, camera in zip(ids, np.arange(len(ids)) if cameras is None else cameras, strict=True):
        seen.setdefault(int(identity), set()).add(int(camera))
    ids, cameras = _columns(query, np.arange(len(query)))
    own = np.full(len(ids), -1) if cameras is None else cameras
    if cameras is None and same:
        found = any(len(members) > 1 for members in seen.values())
    else:
        found = any(seen.get(int(i), set()) - {int(c)} for i, c in zip(ids, own, strict=True))
    if not found:
        raise UserError(
            f"{query.name}, {name}: no query has an image of its identity from another camera in the gallery; check the "
            "columns identity and camera"
        )


def _check_unseen(train: Source, test: Source) -> None:
    """A UserError where test identities are training's: what is measured then is not re-identification."""
    if test.name.startswith("MSMT17"):  # its test identities count from 0 again
        return
    shared = np.intersect1d(train.columns["identity"], test.columns["identity"])
    if len(shared):
        raise UserError(
            f"{test.name}: split {test.split!r} shares {len(shared)} identities with training (e.g. {shared[0]}); "
            "re-identification is measured on identities that training never saw"
        )


def _features(rows: Outputs) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of the images that could be read, and their indices in the source."""
    good = (rows["valid"] > 0) & (rows["index"] >= 0)
    return np.asarray(rows["embedding"], np.float32)[good], rows["index"][good]


def _columns(source: Source, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    columns = source.columns
    cameras = np.asarray(columns["camera"])[rows] if "camera" in columns else None
    return np.asarray(columns["identity"])[rows], cameras


def _caption(source: Source, i: int) -> str:
    columns = source.columns
    camera = f", cam {columns['camera'][i]}" if "camera" in columns else ""
    return f"id {columns['identity'][i]}{camera}"
