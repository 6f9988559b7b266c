"""Contrastive learning across modalities: embeddings in which the RGB and the UV channels of an image are near each other."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fusionjax.config import impossible
from fusionjax.data.image.transforms import image_shape
from fusionjax.data.multispectral import channels as channels_lib
from fusionjax.data.source import Source
from fusionjax.errors import UserError
from fusionjax.evaluation import cross_modal, export, per_example
from fusionjax.evaluation.collect import collect
from fusionjax.evaluation.cross_modal import COMBINED, Embedded, Result
from fusionjax.evaluation.probe import Baseline
from fusionjax.interpret import embedding_figures
from fusionjax.models.methods.reid import unit
from fusionjax.tasks.base import model_factory, multispectral_inputs
from fusionjax.tasks.base.image_task import Array, Batch, ImageTask, Outputs, PyTree
from fusionjax.tasks.contrastive import encoders
from fusionjax.tasks.contrastive import report as spectral_report
from fusionjax.train import contrastive
from fusionjax.train.augment import multispectral as augmentation

PROGRESS = "progress"
"""Collection: "done", losses so far, and "of", how many until the curriculum ends."""


class Spectral(ImageTask):
    """Two views of every image, each with the same geometry in all modalities: InfoNCE between the modalities of a view,
    NT-Xent between the views of a modality. METHODS' section on SimCLR across spectral bands.

    Args:
        config: of the whole run, validated.
        class_names: of the data set; used by the evaluation alone.

    Attributes:
        modalities: (name, indices of its channels) for each that trains.
    """

    shown = ("recall@1", "accuracy")
    keep = ("embedding/", "features/")
    closed_set = False

    def __init__(self, config: ConfigDict, class_names: Sequence[str]):
        named = multispectral_inputs.channels_of(config)
        c = config.spectral
        self.modalities = tuple(m for m in named.modalities if m[0] in (c.train_on or named.modality_names))
        self.spec = _augmentation(config, named)
        super().__init__(config, class_names, encoders.create(config, self.modalities))
        self.names = self.module.names
        self.score_names = cross_modal.score_names(list(self.names), classes=bool(c.reference_split))
        if self.module.fusion == "separate":
            self.norms = {name: f"tower_{name}/" for name in self.names}
        self._alike: dict[str, np.ndarray] = {}

    def init(self, key: Array) -> dict[str, PyTree]:
        """See `ImageTask.init`."""
        one = jnp.ones((), jnp.int32)
        return {**super().init(key), PROGRESS: {"done": 0 * one, "of": one}}

    def measured(
        self,
        variables: dict[str, PyTree],
        source: Source,
        *,
        steps: int,
        folder: Path,
        say: Any = lambda text: None,
    ) -> dict[str, PyTree]:
        """See `ImageTask.measured`."""
        losses = steps * self.config.optim.accumulate
        of = np.int32(max(1, round(losses * self.config.spectral.curriculum)))
        variables = super().measured(variables, source, steps=steps, folder=folder, say=say)
        return {**variables, PROGRESS: {"done": np.int32(0), "of": of}}

    def load_pretrained(
        self, variables: dict[str, PyTree], weights: PyTree | None = None, log=lambda text: None
    ) -> dict[str, PyTree]:
        """See `ImageTask.load_pretrained`."""
        weights = model_factory.read_weights(self.config) if weights is None else weights
        return encoders.put_weights(self.config, self.module, variables, weights, log)

    def check(self, sources: Mapping[str, Source]) -> None:
        """See `ImageTask.check`."""
        super().check(sources)
        c = self.config
        if c.report.enabled and len(self.names) > 1:
            embedding_figures.check_umap()
        name = c.spectral.reference_split
        classes = len(np.unique(sources[name].labels)) if name else 0
        if name and classes < 2:
            alone = f"{self.names[0]} alone is scored by classes: put the files in class folders"
            way = "set it to ''" if len(self.names) > 1 else alone
            raise impossible(
                c, "spectral.reference_split", f"{sources[name].name} has {classes} class there; {way}"
            )
        if len(self.names) == 1 and not name:
            raise impossible(
                c,
                "spectral.reference_split",
                f"{self.names[0]} alone has no retrieval: name a split with classes",
            )
        for split in c.data.eval_splits:
            names, counts = np.unique(np.asarray(sources[split].names, str), return_counts=True)
            if (counts > 1).any():
                raise UserError(
                    f"{sources[split].name} lists {names[counts > 1][0]} {counts.max()} times in {split!r}: an image has "
                    "one embedding, so list it once"
                )
        micro, images = c.train.batch_size // c.optim.accumulate, len(sources["train"])
        if micro < 2:
            raise impossible(c, "train.batch_size", "a micro-batch of one image has no negatives")
        if micro > images:
            few = f"{images} training images: a batch would hold an image twice, as its own negative"
            raise impossible(c, "train.batch_size", few)

    def loss(self, variables: dict[str, PyTree], batch: Batch, key: Array, *, groups: int):
        """Loss, metrics and updated collections of one (micro-)batch; see `Classification.loss`. `groups` is not used:
        negatives come from the whole batch."""
        drawn, dropout = jax.random.split(key)
        known, progress = variables[multispectral_inputs.COLLECTION], variables[PROGRESS]
        images = multispectral_inputs.unit(known, batch["image"])
        # Views beside each other: a device keeps the rows that it has.
        views = jnp.stack(augmentation.two_views(drawn, images, self.spec), 1)
        views = multispectral_inputs.normalise(known, views.reshape(-1, *views.shape[2:]))
        model = {
            name: tree
            for name, tree in variables.items()
            if name not in (multispectral_inputs.COLLECTION, PROGRESS)
        }
        mutable = [name for name in model if name != "params"]
        (made, aux), new = self.module.apply(
            model, views, train=True, rngs={"dropout": dropout}, mutable=mutable
        )
        made = {name: e.reshape(-1, 2, e.shape[-1]) for name, e in made.items()}
        total, parts = self._losses(made, aux, batch["valid"], progress)
        new = {**new, PROGRESS: {"done": progress["done"] + 1, "of": progress["of"]}}
        return total, (self._metrics(parts, made, aux, batch["valid"], progress), new)

    def _losses(
        self, made: Mapping[str, Array], aux: Mapping[str, Any], valid: Array, progress: Mapping[str, Array]
    ) -> tuple[Array, dict[str, Array]]:
        """The whole loss and its parts, of {modality: (B, 2, d)}."""
        c = self.config.spectral
        scale: dict[str, Any] = {"temperature": c.temperature}
        if "log_scale" in aux:
            scale = {"logit_scale": contrastive.clamped_scale(aux["log_scale"])}
        scale |= {"valid": valid, "chunk": c.chunk}
        intra = {n: contrastive.nt_xent(e[:, 0], e[:, 1], **scale) for n, e in made.items()}
        parts = {f"intra_{name}": value for name, value in intra.items()}
        if len(made) == 1:
            return next(iter(intra.values())), parts
        cross = [
            contrastive.info_nce(made[a][:, view], made[b][:, view], **scale)
            for a, b in combinations(made, 2)
            for view in (0, 1)
        ]
        done = progress["done"] / progress["of"]
        w_cross = contrastive.curriculum(done, 1, *c.cross_weight)
        w_intra = contrastive.curriculum(done, 1, *c.intra_weight) if c.intra_weight else None
        parts |= {"cross": sum(cross) / len(cross), "cross_weight": w_cross}
        return contrastive.total(parts["cross"], list(intra.values()), w_cross, w_intra), parts

    def _metrics(
        self,
        parts: Mapping[str, Array],
        made: Mapping[str, Array],
        aux: Mapping[str, Any],
        valid: Array,
        progress: Mapping[str, Array],
    ) -> dict[str, clu_metrics.Average]:
        """What a step logs. Nothing here enters the gradient."""
        aside, aux = jax.lax.stop_gradient((dict(made), {k: v for k, v in aux.items() if k == "log_scale"}))
        values = dict(parts)
        slopes = jax.grad(lambda e: self._losses(e, aux, valid, progress)[0])(aside)
        values |= {f"grad_norm_embedding_{name}": jnp.linalg.norm(g.ravel()) for name, g in slopes.items()}
        for a, b in combinations(made, 2):
            near, even = contrastive.alignment_uniformity(
                aside[a][:, 0], aside[b][:, 0], valid=valid, chunk=self.config.spectral.chunk
            )
            values |= {f"alignment_{a}_{b}": near, f"uniformity_{a}_{b}": even}
        if "log_scale" in aux:
            values["temperature"] = 1 / contrastive.clamped_scale(aux["log_scale"])
        one = jnp.ones(())
        return {
            name: clu_metrics.Average(total=jnp.asarray(jax.lax.stop_gradient(v), jnp.float32), count=one)
            for name, v in values.items()
        }

    def predict(self, variables: dict[str, PyTree], batch: Batch) -> dict[str, Array]:
        """What is known of every image.

        Returns:
            "embedding/<modality>" (B, d), unit, what the loss sees; "features/<modality>" and "features/combined" (B, D),
            before the projection.
        """
        embeddings, aux = self.module.apply(
            self._model(variables), **self.inputs(batch, variables), combined=True
        )
        out = {f"embedding/{name}": unit(e) for name, e in embeddings.items()}
        out |= {f"features/{name}": f for name, f in aux["features"].items()}
        return out | {f"features/{COMBINED}": aux["combined"].astype(jnp.float32)}

    def evaluate(self, outputs: Mapping[str, Outputs], sources: Mapping[str, Source]) -> dict[str, Result]:
        """Results by split; `spectral.reference_split` is what kNN and linear probe learn from, and is not scored.

        Args:
            outputs: by split, `predict`'s of all of it, with "index", "label" and "valid".
            sources: by split.
        """
        c, name = self.config.spectral, self.config.spectral.reference_split
        if name and name not in outputs:
            raise UserError(f"the classes are learned from the split {name!r}: evaluate it too")
        embedded = {split: _embedded(rows, self.names) for split, rows in outputs.items()}
        reference = embedded.get(name)
        return {
            split: cross_modal.evaluate(
                rows,
                self._look_alikes(sources[split])[rows.rows],
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

    def outcomes(
        self, results: Mapping[str, Result], outputs: Mapping[str, Outputs], sources: Mapping[str, Source]
    ) -> dict[str, np.ndarray]:
        """What happened to each example of "test", or else of the last result: see `evaluation.per_example`.

        Returns:
            Also "recall@1/<a>_to_<b>", whether the query of modality a found a right one first; "correct", whether kNN found
            the class; 0 or 1.
        """
        split = _main(results)
        result = results[split]
        order = np.argsort(result.split.rows, kind="stable")
        found = dict(result.hits) | ({} if result.correct is None else {"correct": result.correct})
        return {
            "name": per_example.names_of(sources[split], result.split.rows[order]),
            "split": np.array(split),
            "read": np.array([split]),
            **{name: np.asarray(hit, np.uint8)[order] for name, hit in found.items()},
        }

    def references(
        self,
        weights: PyTree | None,
        variables: dict[str, PyTree],
        batches: Callable[[str], Iterable[Any]],
        sources: Mapping[str, Source],
        mesh: Mesh,
    ) -> list[Baseline]:
        """What the published network's features of each modality reach by the same protocol; see `ImageTask.references`."""
        if weights is None:
            return []
        module = self.module.clone(fusion="separate", log_scale=None)
        data = variables[multispectral_inputs.COLLECTION]
        images = jnp.zeros((1, *image_shape(self.config.data), len(data["mean"])))
        plain = jax.device_get(jax.jit(module.init)(jax.random.key(0), images))
        plain = encoders.put_weights(self.config, module, plain, weights, lambda text: None)

        def predict(known: PyTree, batch: Batch) -> dict[str, Array]:
            _, aux = module.apply(plain_of(known), **self.inputs(batch, known), combined=True)
            features = aux["features"]
            made = {f"embedding/{name}": unit(f) for name, f in features.items()}
            return made | {f"features/{n}": f for n, f in {**features, COMBINED: aux["combined"]}.items()}

        def plain_of(known: PyTree) -> PyTree:
            return {name: tree for name, tree in known.items() if name != multispectral_inputs.COLLECTION}

        known = {**plain, multispectral_inputs.COLLECTION: data}
        outputs = {
            split: collect(jax.jit(predict), known, batches(split), mesh, output_names=self.keep)
            for split in sources
        }
        results = self.evaluate(outputs, sources)
        split = _main(results)
        note = (
            "the published network without training: its feature of each modality, same images, same protocol"
        )
        return [
            Baseline(f"frozen_{name}", f"{name}, frozen features", value, note)
            for name, value in results[split].scores.items()
            if name.startswith(("recall@", "knn", "probe"))
        ]

    def leave(
        self,
        folder: Path,
        variables: dict[str, PyTree],
        outputs: Mapping[str, Outputs],
        sources: Mapping[str, Source],
    ) -> None:
        """Writes embeddings/<split>.npz and .parquet, embeddings/<split>_features.* and towers/<modality>.safetensors."""
        encoders.write(folder, self.module, variables, self.config.model.name)
        for split, rows in outputs.items():
            found, source = _embedded(rows, self.names), sources[split]
            names = per_example.names_of(source, found.rows).tolist()
            features = {name: f for name, f in found.features.items() if name != COMBINED}
            for ending, values in (("", found.embeddings), ("_features", features)):
                content = export.Embeddings(names, found.labels, source.class_names, values)
                for suffix in export.SUFFIXES:
                    export.write(Path(folder) / "embeddings" / f"{split}{ending}{suffix}", content)

    def report(
        self, results: Mapping[str, Result], outputs: Mapping[str, Outputs], sources: Mapping[str, Source]
    ) -> dict[str, Any]:
        """Fields of `interpret.report.ReportContent`: scores, a map and a heat map of both modalities, retrieval examples."""
        split = _main(results)
        return spectral_report.fields(self.config, self.modalities, split, results, sources[split])

    @property
    def frozen(self) -> tuple[str, ...]:
        """See `ImageTask.frozen`."""
        return encoders.frozen(self.module)

    def _model(self, variables: dict[str, PyTree]) -> dict[str, PyTree]:
        return {
            name: tree
            for name, tree in variables.items()
            if name not in (multispectral_inputs.COLLECTION, PROGRESS)
        }

    def _look_alikes(self, source: Source) -> np.ndarray:
        """Of a split, by the modalities that train; found once a run."""
        if source.split not in self._alike:
            self._alike[source.split] = channels_lib.look_alikes(source, self.names)
        return self._alike[source.split]


