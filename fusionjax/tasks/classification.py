"""One label an image: a plain ViT, or DCAL with its branches."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics
from ml_collections import ConfigDict

from fusionjax import models, pretrained
from fusionjax.config import ABLATIONS, impossible
from fusionjax.errors import UserError
from fusionjax.evaluation import classification
from fusionjax.models.dcal import DCAL, derangement
from fusionjax.models.registry import backbone
from fusionjax.tasks.inputs import normalise
from fusionjax.train import losses

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
        self.module = build(config, len(self.class_names))
        self.dcal = isinstance(self.module, DCAL)
        self.branches = (
            ("sa", "glca", "combined") if self.dcal and "glca" in self.module.branches else ("combined",)
        )

    def init(self, key: Array) -> dict[str, PyTree]:
        """Fresh variables; pure, so it can be jitted or given to `eval_shape`."""
        size = self.config.data.image_size
        return self.module.init({"params": key}, jnp.zeros((1, size, size, 3), jnp.float32))

    def load_pretrained(self, variables: dict[str, PyTree], log=lambda text: None) -> dict[str, PyTree]:
        """`variables` with the weights that the config names put in; unchanged where it names none."""
        c = self.config.pretrained
        if not c.source:
            return variables
        name = c.name or (self.config.model.trunk if c.into == "trunk" else backbone(self.config.model.name))
        weights = pretrained.load(c.source, name)
        if c.into:
            return _merge_trunk(variables, weights, skip=c.skip, log=log)
        new = ("glca_.*", "log_variance_.*") if self.dcal else ()
        return pretrained.merge(variables, weights, skip=c.skip, new=new, grid=self.grid, log=log)

    def loss(self, variables: dict[str, PyTree], batch: Batch, key: Array, *, groups: int):
        """Loss, metrics and updated collections of one (micro-)batch.

        Args:
            variables: of the model.
            batch: `image` or `features`, `label`, `valid`.
            key: for dropout, stochastic depth and PWCA's pairs.
            groups: number of pairing groups in the batch.
        """
        dropout, pairs = jax.random.split(key)
        size = batch["label"].shape[0]
        extra = {"partner": derangement(pairs, groups, size // groups)} if self._pairs() else {}
        mutable = [name for name in variables if name != "params"]
        apply = self.module.apply
        (output, aux), new = apply(
            variables, **self._inputs(batch), train=True, rngs={"dropout": dropout}, mutable=mutable, **extra
        )
        label, valid = batch["label"], batch["valid"]
        smoothing = self.config.loss.label_smoothing

        def mean_loss(logits: Array) -> Array:
            return losses.masked_mean(losses.cross_entropy(logits, label, label_smoothing=smoothing), valid)

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
            patch tokens, and "selected" (B, k), the indices of the selected ones.
        """
        output, aux = self.module.apply(variables, **self._inputs(batch), train=False)
        out = {"probabilities/combined": jax.nn.softmax(output)}
        for b in self.branches[:-1]:
            out[f"probabilities/{b}"] = jax.nn.softmax(aux["logits"][b])
        if "rollout" in aux:
            out["rollout"], out["selected"] = aux["rollout"][:, 1:], aux["selected"][:, 1:] - 1
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
        return ("^trunk/",) if self.module.trunk is not None and self.module.freeze_trunk else ()

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
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patch tokens."""
        return self.module.grid

    def _pairs(self) -> bool:
        return self.dcal and "pwca" in self.module.branches

    def _inputs(self, batch: Batch) -> dict[str, Array]:
        if "features" in batch:
            return {"features": batch["features"].astype(self.module.dtype)}
        return {"images": normalise(batch["image"], self.config.data.mean, self.config.data.std)}


def build(config: ConfigDict, num_classes: int) -> nn.Module:
    """The module of `config.model`.

    Raises:
        UserError: a name or field that is not known, or an impossible combination.
    """
    fields: dict[str, Any] = {
        "num_classes": num_classes,
        "image_size": config.data.image_size,
        "dtype": jnp.dtype(config.precision).type,
    }
    c = config.model
    for key in ("width", "depth", "heads", "patch", "mlp_ratio"):
        if c[key]:
            fields[key] = c[key]
    fields |= {key: c[key] for key in ("drop_path", "dropout", "remat", "freeze_trunk", "trunk_norm")}
    if c.trunk:
        fields["trunk"] = c.trunk
        fields |= {key: c[key] for key in ("trunk_features", "train_trunk_from") if c[key]}
    if c.name.startswith("dcal_"):
        fields |= {key: c[key] for key in ("ratio", "glca_input", "partner_stream")}
        fields |= {"branches": ABLATIONS[c.ablation], "uncertainty_init": config.loss.uncertainty_init}
    elif c.ablation not in ("full", "sa_only"):
        raise impossible(config, "model.ablation", f"it needs a dcal_ model, not {c.name!r}")
    return models.create(c.name, **fields)


def _merge_trunk(variables: PyTree, weights: PyTree, *, skip: Sequence[str], log: Any) -> PyTree:
    """A convolutional network's weights into the model's trunk, and into its neck where that is its upper part."""
    parts = [part for part in ("trunk", "neck") if part in variables["params"]]
    owned = {part: set(variables["params"][part]) for part in parts}
    # The classifier, and the last convolution where an earlier map is the token grid, have no place here; all else has.
    lost = set(weights["params"]) - set().union(*owned.values()) - {"head", "head_conv"}
    if lost:
        raise UserError(f"the weights' {', '.join(sorted(lost))} have no place in the trunk")
    for part in parts:
        own = {name: {k: v for k, v in tree.items() if k in owned[part]} for name, tree in weights.items()}
        variables = pretrained.merge(variables, own, skip=skip, into=part, log=log)
    return variables


def _average(values: Array, valid: Array) -> clu_metrics.Average:
    return clu_metrics.Average(
        total=jnp.where(valid > 0, values, 0).sum(dtype=jnp.float32), count=valid.sum()
    )
