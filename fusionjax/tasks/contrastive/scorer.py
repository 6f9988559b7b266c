"""Scores of contrastive learning: retrieval across modalities, classes from the features, alignment."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fusionjax.data.image.transforms import image_shape
from fusionjax.data.source import Source
from fusionjax.errors import UserError
from fusionjax.evaluation import cross_modal
from fusionjax.evaluation import per_example as per_example_lib
from fusionjax.evaluation.collect import collect
from fusionjax.evaluation.cross_modal import COMBINED, Embedded, Result
from fusionjax.evaluation.probe import Baseline
from fusionjax.models.methods.spectral import SpectralEncoder
from fusionjax.tasks.base.baselines import NoBaselines, Untrained
from fusionjax.tasks.base.class_scorer import headline, readable
from fusionjax.tasks.base.image_model import ImageModel
from fusionjax.tasks.base.multispectral_inputs import COLLECTION
from fusionjax.tasks.base.protocol import Batch, Outputs, Variables, silent
from fusionjax.tasks.contrastive import encoders
from fusionjax.types import PyTree
from fusionjax.vectors import unit


@dataclasses.dataclass(frozen=True, eq=False)
class ContrastiveScorer(NoBaselines):
    """See `protocol.Scorer`.

    Attributes:
        config: of the whole run, validated.
        model: of the task.
        duplicate_groups: source → group of each image: images of a group look the same in a modality that trains. Reads every
            image, so the results should be cached.
    """

    config: ConfigDict
    model: ImageModel[SpectralEncoder]
    duplicate_groups: Callable[..., np.ndarray]
    shown: ClassVar[tuple[str, ...]] = ("recall@1", "accuracy")
    lower_is_better: ClassVar[tuple[str, ...]] = ()
    output_names: ClassVar[tuple[str, ...]] = ("embedding/", "features/")
    closed_set: ClassVar[bool] = False
    reads_training: ClassVar[bool] = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of the modalities that train."""
        return self.model.module.names

    @property
    def score_names(self) -> tuple[str, ...]:
        """See `Scorer`."""
        return cross_modal.score_names(list(self.names), classes=bool(self.config.spectral.reference_split))

    def predict(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """See `Scorer.predict`.

        Returns:
            "embedding/<modality>" (B, d), unit, what the loss sees; "features/<modality>" and "features/combined" (B, D),
            before the projection.
        """
        arguments = self.model.inputs.arguments(batch, variables)
        embeddings, aux = self.model.infer(variables, **arguments, combined=True)
        out = {f"embedding/{name}": unit(e) for name, e in embeddings.items()}
        out |= {f"features/{name}": f for name, f in aux["features"].items()}
        return out | {f"features/{COMBINED}": aux["combined"].astype(jnp.float32)}

    def evaluate(self, outputs: Mapping[str, Outputs], sources: Mapping[str, Source]) -> dict[str, Result]:
        """Results by split; kNN and linear probe are fitted on `spectral.reference_split`, which is not scored itself.

        Args:
            outputs: by split, the predictions of all of it.
            sources: by split.
        """
        c, name = self.config.spectral, self.config.spectral.reference_split
        if name and name not in outputs:
            raise UserError(f"the classes are learned from the split {name!r}: evaluate it too")
        embedded = {split: embedded_rows(rows, self.names) for split, rows in outputs.items()}
        reference = embedded.get(name)
        return {
            split: cross_modal.evaluate(
                rows,
                self.duplicate_groups(sources[split])[rows.rows],
                reference,
                neighbours=c.neighbours,
                probe_c=c.probe_c,
                permutations=c.permutations,
                most=c.alignment_examples,
                seed=self.config.seed,
            )
            for split, rows in embedded.items()
            if split != name
        }

    def scalars(self, results: Mapping[str, Result]) -> dict[str, float]:
        """Flat names, e.g. test/recall@1/rgb_to_uv, test/knn/combined, test/alignment/rgb_uv."""
        return {f"{split}/{name}": v for split, r in results.items() for name, v in r.scores.items()}

    def per_example(
        self, results: Mapping[str, Result], outputs: Mapping[str, Outputs], sources: Mapping[str, Source]
    ) -> dict[str, np.ndarray]:
        """The result of each example of "test", or else of the last result; see `Scorer.per_example`.

        Returns:
            Also "recall@1/<a>_to_<b>", whether the first result of the query of modality a is correct; "correct", whether kNN
            predicts the class; 0 or 1.
        """
        split = headline(results)
        result = results[split]
        order = np.argsort(result.split.rows, kind="stable")
        found = dict(result.hits) | ({} if result.correct is None else {"correct": result.correct})
        return {
            "name": per_example_lib.names_of(sources[split], result.split.rows[order]),
            "split": np.array(split),
            "read": np.array([split]),
            **{name: np.asarray(hit, np.uint8)[order] for name, hit in found.items()},
        }

    def references(self, start: Untrained) -> list[Baseline]:
        """The scores of the published network's features of each modality; see `Scorer.references`."""
        if start.weights is None:
            return []
        module = self.model.module.clone(fusion="separate", log_scale=None)
        data = start.variables[COLLECTION]
        images = jnp.zeros((1, *image_shape(self.config.data), len(data["mean"])))
        plain = jax.device_get(jax.jit(module.init)(jax.random.key(0), images))
        plain = encoders.put_weights(self.config, module, plain, start.weights, silent)

        def predict(known: PyTree, batch: Batch) -> dict[str, jax.Array]:
            _, aux = module.apply(plain_of(known), **self.model.inputs.arguments(batch, known), combined=True)
            features = aux["features"]
            made = {f"embedding/{name}": unit(f) for name, f in features.items()}
            return made | {f"features/{n}": f for n, f in {**features, COMBINED: aux["combined"]}.items()}

        def plain_of(known: PyTree) -> PyTree:
            return {name: tree for name, tree in known.items() if name != COLLECTION}

        known = {**plain, COLLECTION: data}
        outputs = {
            split: collect(
                jax.jit(predict), known, start.batches(split), start.mesh, output_names=self.output_names
            )
            for split in start.sources
        }
        results = self.evaluate(outputs, start.sources)
        split = headline(results)
        note = (
            "the published network without training: its feature of each modality, same images, same protocol"
        )
        result = results[split]
        own = self.per_example(results, outputs, start.sources)
        # The kNN score of the combined feature is the one that a run keeps for each example.
        measures = {name: name for name in result.hits} | {f"knn/{COMBINED}": "correct"}
        return [
            Baseline(
                f"frozen_{name}",
                f"{name}, frozen features",
                value,
                note,
                measures.get(name, ""),
                own.get(measures.get(name, "")),
            )
            for name, value in result.scores.items()
            if name.startswith(("recall@", "knn", "probe"))
        ]


def embedded_rows(rows: Outputs, names: Sequence[str]) -> Embedded:
    """The images that could be read, in the order of the source; modalities in the order of `names`, since a compiled program
    returns them sorted."""
    good = readable(rows)
    embeddings, features = (
        {name: np.asarray(rows[f"{kind}/{name}"], np.float32)[good] for name in known}
        for kind, known in (("embedding", names), ("features", (*names, COMBINED)))
    )
    return Embedded(embeddings, features, rows["index"][good], rows["label"][good])
