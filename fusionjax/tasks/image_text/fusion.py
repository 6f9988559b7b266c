"""One label for an image and a text, by cross-attention between their tokens, or by a baseline.

Source: docs/methods/image_text_fusion.md.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics
from ml_collections import ConfigDict

from fusionjax.data.loading.auxiliary import Auxiliary
from fusionjax.data.loading.stream import Example
from fusionjax.data.source import Source
from fusionjax.interpret import maps as maps_lib
from fusionjax.interpret import text_maps
from fusionjax.tasks.base.class_scorer import ClassScorer, results_section
from fusionjax.tasks.base.explanations import spread
from fusionjax.tasks.base.image_inputs import ImageInputs
from fusionjax.tasks.base.image_model import ImageModel
from fusionjax.tasks.base.objectives import ExampleLoss, average, class_weights
from fusionjax.tasks.base.protocol import (
    Batch,
    Evaluated,
    Facts,
    Inputs,
    LossOutput,
    ReportFields,
    Say,
    Shown,
    Task,
    Variables,
    silent,
)
from fusionjax.tasks.image_text import fusion_model
from fusionjax.tasks.image_text.text_inputs import TextInputs
from fusionjax.train import losses

BASELINES = {
    "fusion": "cross-attention between image and text",
    "concat": "means of image and text side by side, no cross-attention",
    "image": "image alone",
    "text": "text alone",
}
"""`fusion.mode` → its name in the report."""
KINDS = {
    "instance": "the example's own caption",
    "bank": "the descriptions of all classes, the same for every image",
    "class": "the description of the true class",
}


_MOVED = {
    True: "the text changes with the label: it leaks",
    False: "the text stays as it is: no look-up by the label (captions written from the label are not found so)",
    None: "not tested: one class",
}


def create(config: ConfigDict, facts: Facts) -> Task:
    """Image–text classification.

    Args:
        config: of the whole run, validated.
        facts: of the data.

    Raises:
        UserError: a model that cannot be built, or texts that cannot be read.
    """
    text = None if config.fusion.mode == "image" else TextInputs(config, facts)
    inputs = FusionInputs(ImageInputs(config), text)
    model = fusion_model.create(config, facts, inputs.images, text)
    predict = FusionPredictor(model, inputs)
    mode, count = config.fusion.mode, len(facts.class_names)
    what = BASELINES[mode] + (f", head {config.fusion.head}" if mode == "fusion" else "")
    sections = [results_section(f"One of {count} classes for each image and text: {what}.")]
    if text is not None:
        leaking = {name.removeprefix("eval/"): text.leaks(source) for name, source in facts.splits.items()}
        sections.append(TextSection(config, text, leaking))
    return Task(
        config,
        facts.class_names,
        model,
        inputs,
        FusionObjective(
            model, inputs, ExampleLoss(config, class_weights(config, facts.class_names, facts.train))
        ),
        ClassScorer(config, facts.class_names, predict),
        tuple(sections),
        FusionExplanation(model, inputs, facts.class_names),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class FusionInputs:
    """See `protocol.Inputs`: images, and the text of each or the bank that all share.

    Attributes:
        images: of the task.
        text: None for a model that reads no text.
    """

    images: ImageInputs
    text: TextInputs | None

    @property
    def own_text(self) -> TextInputs | None:
        """The text of each example; None where there is none, or all images share the bank."""
        return None if self.text is None or self.text.kind == "bank" else self.text

    @property
    def reads_text(self) -> bool:
        """See `Inputs`."""
        return self.own_text is not None

    @property
    def reads_sound(self) -> bool:
        """See `Inputs`."""
        return False

    def padding_example(self) -> Example:
        """See `Inputs.padding_example`."""
        return {} if self.own_text is None else self.own_text.padding_example()

    def prepare(
        self,
        split: str,
        source: Source,
        variables: Variables,
        *,
        folder: Path | None = None,
        say: Say = silent,
    ) -> Auxiliary | None:
        """See `Inputs.prepare`; nothing where all images share the bank."""
        text = self.own_text
        if text is None:
            return None
        return text.rows(text.texts(source), variables["params"]["text"], folder=folder, say=say)

    def from_user(
        self,
        variables: Variables,
        *,
        texts: Sequence[str] | None = None,
        sounds: Sequence[str | Path | None] | None = None,
    ) -> Auxiliary | None:
        """See `Inputs.from_user`."""
        text = self.own_text
        if text is None or texts is None:
            return None
        return text.rows(text.from_user(texts), variables["params"]["text"])

    def arguments(self, batch: Batch, variables: Variables) -> dict[str, Any]:
        """See `Inputs.arguments`."""
        return self.images.arguments(batch, variables) | self._words(batch, variables)

    def words(
        self, source: Source | None, index: Sequence[int], texts: Sequence[str] | None = None
    ) -> list[list[str]]:
        """See `explanations.Legible`."""
        return [[] for _ in index] if self.text is None else self.text.words_of(source, index, texts)

    def spectrogram(self, batch: Batch) -> tuple[jax.Array, jax.Array] | None:
        """See `explanations.Legible`."""
        return None

    def seconds(self, frames: int) -> float:
        """See `explanations.Legible`."""
        return 0.0

    def fingerprint(self) -> dict[str, Any]:
        """Digests of the tokenizer's files and of every text."""
        return {} if self.text is None else self.text.fingerprint()

    def warnings(self) -> list[str]:
        """See `Inputs.warnings`."""
        if self.text is None:
            return []
        made = self.text.made.values()
        first = [t.warning for t in made if t.warning]
        return list(dict.fromkeys([*first, *(note for t in made for note in t.notes)]))

    def _words(self, batch: Batch, variables: Variables) -> dict[str, jax.Array]:
        """The text that the module takes."""
        if self.text is None:
            return {}
        if self.text.kind != "bank":
            return {key: batch[key] for key in ("text", "tokens", "text_mask") if key in batch}
        mask = jnp.asarray(self.text.bank_mask())
        if self.text.freeze:
            return {"text": variables["bank"]["text"], "text_mask": mask}
        bank = self.text.bank
        # Without dropout: every image of the batch reads the same texts.
        _, aux = self.text.module.apply({"params": variables["params"]["text"]}, bank.tokens, bank.mask)
        return {"text": self.text.bank_features(aux["tokens"]), "text_mask": mask}