def _embedded(rows: Outputs, names: Sequence[str]) -> Embedded:
    """The images that could be read, in the order of the source; modalities in that of `names`, since what a compiled program
    gives back is sorted."""
    good = np.flatnonzero((rows["valid"] > 0) & (rows["index"] >= 0))
    good = good[np.argsort(rows["index"][good], kind="stable")]
    embeddings, features = (
        {name: np.asarray(rows[f"{kind}/{name}"], np.float32)[good] for name in known}
        for kind, known in (("embedding", names), ("features", (*names, COMBINED)))
    )
    return Embedded(embeddings, features, rows["index"][good], rows["label"][good])


def _main(results: Mapping[str, Result]) -> str:
    return "test" if "test" in results else list(results)[-1]


def _augmentation(config: ConfigDict, named: channels_lib.ChannelMap) -> augmentation.Spec:
    """What `config.spectral` asks for; a UserError names the field's value where it cannot be."""
    c = config.spectral
    geometry = augmentation.Geometry(
        c.crop_probability, tuple(c.crop_area), tuple(c.crop_aspect), c.flip_probability, c.rotation_probability,
        c.degrees,
    )  # fmt: skip
    operations: list[augmentation.Colour | augmentation.Intensity] = []
    for name, members in named.modalities:
        if name in c.colour:
            if len(members) != 3:
                raise impossible(config, "spectral.colour", f"{name!r} has {len(members)} channels, not 3")
            operations.append(
                augmentation.Colour(
                    members, c.jitter_probability, c.brightness, c.contrast, c.saturation, c.hue,
                    c.grayscale_probability, c.blur_probability, tuple(c.blur_sigma),
                )
            )  # fmt: skip
        if name in c.intensity:
            operations.append(
                augmentation.Intensity(
                    members, c.noise_probability, c.noise_sigma, c.gamma_probability, tuple(c.gamma)
                )
            )
    return augmentation.Spec(geometry, tuple(operations))
