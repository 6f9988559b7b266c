"""Contrastive learning across modalities: embeddings in which the RGB and the UV channels of an image are near each other."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics
from ml_collections import ConfigDict

from fusionjax.config import impossible
from fusionjax.data.multispectral import channels as channels_lib
from fusionjax.data.source import Source
from fusionjax.errors import UserError
from fusionjax.evaluation import export
from fusionjax.evaluation import per_example as per_example_lib
from fusionjax.evaluation.cross_modal import COMBINED
from fusionjax.interpret import embedding_figures
from fusionjax.models.methods.spectral import SpectralEncoder
from fusionjax.tasks.base import multispectral_inputs
from fusionjax.tasks.base.class_scorer import headline
from fusionjax.tasks.base.image_inputs import ImageInputs
from fusionjax.tasks.base.image_model import ImageModel
from fusionjax.tasks.base.protocol import (
    Batch,
    Evaluated,
    Facts,
    LossOutput,
    ReportFields,
    Say,
    Task,
    Variables,
)
from fusionjax.tasks.contrastive import encoders
from fusionjax.tasks.contrastive import report as report_lib
from fusionjax.tasks.contrastive.scorer import ContrastiveScorer, embedded_rows
from fusionjax.train import contrastive
from fusionjax.train.augment import multispectral as augmentation
from fusionjax.types import Aux, PyTree

PROGRESS = "progress"
"""Collection: "done", losses so far, and "of", how many until the curriculum ends."""


def create(config: ConfigDict, facts: Facts) -> Task:
    """Two views of every image, each with the same geometry in all modalities: InfoNCE between the modalities of a view,
    NT-Xent between the views of a modality. Source: docs/methods/contrastive.md.

    Args:
        config: of the whole run, validated.
        facts: of the data; its classes are used by the evaluation alone.

    Raises:
        UserError: a model that cannot be built, or data that cannot be scored.
    """
    named, c = multispectral_inputs.required_channels(config), config.spectral
    modalities = tuple(m for m in named.modalities if m[0] in (c.train_on or named.modality_names))
    spec = augmentation_of(config, named)
    module = encoders.create(config, modalities)
    multispectral_inputs.check(config, facts.splits.values())
    if facts.train is not None:
        check(config, facts, module.names)
    inputs = ImageInputs(config)
    separate = module.fusion == "separate"
    model = ImageModel(
        config,
        module,
        inputs,
        put_weights=functools.partial(encoders.put_weights, config, module),
        collections=(Progress(config),),
        frozen=encoders.frozen(module),
        gradient_norms={name: f"tower_{name}/" for name in module.names} if separate else {},
        grid=getattr(module, "grid", None),
    )
    duplicate_groups = functools.cache(
        functools.partial(channels_lib.duplicate_groups, modalities=module.names)
    )
    return Task(
        config,
        facts.class_names,
        model,
        inputs,
        ContrastiveObjective(model, spec),
        ContrastiveScorer(config, model, duplicate_groups),
        (RetrievalSection(config, modalities),),
        export=EmbeddingExport(config, module.names, model),
    )


def check(config: ConfigDict, facts: Facts, names: Sequence[str]) -> None:
    """Raises a UserError where the data cannot be trained on or evaluated.

    Args:
        config: of the whole run.
        facts: of the data.
        names: of the modalities that train.
    """
    c = config
    if c.report.enabled and len(names) > 1:
        embedding_figures.check_umap()
    reference = c.spectral.reference_split
    classes = len(np.unique(facts.evaluation[reference].labels)) if reference else 0
    if reference and classes < 2:
        alone = f"{names[0]} alone is scored by classes: put the files in class folders"
        way = "set it to ''" if len(names) > 1 else alone
        raise impossible(
            c,
            "spectral.reference_split",
            f"{facts.evaluation[reference].name} has {classes} class there; {way}",
        )
    if len(names) == 1 and not reference:
        raise impossible(
            c,
            "spectral.reference_split",
            f"{names[0]} alone has no retrieval: name a split with classes",
        )
    for split, source in facts.evaluation.items():
        listed, counts = np.unique(np.asarray(source.names, str), return_counts=True)
        if (counts > 1).any():
            raise UserError(
                f"{source.name} lists {listed[counts > 1][0]} {counts.max()} times in {split!r}: an image has "
                "one embedding, so list it once"
            )
    micro, images = c.train.batch_size // c.optim.accumulate, len(facts.training())
    if micro < 2:
        raise impossible(c, "train.batch_size", "a micro-batch of one image has no negatives")
    if micro > images:
        few = f"{images} training images: a batch would hold an image twice, as its own negative"
        raise impossible(c, "train.batch_size", few)


@dataclasses.dataclass(frozen=True, eq=False)
class Progress:
    """The progress of the curriculum, as variables of the run; see `image_model.Collection`.

    Attributes:
        config: of the whole run.
    """

    config: ConfigDict
    name: str = PROGRESS

    def fresh(self) -> dict[str, jax.Array]:
        """See `Collection.fresh`."""
        one = jnp.ones((), jnp.int32)
        return {"done": 0 * one, "of": one}

    def from_params(self, params: PyTree) -> None:
        """See `Collection.from_params`."""
        return None

    def from_data(self, source: Source, *, steps: int, folder: Path, say: Say) -> dict[str, np.int32]:
        """See `Collection.from_data`."""
        losses = steps * self.config.optim.accumulate
        return {
            "done": np.int32(0),
            "of": np.int32(max(1, round(losses * self.config.spectral.curriculum))),
        }


@dataclasses.dataclass(frozen=True, eq=False)
class ContrastiveObjective:
    """The weighted sum of the losses across and within modalities.

    Attributes:
        model: of the task.
        spec: of the augmentation that draws the views.
    """

    model: ImageModel[SpectralEncoder]
    spec: augmentation.Spec

    def __call__(self, variables: Variables, batch: Batch, key: jax.Array, *, groups: int) -> LossOutput:
        """See `protocol.Objective`; `groups` is not read: negatives come from the whole batch."""
        drawn, dropout = jax.random.split(key)
        known, progress = variables[multispectral_inputs.COLLECTION], variables[PROGRESS]
        images = multispectral_inputs.unit(known, batch["image"])
        # The views of an image are adjacent, so that each device keeps its own rows.
        views = jnp.stack(augmentation.two_views(drawn, images, self.spec), 1)
        views = multispectral_inputs.normalise(known, views.reshape(-1, *views.shape[2:]))
        (made, aux), new = self.model.train(variables, dropout, images=views)
        made = {name: e.reshape(-1, 2, e.shape[-1]) for name, e in made.items()}
        total, parts = self._losses(made, aux, batch["valid"], progress)
        new = {**new, PROGRESS: {"done": progress["done"] + 1, "of": progress["of"]}}
        return total, (self._metrics(parts, made, aux, batch["valid"], progress), new)

    def _losses(
        self,
        made: Mapping[str, jax.Array],
        aux: Aux,
        valid: jax.Array,
        progress: Mapping[str, jax.Array],
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The whole loss and its parts, of {modality: (B, 2, d)}."""
        c = self.model.config.spectral
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
        parts |= {"cross": jnp.asarray(sum(cross)) / len(cross), "cross_weight": w_cross}
        return contrastive.total(parts["cross"], list(intra.values()), w_cross, w_intra), parts

    def _metrics(
        self,
        parts: Mapping[str, jax.Array],
        made: Mapping[str, jax.Array],
        aux: Aux,
        valid: jax.Array,
        progress: Mapping[str, jax.Array],
    ) -> dict[str, clu_metrics.Average]:
        """The metrics of a step; no gradient flows through them."""
        aside, aux = jax.lax.stop_gradient((dict(made), {k: v for k, v in aux.items() if k == "log_scale"}))
        values = dict(parts)
        slopes = jax.grad(lambda e: self._losses(e, aux, valid, progress)[0])(aside)
        values |= {f"grad_norm_embedding_{name}": jnp.linalg.norm(g.ravel()) for name, g in slopes.items()}
        for a, b in combinations(made, 2):
            near, even = contrastive.alignment_uniformity(
                aside[a][:, 0], aside[b][:, 0], valid=valid, chunk=self.model.config.spectral.chunk
            )
            values |= {f"alignment_{a}_{b}": near, f"uniformity_{a}_{b}": even}
        if "log_scale" in aux:
            values["temperature"] = 1 / contrastive.clamped_scale(aux["log_scale"])
        one = jnp.ones(())
        return {
            name: clu_metrics.Average(total=jnp.asarray(jax.lax.stop_gradient(v), jnp.float32), count=one)
            for name, v in values.items()
        }


