"""One label per image: DCAL with its branches, or a plain network."""

import dataclasses
import functools
from typing import Any

import jax
from ml_collections import ConfigDict

from fusionjax.models import registry
from fusionjax.models.backbones.record import Shown
from fusionjax.models.methods.dcal import DCAL, derangement
from fusionjax.tasks.base import model_factory, multispectral_inputs, pairing
from fusionjax.tasks.base.class_scorer import ClassScorer, results_section
from fusionjax.tasks.base.explanations import MapsOnly, glca_selection
from fusionjax.tasks.base.image_inputs import ImageInputs
from fusionjax.tasks.base.image_model import ImageModel, frozen_trunk
from fusionjax.tasks.base.objectives import ExampleLoss, average, class_weights, combined, single
from fusionjax.tasks.base.protocol import Batch, Evaluated, Facts, LossOutput, ReportFields, Task, Variables
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
    family = registry.family_of(module)
    shown = family.shown if family else None
    model = ImageModel(
        config,
        module,
        inputs,
        frozen=frozen_trunk(config),
        grid=shown.grid(module) if shown else getattr(module, "grid", None),
    )
    example_loss = ExampleLoss(config, class_weights(config, facts.class_names, facts.train))
    glca = isinstance(module, DCAL) and "glca" in module.branches
    branches = ("sa", "glca", "combined") if glca else ("combined",)
    predict = MapPredictor(model, shown) if shown else BranchPredictor(model, branches)
    scorer = ClassScorer(
        config, facts.class_names, predict, branches, shown=("accuracy", "accuracy_sa", "accuracy_glca")
    )
    sections = [results_section(f"One of {len(facts.class_names)} classes for each image.")]
    if shown:
        sections.append(functools.partial(map_section, shown))
    return Task(
        config,
        facts.class_names,
        model,
        inputs,
        ClassificationObjective(model, example_loss, len(facts.class_names)),
        scorer,
        tuple(sections),
        MapsOnly(predict),
        check_devices=functools.partial(pairing.check_devices, config, module),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class ClassificationObjective:
    """The mean loss of the examples; for DCAL the losses of the branches, weighted by uncertainty or summed.

    Attributes:
        model: of the task.
        example_loss: (logits, target) → (B,).
        classes: C.
    """

    model: ImageModel
    example_loss: ExampleLoss
    classes: int

    def __call__(self, variables: Variables, batch: Batch, key: jax.Array, *, groups: int) -> LossOutput:
        """See `protocol.Objective`; PWCA pairs and mixing mixes within a group."""
        module = self.model.module
        dropout, pairs = jax.random.split(key)
        size = batch["label"].shape[0]
        dcal = isinstance(module, DCAL)
        paired = dcal and "pwca" in module.branches
        partner = {"partner": derangement(pairs, groups, size // groups)} if paired else {}
        arguments = self.model.inputs.arguments(batch, variables)
        arguments, target = self.mixed(arguments, batch, jax.random.fold_in(key, 2), groups)
        (output, aux), new = self.model.train(variables, dropout, **arguments, **partner)
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
        return combined(self.model.config, by_branch, aux), (metrics, new)

    def mixed(
        self, arguments: dict[str, Any], batch: Batch, key: jax.Array, groups: int
    ) -> tuple[dict[str, Any], jax.Array]:
        """The model's arguments and targets after mixup or CutMix; unchanged where neither is on."""
        c = self.model.config.loss
        if not (c.mixup or c.cutmix):
            return arguments, batch["label"]
        name = "features" if "features" in arguments else "images"
        # An image that could not be decoded has no class: its share of a mixture has weight 0.
        target = mix.soft(batch["label"], self.classes) * batch["valid"][:, None]
        images, target = mix.mix(
            key, arguments[name], target, mixup_alpha=c.mixup, cutmix_alpha=c.cutmix, groups=groups
        )
        return {**arguments, name: images}, target


@dataclasses.dataclass(frozen=True, eq=False)
class BranchPredictor:
    """Probabilities of each branch and, with GLCA, the selected tokens.

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
class MapPredictor:
    """Probabilities, and the explanation map of the network's family.

    Attributes:
        model: of the task.
        shown: of the family's record.
    """

    model: ImageModel
    shown: Shown

    def __call__(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """See `protocol.Scorer.predict`.

        Returns:
            "probabilities/combined" (B, C), and "rollout" (B, N), the map's weights.
        """
        arguments = self.model.inputs.arguments(batch, variables)
        output, aux = self.model.infer(variables, **arguments, train=False, capture=self.shown.capture)
        weights = self.shown.weights(self.model.module, aux)
        return {"probabilities/combined": jax.nn.softmax(output), "rollout": weights}


def map_section(shown: Shown, run: Evaluated) -> ReportFields:
    """Name and description of the maps of the examples."""
    return {"map_name": shown.name, "map_text": shown.text}
