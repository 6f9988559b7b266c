"""Re-identification: which images of a gallery show the object of the query. Test identities are not those of training."""

import dataclasses
import functools
from typing import cast

import jax
from ml_collections import ConfigDict

from fusionjax.config import impossible
from fusionjax.models import registry
from fusionjax.models.backbones.vit import ViT
from fusionjax.models.methods.dcal import derangement
from fusionjax.models.methods.reid import ReID
from fusionjax.tasks.base import model_factory, pairing
from fusionjax.tasks.base.image_inputs import ImageInputs
from fusionjax.tasks.base.image_model import ImageModel, frozen_trunk
from fusionjax.tasks.base.objectives import average, combined, single
from fusionjax.tasks.base.protocol import Batch, Facts, LossOutput, Task, Variables
from fusionjax.tasks.reid import data_checks
from fusionjax.tasks.reid.report import RetrievalSection
from fusionjax.tasks.reid.scorer import ReidScorer
from fusionjax.train import losses, metric_losses

NEW_PARAMETERS = ("neck_.*", "head_(sa|glca)/.*")


def create(config: ConfigDict, facts: Facts) -> Task:
    """An embedding in which images of one identity are near each other.

    Every branch has a cross-entropy over the training identities, after a BNNeck, and a metric loss before it. At test the CLS
    features of SA and GLCA are concatenated. Source: Zhu et al., CVPR 2022, section 4.2; He et al., ICCV 2021 (TransReID).

    Args:
        config: of the whole run, validated.
        facts: of the data; a class is a training identity.

    Raises:
        UserError: a model that cannot be built, or data that cannot be scored.
    """
    family = registry.find(config.model.name)
    if family is not None and not family.embeds:
        raise impossible(config, "model.name", "re-identification takes a vit_, deit_ or dcal_ model")
    if config.loss.mixup or config.loss.cutmix:
        raise impossible(
            config, "loss.mixup" if config.loss.mixup else "loss.cutmix", "identities do not mix"
        )
    backbone = cast(ViT, model_factory.image_model(config, 0))  # every family that embeds is a ViT
    module = ReID(backbone, len(facts.class_names), config.loss.center_weight > 0)
    data_checks.check(config, facts)
    inputs = ImageInputs(config)
    model = ImageModel(
        config,
        module,
        inputs,
        new_parameters=NEW_PARAMETERS,
        frozen=frozen_trunk(config),
        grid=getattr(module, "grid", None),
    )
    scorer = ReidScorer(config, model)
    return Task(
        config,
        facts.class_names,
        model,
        inputs,
        ReidObjective(model),
        scorer,
        (RetrievalSection(scorer, len(facts.class_names)),),
        check_devices=functools.partial(pairing.check_identities, config, module),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class ReidObjective:
    """Identity loss plus metric loss of each branch, and the centre loss where it has a weight.

    Attributes:
        model: of the task.
    """

    model: ImageModel[ReID]

    def __call__(self, variables: Variables, batch: Batch, key: jax.Array, *, groups: int) -> LossOutput:
        """See `protocol.Objective`; PWCA pairs within a group, with an image of another identity."""
        c, module = self.model.config.loss, self.model.module
        dropout, pairs = jax.random.split(key)
        label, valid = batch["label"], batch["valid"]
        size = label.shape[0]
        partner = {}
        if "pwca" in module.branches:
            per_identity = self.model.config.data.per_identity
            partner["partner"] = derangement(pairs, groups, size // groups, per_identity)
        arguments = self.model.inputs.arguments(batch, variables)
        (_, aux), new = self.model.train(variables, dropout, **arguments, valid=valid, **partner)
        metrics, by_branch = {}, {}
        for b, feature in aux["features"].items():
            logits = aux["logits"][b]
            identity = losses.masked_mean(
                losses.cross_entropy(logits, label, label_smoothing=c.label_smoothing), valid
            )
            metric = losses.masked_mean(*self._metric(feature, label, valid))
            parts = {"identity": identity, c.metric: metric}
            by_branch[b] = c.identity_weight * identity + c.metric_weight * metric
            if c.center_weight and b in aux["centers"]:
                centers = aux["centers"][b]
                parts["center"] = losses.masked_mean(metric_losses.center(feature, label, centers), valid)
                by_branch[b] += c.center_weight * parts["center"]
                moved = metric_losses.move_centers(jax.lax.stop_gradient(feature), label, centers, valid)
                new = {**new, "centers": {**new.get("centers", {}), b: moved}}
            for name, value in parts.items():
                metrics[f"{name}_{b}"] = single(value)
            metrics[f"accuracy_{b}"] = average(logits.argmax(-1) == label, valid)
        metrics["accuracy"] = metrics["accuracy_sa"]
        return combined(self.model.config, by_branch, aux), (metrics, new)

    def _metric(self, feature: jax.Array, label: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
        c = self.model.config.loss
        if c.metric == "circle":
            return metric_losses.circle(feature, label, valid, margin=c.margin or 0.25, scale=c.circle_scale)
        return metric_losses.triplet(feature, label, valid, margin=c.margin or None)
