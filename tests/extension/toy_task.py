"""A task of one's own: classification that is punished for being sure of itself (Pereyra et al., ICLR 2017)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from fusionjax import register
from fusionjax.config import impossible
from fusionjax.tasks.base import model_factory
from fusionjax.tasks.base.class_scorer import ClassScorer, results_section
from fusionjax.tasks.base.image_inputs import ImageInputs
from fusionjax.tasks.base.image_model import ImageModel
from fusionjax.tasks.base.objectives import average
from fusionjax.tasks.base.protocol import Batch, Facts, Task, Variables
from fusionjax.train import losses


def section() -> ConfigDict:
    """`config.confident`, with its defaults."""
    return ConfigDict({"penalty": 0.1})  # of the negative entropy of the prediction


def check(config: ConfigDict) -> None:
    """The task's own rules."""
    if config.confident.penalty < 0:
        raise impossible(config, "confident.penalty", "0 or more")


@register.task("confident", sections={"confident": section}, check=check, reads=("confident.*",))
def build(config: ConfigDict, facts: Facts) -> Task:
    """The task, from shared parts and an objective of its own."""
    module = model_factory.image_model(config, len(facts.class_names))
    inputs = ImageInputs(config)
    model = ImageModel(config, module, inputs)

    def predict(variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        output, _ = model.infer(variables, **inputs.arguments(batch, variables))
        return {"probabilities/combined": jax.nn.softmax(output)}

    return Task(
        config,
        facts.class_names,
        model,
        inputs,
        PenalisedObjective(model),
        ClassScorer(config, facts.class_names, predict),
        (results_section(f"One of {len(facts.class_names)} classes, not too surely."),),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class PenalisedObjective:
    """Cross-entropy less `confident.penalty` times the entropy of the prediction.

    Attributes:
        model: of the task.
    """

    model: ImageModel

    def __call__(self, variables: Variables, batch: Batch, key: jax.Array, *, groups: int) -> Any:
        """See `fusionjax.tasks.base.protocol.Objective`."""
        arguments = self.model.inputs.arguments(batch, variables)
        (output, _), new = self.model.train(variables, key, **arguments)
        log_p = jax.nn.log_softmax(output)
        entropy = -jnp.sum(jnp.exp(log_p) * log_p, -1)
        each = losses.cross_entropy(output, batch["label"]) - self.model.config.confident.penalty * entropy
        right = average(output.argmax(-1) == batch["label"], batch["valid"])
        return losses.masked_mean(each, batch["valid"]), ({"accuracy": right}, new)