@dataclasses.dataclass(frozen=True, eq=False)
class RetrievalSection:
    """See `protocol.ReportSection`: scores, a map and a heat map of both modalities, retrieval examples.

    Attributes:
        config: of the whole run.
        modalities: (name, indices of its channels) for each that trains.
    """

    config: ConfigDict
    modalities: Sequence[tuple[str, Sequence[int]]]

    def __call__(self, run: Evaluated) -> ReportFields:
        """See `report.fields`."""
        split = headline(run.results)
        return report_lib.fields(self.config, self.modalities, split, run.results, run.sources[split])


@dataclasses.dataclass(frozen=True, eq=False)
class EmbeddingExport:
    """See `protocol.Exporter`.

    Attributes:
        config: of the whole run.
        names: of the modalities that train.
        model: of the task.
    """

    config: ConfigDict
    names: Sequence[str]
    model: ImageModel[SpectralEncoder]

    def __call__(self, folder: Path, run: Evaluated) -> None:
        """Writes embeddings/<split>.npz and .parquet, embeddings/<split>_features.* and towers/<modality>.safetensors."""
        encoders.write(folder, self.model.module, run.variables, self.config.model.name)
        for split, rows in run.outputs.items():
            found, source = embedded_rows(rows, self.names), run.sources[split]
            names = per_example_lib.names_of(source, found.rows).tolist()
            features = {name: f for name, f in found.features.items() if name != COMBINED}
            for ending, values in (("", found.embeddings), ("_features", features)):
                content = export.Embeddings(names, found.labels, source.class_names, values)
                for suffix in export.SUFFIXES:
                    export.write(Path(folder) / "embeddings" / f"{split}{ending}{suffix}", content)


def augmentation_of(config: ConfigDict, named: channels_lib.ChannelMap) -> augmentation.Spec:
    """The augmentation that `config.spectral` asks for; a UserError names the field's value where it cannot be."""
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