@dataclasses.dataclass(frozen=True, eq=False)
class FusionObjective:
    """The mean loss of the examples, and a score of their predictions.

    Attributes:
        model, inputs: of the task.
        example_loss: (logits, target) → (B,).
    """

    model: ImageModel
    inputs: Inputs
    example_loss: ExampleLoss

    def __call__(self, variables: Variables, batch: Batch, key: jax.Array, *, groups: int) -> LossOutput:
        """See `protocol.Objective`; `groups` is not read."""
        (output, _), new = self.model.train(variables, key, **self.inputs.arguments(batch, variables))
        target, counted = self.target(batch)
        loss = losses.masked_mean(self.example_loss(output, target), counted)
        return loss, (self.metrics(output, batch), new)

    def target(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """What the examples should give, labels (B,) or shares (B, C), and whether each counts, (B,)."""
        return batch["label"], batch["valid"]

    def metrics(self, output: jax.Array, batch: Batch) -> dict[str, clu_metrics.Average]:
        """Scores of the logits (B, C), by name."""
        return {"accuracy": average(output.argmax(-1) == batch["label"], batch["valid"])}


@dataclasses.dataclass(frozen=True, eq=False)
class FusionPredictor:
    """Class probabilities.

    Attributes:
        model, inputs: of the task.
    """

    model: ImageModel
    inputs: FusionInputs

    def __call__(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """ "probabilities/combined" (B, C); see `protocol.Scorer.predict`."""
        output, _ = self.model.infer(variables, **self.inputs.arguments(batch, variables), train=False)
        return {"probabilities/combined": jax.nn.softmax(output)}


@dataclasses.dataclass(frozen=True, eq=False)
class FusionExplanation:
    """See `protocol.Explanation`: the attention between regions and words.

    Attributes:
        model, inputs: of the task.
        class_names: one name per class.
    """

    model: ImageModel
    inputs: FusionInputs
    class_names: tuple[str, ...]
    outputs: tuple[str, ...] = ("image_to_text", "text_to_image")

    def explain(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """See `Explanation.explain`.

        Returns:
            The probabilities, with the last layer's attention maps, mean of the heads: "image_to_text" (B, N, T), from regions
            to words, and "text_to_image" (B, T, N), from words to regions.
        """
        capture = self.outputs if self.model.config.fusion.mode == "fusion" else ()
        arguments = self.inputs.arguments(batch, variables)
        output, aux = self.model.infer(variables, **arguments, train=False, capture=capture)
        return {"probabilities/combined": jax.nn.softmax(output)} | {k: aux[k][-1].mean(1) for k in capture}

    def figures(self, source: Source, shown: Sequence[Shown]) -> ReportFields:
        """See `Explanation.figures`."""
        text, grid = self.inputs.text, self.model.grid
        if self.model.config.fusion.mode != "fusion" or text is None or grid is None or not shown:
            return {}
        made = [self._explained(text, grid, source, *one) for one in spread(shown)]
        caption = text_maps.BANK_TEXT if text.kind == "bank" else text_maps.WORDS_TEXT
        return {"figures": [("Attention between image and text", caption, text_maps.figure(made))]}

    def _explained(
        self, text: TextInputs, grid: tuple[int, int], source: Source, example: maps_lib.Example, index: int,
        found: Mapping[str, np.ndarray],
    ) -> text_maps.TextExample:  # fmt: skip
        to_text, to_image = found["image_to_text"], found["text_to_image"]
        texts, classes = text.texts(source), None
        if text.kind == "bank":
            words, classes = text.bank_words(), [self.class_names[k] for k in np.asarray(texts.classes)]
            if self.model.config.text.bank_level == "token":
                keep = texts.mask.ravel()
                rows = np.repeat(np.arange(len(texts.mask)), texts.mask.shape[1])[keep]
                to_text, to_image = text_maps.pool(rows, to_text[:, keep], to_image[keep])
        else:
            row = texts.row(None, index)
            keep = texts.mask[row]
            words, to_text, to_image = text_maps.merge_pieces(
                text.words(texts, row), to_text[:, keep], to_image[keep]
            )
        return text_maps.TextExample(
            name=example.name, image=example.image, words=words, image_to_text=to_text, text_to_image=to_image,
            grid=grid, true=example.true, predicted=example.predicted, probability=example.probability,
            classes=classes,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class TextSection:
    """See `protocol.ReportSection`: the source of the texts, and the label-permutation test.

    Attributes:
        config: of the whole run.
        text: of the task.
        leaking: split → whether its texts change with permuted labels; None where that cannot be tested.
    """

    config: ConfigDict
    text: TextInputs
    leaking: Mapping[str, bool | None]

    def __call__(self, run: Evaluated) -> ReportFields:
        """A table."""
        c = self.config.text
        rows = [
            ["text of an example", KINDS[self.text.kind]],
            ["text encoder", c.encoder + (", frozen" if c.freeze else "")],
        ]
        rows += [[f"labels of {name} permuted", _MOVED[leaks]] for name, leaks in self.leaking.items()]
        return {"tables": [("Text", ("", ""), rows)]}
