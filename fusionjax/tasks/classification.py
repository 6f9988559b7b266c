"""One label an image: DCAL with its branches, a plain ViT, CrossViT, or a convolutional network."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics
from ml_collections import ConfigDict

from fusionjax.evaluation import classification
from fusionjax.models.crossvit import CrossViT
from fusionjax.models.dcal import DCAL, derangement
from fusionjax.tasks import building
from fusionjax.tasks.inputs import normalise
from fusionjax.train import losses, mix

Array = jax.Array
PyTree = Any
Batch = dict[str, Array]


class Classification:
    """Builds the model and says how it learns, predicts and is scored.

    Args:
        config: of the whole run, validated.
        class_names: one a class.

    Attributes:
        module: the linen module.
        branches: names of the outputs that are scored, "combined" (the answer) last.
        shown: scores of the progress line.
        lower_is_better: scores of which the best is the lowest.
    """

    shown = ("accuracy", "accuracy_sa", "accuracy_glca")
    lower_is_better = ("nll", "ece")

    def __init__(self, config: ConfigDict, class_names: Sequence[str]):
        self.config, self.class_names = config, tuple(class_names)
        self.module = building.image_model(config, len(self.class_names))
        self.dcal = isinstance(self.module, DCAL)
        self.crossvit = isinstance(self.module, CrossViT)
        self.branches = (
            ("sa", "glca", "combined") if self.dcal and "glca" in self.module.branches else ("combined",)
        )

    def init(self, key: Array) -> dict[str, PyTree]:
        """Fresh variables; pure, so it can be jitted or given to `eval_shape`."""
        size = self.config.data.image_size
        return self.module.init({"params": key}, jnp.zeros((1, size, size, 3), jnp.float32))

    def load_pretrained(self, variables: dict[str, PyTree], log=lambda text: None) -> dict[str, PyTree]:
        """`variables` with the weights that the config names put in; unchanged where it names none."""
        return building.load_pretrained(self.config, self.module, variables, log)

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
        inputs, target = self._mixed(self._inputs(batch), batch, jax.random.fold_in(key, 2), groups)
        (output, aux), new = apply(
            variables, **inputs, train=True, rngs={"dropout": dropout}, mutable=mutable, **extra
        )
        valid, smoothing = batch["valid"], self.config.loss.label_smoothing
        label = target if target.ndim == 1 else target.argmax(-1)

        def mean_loss(logits: Array) -> Array:
            return losses.masked_mean(losses.cross_entropy(logits, target, label_smoothing=smoothing), valid)

        metrics = {"accuracy": _average(output.argmax(-1) == label, valid)}
        if not self.dcal:
            return mean_loss(output), (metrics, new)
        by_branch = {b: mean_loss(logits) for b, logits in aux["logits"].items()}
        for b, value in by_branch.items():
            metrics[f"loss_{b}"] = clu_metrics.Average(total=value, count=jnp.ones(()))
            metrics[f"accuracy_{b}"] = _average(aux["logits"][b].argmax(-1) == label, valid)
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
        output, aux = self.module.apply(variables, **self._inputs(batch), train=False, **capture)
        out = {"probabilities/combined": jax.nn.softmax(output)}
        for b in self.branches[:-1]:
            out[f"probabilities/{b}"] = jax.nn.softmax(aux["logits"][b])
        if "rollout" in aux:
            out["rollout"], out["selected"] = aux["rollout"][:, 1:], aux["selected"][:, 1:] - 1
        if self.crossvit:
            last = aux["fusion"][f"stage_{len(self.module.depth) - 1}/fusion_0"]
            out["rollout"] = last[-1, :, :, 0, 1:].mean(1)
        return out

    def encode(self, variables: dict[str, PyTree], batch: Batch) -> Array:
        """The frozen trunk's feature map of a batch of images, (B, h, w, C): what a cache holds."""
        images = self._inputs(batch)["images"]
        return self.module.apply(variables, images, method="run_trunk")

    def pool(self, variables: dict[str, PyTree], features: Array) -> Array:
        """A row a feature map, (B, C): the convolutional network's mean over the grid, for a linear probe."""
        return self.module.apply(variables, features.astype(self.module.dtype), method="pool_trunk")

    def evaluate(self, outputs: dict[str, np.ndarray]) -> dict[str, classification.Result]:
        """Scores by branch.

        Args:
            outputs: `predict`'s, of a whole split, with "label" and "valid".
        """
        return {
            b: classification.evaluate(
                outputs[f"probabilities/{b}"],
                outputs["label"],
                outputs["valid"],
                self.class_names,
                seed=self.config.seed,
            )
            for b in self.branches
        }

    def scalars(self, results: dict[str, classification.Result]) -> dict[str, float]:
        """Flat names: the answer's bare, a branch's with its name, e.g. accuracy and accuracy_glca."""
        flat = dict(results["combined"].scalars())
        for b in self.branches[:-1]:
            flat[f"accuracy_{b}"] = results[b].accuracy
        return flat

    @property
    def frozen(self) -> tuple[str, ...]:
        """Patterns of parameters that must not move, weight decay included."""
        return ("^trunk/",) if getattr(self.module, "freeze_trunk", False) and self.config.model.trunk else ()

    @property
    def maps(self) -> dict[str, str]:
        """What the report says of the map that `predict` calls "rollout"; empty where it is attention rollout, or absent."""
        if not self.crossvit:
            return {}
        text = "how much the first branch's class token takes from each patch of the second, mean of the heads"
        return {"map_name": "cross-attention of the last fusion", "map_text": text}

    @property
    def score_names(self) -> tuple[str, ...]:
        """Names that `scalars` gives."""
        return (
            *classification.SCALARS,
            "accuracy_low",
            "accuracy_high",
            *(f"accuracy_{b}" for b in self.branches[:-1]),
        )

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the map that `predict` calls "rollout"; None for a model without one."""
        if self.crossvit:
            (rows, columns), patch = self.module.sizes[1], self.module.patch_size[1]
            return rows // patch, columns // patch
        return getattr(self.module, "grid", None)

    def _pairs(self) -> bool:
        return self.dcal and "pwca" in self.module.branches

    def _mixed(self, inputs: dict[str, Array], batch: Batch, key: Array, groups: int) -> tuple[Any, Array]:
        """The model's inputs and targets after mixup or CutMix; as they are where neither is on."""
        c = self.config.loss
        if not (c.mixup or c.cutmix):
            return inputs, batch["label"]
        ((name, images),) = inputs.items()
        # An image that did not decode is no class: its share of a mixture counts for nothing.
        target = mix.soft(batch["label"], len(self.class_names)) * batch["valid"][:, None]
        images, target = mix.mix(
            key, images, target, mixup_alpha=c.mixup, cutmix_alpha=c.cutmix, groups=groups
        )
        return {name: images}, target

    def _inputs(self, batch: Batch) -> dict[str, Array]:
        if "features" in batch:
            return {"features": batch["features"].astype(self.module.dtype)}
        return {"images": normalise(batch["image"], self.config.data.mean, self.config.data.std)}


def _average(values: Array, valid: Array) -> clu_metrics.Average:
    return clu_metrics.Average(
        total=jnp.where(valid > 0, values, 0).sum(dtype=jnp.float32), count=valid.sum()
    )
