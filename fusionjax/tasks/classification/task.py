"""One label per image: DCAL with its branches, a plain ViT, CrossViT, or a convolutional network."""

import dataclasses
import functools
from typing import Any

import jax
from ml_collections import ConfigDict

from fusionjax.models.backbones.crossvit import CrossViT
from fusionjax.models.methods.dcal import DCAL, derangement
from fusionjax.tasks.base import model_factory, multispectral_inputs, pairing
from fusionjax.tasks.base.class_scorer import ClassScorer, results_section
from fusionjax.tasks.base.explanations import MapsOnly, glca_selection
from fusionjax.tasks.base.image_inputs import ImageInputs
from fusionjax.tasks.base.image_model import ImageModel, frozen_trunk
from fusionjax.tasks.base.objectives import ExampleLoss, average, class_weights, single
from fusionjax.tasks.base.protocol import Batch, Evaluated, Facts, ReportFields, Task, Variables
from fusionjax.train import losses
from fusionjax.train.augment import mix


def create(config: ConfigDict, facts: Facts) -> Task:
    """Classification of images.

    Args:
        config: of the whole run, validated.
        facts: of the data.

    Raises:
        UserError: a model that cannot be built, or channels other than the config names.
    """
    module = model_factory.image_model(config, len(facts.class_names))
    multispectral_inputs.check(config, facts.splits.values())
    inputs = ImageInputs(config)
    crossvit = isinstance(module, CrossViT)
    model = ImageModel(
        config,
        module,
        inputs,
        frozen=frozen_trunk(config),
        grid=second_grid(module) if crossvit else getattr(module, "grid", None),
    )
    example_loss = ExampleLoss(config, class_weights(config, facts.class_names, facts.train))
    glca = isinstance(module, DCAL) and "glca" in module.branches
    branches = ("sa", "glca", "combined") if glca else ("combined",)
    predict = CrossVitPredictor(model) if crossvit else BranchPredictor(model, branches)
    scorer = ClassScorer(
        config, facts.class_names, predict, branches, shown=("accuracy", "accuracy_sa", "accuracy_glca")
    )
    sections = [results_section(f"One of {len(facts.class_names)} classes for each image.")]
    return Task(
        config,
        facts.class_names,
        model,
        inputs,
        ClassificationObjective(model, example_loss, len(facts.class_names)),
        scorer,
        (*sections, fusion_map_section) if crossvit else tuple(sections),
        MapsOnly(predict),
        check_devices=functools.partial(pairing.check_devices, config, module),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class ClassificationObjective:
    """The mean loss of the examples; of DCAL that of each branch, weighted by uncertainty or summed.

    Attributes:
        model: of the task.
        example_loss: (logits, target) → (B,).
        classes: C.
    """

    model: ImageModel
    example_loss: ExampleLoss
    classes: int

    def __call__(self, variables: Variables, batch: Batch, key: jax.Array, *, groups: int) -> Any:
        """See `protocol.Objective`; PWCA pairs and mixing mixes within a group."""
        module, config = self.model.module, self.model.config
        dropout, pairs = jax.random.split(key)
        size = batch["label"].shape[0]
        dcal = isinstance(module, DCAL)
        paired = dcal and "pwca" in module.branches
        extra = {"partner": derangement(pairs, groups, size // groups)} if paired else {}
        arguments = self.model.inputs.arguments(batch, variables)
        arguments, target = self.mixed(arguments, batch, jax.random.fold_in(key, 2), groups)
        (output, aux), new = self.model.train(variables, dropout, **arguments, **extra)
        valid = batch["valid"]
        label = target if target.ndim == 1 else target.argmax(-1)

        def mean_loss(logits: jax.Array) -> jax.Array:
            return losses.masked_mean(self.example_loss(logits, target), valid)

        metrics = {"accuracy": average(output.argmax(-1) == label, valid)}
        if not dcal:
            return mean_loss(output), (metrics, new)
        by_branch = {b: mean_loss(logits) for b, logits in aux["logits"].items()}
        for b, value in by_branch.items():
            metrics[f"loss_{b}"] = single(value)
            metrics[f"accuracy_{b}"] = average(aux["logits"][b].argmax(-1) == label, valid)
        if config.loss.branch_weighting == "sum":
            return sum(by_branch.values()), (metrics, new)
        return losses.uncertainty_weighted(by_branch, aux["log_variances"]), (metrics, new)

    def mixed(
        self, arguments: dict[str, Any], batch: Batch, key: jax.Array, groups: int
    ) -> tuple[dict[str, Any], jax.Array]:
        """The model's arguments and targets after mixup or CutMix; unchanged where neither is on."""
        c = self.model.config.loss
        if not (c.mixup or c.cutmix):
            return arguments, batch["label"]
        name = "features" if "features" in arguments else "images"
        # An image that did not decode is no class: its share of a mixture counts for nothing.
        target = mix.soft(batch["label"], self.classes) * batch["valid"][:, None]
        images, target = mix.mix(
            key, arguments[name], target, mixup_alpha=c.mixup, cutmix_alpha=c.cutmix, groups=groups
        )
        return {**arguments, name: images}, target


@dataclasses.dataclass(frozen=True, eq=False)
class BranchPredictor:
    """Probabilities of each branch and, with GLCA, what it selected.

    Attributes:
        model: of the task.
        branches: "combined" last.
    """

    model: ImageModel
    branches: tuple[str, ...]

    def __call__(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """See `protocol.Scorer.predict`.

        Returns:
            "probabilities/<branch>" (B, C) for each of `branches`; with GLCA also "rollout" (B, N − 1), the weights of the
            patch tokens, and "selected" (B, k), the indices of the selected ones.
        """
        output, aux = self.model.infer(
            variables, **self.model.inputs.arguments(batch, variables), train=False
        )
        out = {"probabilities/combined": jax.nn.softmax(output)}
        out |= {f"probabilities/{b}": jax.nn.softmax(aux["logits"][b]) for b in self.branches[:-1]}
        return out | glca_selection(aux)


@dataclasses.dataclass(frozen=True, eq=False)
class CrossVitPredictor:
    """Probabilities, and the cross-attention of CrossViT's last fusion.

    Attributes:
        model: of the task.
    """

    model: ImageModel

    def __call__(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """See `protocol.Scorer.predict`.

        Returns:
            "probabilities/combined" (B, C), and "rollout": what the first branch's CLS takes from the patches of the second
            in the last fusion, (B, N_1 − 1).
        """
        arguments = self.model.inputs.arguments(batch, variables)
        output, aux = self.model.infer(variables, **arguments, train=False, capture=("fusion",))
        last = aux["fusion"][f"stage_{len(self.model.module.depth) - 1}/fusion_0"]
        return {"probabilities/combined": jax.nn.softmax(output), "rollout": last[-1, :, :, 0, 1:].mean(1)}


def second_grid(module: CrossViT) -> tuple[int, int]:
    """Rows and columns of the second branch's patches."""
    (rows, columns), patch = module.sizes[1], module.patch_size[1]
    return rows // patch, columns // patch


def fusion_map_section(run: Evaluated) -> ReportFields:
    """What the maps of a CrossViT's examples are."""
    return {
        "map_name": "cross-attention of the last fusion",
        "map_text": "how much the first branch's class token takes from each patch of the second, mean of the heads",
    }
