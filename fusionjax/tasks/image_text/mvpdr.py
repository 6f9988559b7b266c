"""MVPDR: one label for an image, by visual prototypes and prompts in the common space of a frozen image and text encoder.

Source: Wei et al., ACM MM 2024; docs/methods/mvpdr.md. No text of an example is read at test. With train.epochs=0 the
prototypes are not trained (training-free).
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fusionjax import pretrained
from fusionjax.config import impossible, naming_field
from fusionjax.data.image.transforms import image_shape
from fusionjax.data.text import Texts, descriptions
from fusionjax.models.methods import mvpdr
from fusionjax.models.methods.prototypes import COUNTS, PrototypeClassifier
from fusionjax.pretrained import encoders
from fusionjax.tasks.base import model_factory, multispectral_inputs
from fusionjax.tasks.base.class_scorer import ClassScorer, results_section
from fusionjax.tasks.base.explanations import MapsOnly
from fusionjax.tasks.base.image_inputs import ImageInputs
from fusionjax.tasks.base.image_model import Encoder, ImageModel
from fusionjax.tasks.base.objectives import average
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
from fusionjax.tasks.image_text import frozen_encoders
from fusionjax.tasks.image_text.prototype_start import PrototypeStart, prompts_and_captions
from fusionjax.tasks.image_text.text_inputs import encoder_weights
from fusionjax.train import losses
from fusionjax.types import PyTree


def create(config: ConfigDict, facts: Facts) -> Task:
    """Classification by prototypes.

    Args:
        config: of the whole run, validated.
        facts: of the data.

    Raises:
        UserError: a model that cannot be built, or texts that cannot be read.
    """
    count = len(facts.class_names)
    if config.mvpdr.prompts == "captions":
        room = config.mvpdr.max_prompts
    else:
        frozen_encoders.need_descriptions(config, "the prompts of the classes")
        room = max(map(len, descriptions.read(config.text.descriptions).values()))
    module = prototype_module(config, count, prompts=room)
    multispectral_inputs.check(config, facts.splits.values())
    clip = frozen_encoders.ClipWeights(config.mvpdr.clip) if config.mvpdr.clip else None
    pair, texts = prompts_and_captions(config, facts, module, clip)
    words = Encoder("text.encoder", functools.partial(encoder_weights, config))
    inputs = PrototypeInputs(config, texts)
    model = ImageModel(
        config,
        module,
        inputs,
        read_weights=None if clip is None else clip.image,
        put_weights=None if clip is None else _put_clip,
        outside=(words,) if clip is None else (),
        frozen=("^trunk/", "^projection/") if module.project else ("^trunk/",),
        fitted=("^projection/",) if module.project else (),
        grid=getattr(module, "grid", None),
        starts=None if pair is None else PrototypeStart(config, facts.class_names, module, pair, texts),
    )
    predict = PrototypePredictor(model)
    trains = bool(config.train.steps or config.train.epochs)
    how = "trained prototypes" if trains else "training-free"
    return Task(
        config,
        facts.class_names,
        model,
        inputs,
        PrototypeObjective(model),
        ClassScorer(config, facts.class_names, predict),
        (
            results_section(f"One of {count} classes for each image: MVPDR, {how}."),
            PrototypeSection(config, module.width, trains),
        ),
        MapsOnly(predict),
    )


def prototype_module(config: ConfigDict, num_classes: int, *, prompts: int) -> PrototypeClassifier:
    """The module of `config.model` and `config.mvpdr`.

    Args:
        config: of the run, validated.
        num_classes: C.
        prompts: room for the prompts of a class.

    Raises:
        UserError: no trunk, or images of another size than CLIP's.
    """
    m = config.mvpdr
    dtype = jnp.dtype(config.precision).type
    trunk: nn.Module
    if m.clip:
        with naming_field("mvpdr.clip"):
            trunk = clip = encoders.clip_model(m.clip, dtype=dtype)
        if image_shape(config.data) != (clip.image_size,) * 2:
            raise impossible(config, "data.image_size", f"the CLIP takes {clip.image_size} pixels a side")
        width = clip.projection
    else:
        trunk, _ = model_factory.image_encoder(config)
        width = m.width
    return PrototypeClassifier(
        trunk, num_classes=num_classes, visual=m.per_class, text=prompts, width=width, project=not m.clip,
        alpha=m.alpha, beta=m.beta, gamma=m.gamma, dtype=dtype,
    )  # fmt: skip


def _put_clip(variables: Variables, weights: PyTree | None, log: Say) -> Variables:
    """`ImageModel.put_weights` of a CLIP: its image tower."""
    return pretrained.merge(variables, weights, into="trunk", log=log)


@dataclasses.dataclass(frozen=True, eq=False)
class PrototypeInputs(ImageInputs):
    """Images; examples have no text, but there may be warnings about the texts of the prompts.

    Attributes:
        texts: of the prompts and captions.
    """

    texts: tuple[Texts, ...] = ()

    def warnings(self) -> list[str]:
        """See `Inputs.warnings`."""
        return list(dict.fromkeys(line for texts in self.texts for line in texts.warnings))


@dataclasses.dataclass(frozen=True, eq=False)
class PrototypeObjective:
    """CE(v) + 0.1 CE(t_max) + 0.1 CE(t_mean).

    Attributes:
        model: of the task.
    """

    model: ImageModel

    def __call__(self, variables: Variables, batch: Batch, key: jax.Array, *, groups: int) -> LossOutput:
        """See `protocol.Objective`; `key` and `groups` are not read."""
        output, aux = self.model.infer(variables, **self.model.inputs.arguments(batch, variables), train=True)
        valid, label = batch["valid"], batch["label"]
        each = mvpdr.loss(aux, label, text_weight=self.model.config.mvpdr.text_weight)
        return losses.masked_mean(each, valid), ({"accuracy": average(output.argmax(-1) == label, valid)}, {})


@dataclasses.dataclass(frozen=True, eq=False)
class PrototypePredictor:
    """Class probabilities.

    Attributes:
        model: of the task.
    """

    model: ImageModel

    def __call__(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """ "probabilities/combined" (B, C); see `protocol.Scorer.predict`."""
        output, _ = self.model.infer(variables, **self.model.inputs.arguments(batch, variables))
        return {"probabilities/combined": jax.nn.softmax(output)}


@dataclasses.dataclass(frozen=True, eq=False)
class PrototypeSection:
    """See `protocol.ReportSection`: the source of the common space and the prototypes.

    Attributes:
        config: of the whole run.
        width: of the common space.
        trains: whether the prototypes train.
    """

    config: ConfigDict
    width: int
    trains: bool

    def __call__(self, run: Evaluated) -> ReportFields:
        """A table."""
        c, counts = self.config, {name: np.asarray(x) for name, x in run.variables[COUNTS].items()}
        if c.mvpdr.clip:
            space = f"{c.mvpdr.clip}, both towers frozen"
        else:
            by = ", chosen on validation" if "val" in c.data.eval_splits else ""
            space = (
                f"linear projections of {c.model.trunk} and {c.text.encoder}, both frozen, {self.width} wide: "
                f"{int(counts['align_steps'])} steps of InfoNCE on the training split{by}"
            )
        prompts = (
            "descriptions of the class"
            if c.mvpdr.prompts == "descriptions"
            else "captions of its training examples"
        )
        rows = [
            ["common space", space],
            ["text of an example at test", "none is read"],
            ["visual prototypes of a class", _range(counts["visual_count"])],
            ["prompts of a class", f"{_range(counts['text_count'])}, {prompts}"],
            ["prototypes", "trained" if self.trains else "as they are (training-free)"],
        ]
        return {"tables": [("Prototypes", ("", ""), rows)]}


def _range(counts: np.ndarray) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low}" if low == high else f"{low} to {high}"
