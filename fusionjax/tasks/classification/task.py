"""One label an image: DCAL with its branches, a plain ViT, CrossViT, or a convolutional network."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from clu import metrics as clu_metrics
from ml_collections import ConfigDict

from fusionjax.data.source import Source
from fusionjax.evaluation import classification
from fusionjax.models.backbones.crossvit import CrossViT
from fusionjax.models.methods.dcal import DCAL, derangement
from fusionjax.tasks.base import model_factory
from fusionjax.tasks.base.class_task import ClassTask
from fusionjax.tasks.base.image_task import Array, Batch, Outputs, PyTree, average
from fusionjax.train import losses
from fusionjax.train.augment import mix


class Classification(ClassTask):
    """One class an image.

    Args:
        config: of the whole run, validated.
        class_names: one a class.

    Attributes:
        branches: names of the outputs that are scored, "combined" (the answer) last.
    """

    shown = ("accuracy", "accuracy_sa", "accuracy_glca")

    def __init__(self, config: ConfigDict, class_names: Sequence[str]):
        super().__init__(config, class_names, model_factory.image_model(config, len(class_names)))
        self.dcal = isinstance(self.module, DCAL)
        self.crossvit = isinstance(self.module, CrossViT)
        self.branches = (
            ("sa", "glca", "combined") if self.dcal and "glca" in self.module.branches else ("combined",)
        )
        branches = (f"accuracy_{b}" for b in self.branches[:-1])
        self.score_names = (*classification.SCALARS, "accuracy_low", "accuracy_high", *branches)

    def loss(self, variables: dict[str, PyTree], batch: Batch, key: Array, *, groups: int):
        """Loss, metrics and updated collections of one (micro-)batch.

        Args:
            variables: of the model.
            batch: `image` or `features`, `label`, `valid`.
            key: for dropout, stochastic depth and PWCA's pairs.
            groups: number of groups in the batch within which PWCA pairs and mixing mixes.
        """
        dropout, pairs = jax.random.split(key)
        size = batch["label"].shape[0]
        extra = {"partner": derangement(pairs, groups, size // groups)} if self._pairs() else {}
        mutable = [name for name in variables if name != "params"]
        apply = self.module.apply
        inputs, target = self._mixed(self.inputs(batch, variables), batch, jax.random.fold_in(key, 2), groups)
        (output, aux), new = apply(
            variables, **inputs, train=True, rngs={"dropout": dropout}, mutable=mutable, **extra
        )
        valid = batch["valid"]
        label = target if target.ndim == 1 else target.argmax(-1)

        def mean_loss(logits: Array) -> Array:
            return losses.masked_mean(self.example_losses(logits, target), valid)

        metrics = {"accuracy": average(output.argmax(-1) == label, valid)}
        if not self.dcal:
            return mean_loss(output), (metrics, new)
        by_branch = {b: mean_loss(logits) for b, logits in aux["logits"].items()}
        for b, value in by_branch.items():
            metrics[f"loss_{b}"] = clu_metrics.Average(total=value, count=jnp.ones(()))
            metrics[f"accuracy_{b}"] = average(aux["logits"][b].argmax(-1) == label, valid)
        if self.config.loss.branch_weighting == "sum":
            return sum(by_branch.values()), (metrics, new)
        return losses.uncertainty_weighted(by_branch, aux["log_variances"]), (metrics, new)

    def predict(self, variables: dict[str, PyTree], batch: Batch) -> dict[str, Array]:
        """What is known of every example.

        Returns:
            "probabilities/<branch>" (B, C) for each of `branches`; with GLCA also "rollout" (B, N − 1), the weights of the
            patch tokens, and "selected" (B, k), the indices of the selected ones. Of a CrossViT "rollout" is what its first
            branch's CLS takes from the patches of the second in the last fusion, (B, N_1 − 1).
        """
        capture = {"capture": ("fusion",)} if self.crossvit else {}
        output, aux = self.module.apply(variables, **self.inputs(batch, variables), train=False, **capture)
        out = {"probabilities/combined": jax.nn.softmax(output)}
        for b in self.branches[:-1]:
            out[f"probabilities/{b}"] = jax.nn.softmax(aux["logits"][b])
        if "rollout" in aux:
            out["rollout"], out["selected"] = aux["rollout"][:, 1:], aux["selected"][:, 1:] - 1
        if self.crossvit:
            last = aux["fusion"][f"stage_{len(self.module.depth) - 1}/fusion_0"]
            out["rollout"] = last[-1, :, :, 0, 1:].mean(1)
        return out

    def report(
        self, results: Any, outputs: Mapping[str, Outputs], sources: Mapping[str, Source]
    ) -> dict[str, Any]:
        """Fields of `interpret.report.ReportContent` that are this task's."""
        fields = {"task": f"One of {len(self.class_names)} classes for each image.", "results": results}
        if self.crossvit:
            fields["map_name"] = "cross-attention of the last fusion"
            fields["map_text"] = (
                "how much the first branch's class token takes from each patch of the second, mean of the heads"
            )
        return fields

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the map that `predict` calls "rollout"; None for a model without one."""
        if self.crossvit:
            (rows, columns), patch = self.module.sizes[1], self.module.patch_size[1]
            return rows // patch, columns // patch
        return super().grid

    def _pairs(self) -> bool:
        return self.dcal and "pwca" in self.module.branches

    def _mixed(self, inputs: dict[str, Array], batch: Batch, key: Array, groups: int) -> tuple[Any, Array]:
        """The model's inputs and targets after mixup or CutMix; as they are where neither is on."""
        c = self.config.loss
        if not (c.mixup or c.cutmix):
            return inputs, batch["label"]
        name = "features" if "features" in inputs else "images"
        images = inputs[name]
        # An image that did not decode is no class: its share of a mixture counts for nothing.
        target = mix.soft(batch["label"], len(self.class_names)) * batch["valid"][:, None]
        images, target = mix.mix(
            key, images, target, mixup_alpha=c.mixup, cutmix_alpha=c.cutmix, groups=groups
        )
        return {**inputs, name: images}, target
