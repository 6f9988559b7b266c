"""One label for an image and a text, by cross-attention between their tokens, or by a baseline.

The method: docs/methods/image_text_fusion.md.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fusionjax.data.image.transforms import image_shape
from fusionjax.data.loading.auxiliary import Extra
from fusionjax.data.loading.stream import Example
from fusionjax.data.source import Source
from fusionjax.interpret import maps as maps_lib
from fusionjax.interpret import text_maps
from fusionjax.tasks.base import model_factory
from fusionjax.tasks.base.class_task import ClassTask
from fusionjax.tasks.base.image_task import Array, Batch, Outputs, PyTree, average
from fusionjax.tasks.image_text.text_inputs import TextSide
from fusionjax.train import losses

BASELINES = {
    "fusion": "cross-attention between image and text",
    "concat": "means of image and text side by side, no cross-attention",
    "image": "image alone",
    "text": "text alone",
}
"""`fusion.mode` → what the report calls it."""
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


class Fusion(ClassTask):
    """Image–text classification.

    Args:
        config: of the whole run, validated.
        class_names: one a class.
    """

    example_keep = ("image_to_text", "text_to_image")
    text_side = TextSide

    def __init__(self, config: ConfigDict, class_names: Sequence[str]):
        self.side = None if config.fusion.mode == "image" else self.text_side(config, class_names)
        encoder = self.side.module if self.side else None
        super().__init__(config, class_names, model_factory.fusion_model(config, len(class_names), encoder))
        self.leaking: dict[str, bool] = {}

    # -- weights ----------------------------------------------------------------------------------------------------------

    def init(self, key: Array) -> dict[str, PyTree]:
        """Fresh variables; the collection "bank" holds what a frozen encoder makes of the descriptions."""
        images = jnp.zeros((1, *image_shape(self.config.data), 3), jnp.float32)
        words = (
            {}
            if self.side is None
            else {"tokens": jnp.zeros((1, 8), jnp.int32), "text_mask": jnp.ones((1, 8), bool)}
        )
        variables = self.module.init({"params": key}, images, **words)
        if self._frozen_bank():
            variables = {**variables, "bank": {"text": jnp.zeros(self.side.bank_shape(), jnp.float32)}}
        return variables

    def load_pretrained(
        self, variables: dict[str, PyTree], weights: PyTree | None = None, log=lambda text: None
    ) -> dict[str, PyTree]:
        """As every image task; also the text encoder's published weights, and the bank that follows from them."""
        variables = super().load_pretrained(variables, weights, log)
        if self.side is None:
            return variables
        params = self.side.weights()
        variables = {**variables, "params": {**variables["params"], "text": params}}
        if self._frozen_bank():
            tokens = jnp.asarray(self.side.features(self.side.bank(), params), jnp.float32)
            variables["bank"] = {"text": np.asarray(self.side.bank_features(tokens))}
        return variables

    @property
    def frozen(self) -> tuple[str, ...]:
        """Patterns of parameters that must not move, weight decay included."""
        trunk = ("^trunk/",) if self.config.model.freeze_trunk else ()
        return (*trunk, "^text/") if self.side and self.side.freeze else trunk

    # -- data -------------------------------------------------------------------------------------------------------------

    def check(self, sources: Mapping[str, Source]) -> None:
        """Also makes the texts of every split, and runs the label-permutation test on them."""
        super().check(sources)
        for name, source in sources.items():
            if self.side is not None:
                self.side.texts(source)
                self.leaking[name] = self.side.leaks(source)

    def padding(self, sources: Mapping[str, Source]) -> Example:
        """See `ImageTask`."""
        if self.side is None or self.side.kind == "bank":
            return {}
        return self.side.padding(next(iter(sources.values())))

    def extras(
        self,
        sources: Mapping[str, Source],
        variables: dict[str, PyTree],
        *,
        folder: Path | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> dict[str, Extra]:
        """See `ImageTask`; nothing where all images share the bank."""
        if self.side is None or self.side.kind == "bank":
            return {}
        params = variables["params"]["text"]
        return {
            name: self.side.rows(self.side.texts(source), params, folder=folder, say=say)
            for name, source in sources.items()
        }

    def given(
        self,
        texts: Sequence[str] | None,
        variables: dict[str, PyTree],
        sounds: Sequence[str | Path | None] | None = None,
    ) -> Extra | None:
        """See `ImageTask`."""
        if self.side is None or self.side.kind == "bank" or texts is None:
            return None
        return self.side.rows(self.side.given(texts), variables["params"]["text"])

    @property
    def reads_text(self) -> bool:
        """Whether an example has a text of its own."""
        return self.side is not None and self.side.kind != "bank"

    def facts(self) -> dict[str, Any]:
        """Digests of the tokenizer's files and of every text."""
        return self.side.facts() if self.side else {}

    def warnings(self) -> list[str]:
        """Lines that come before every score."""
        if self.side is None:
            return []
        made = [texts for _, texts in self.side.made()]
        first = [t.warning for t in made if t.warning]
        return list(dict.fromkeys([*first, *(note for t in made for note in t.notes)]))

    # -- steps ------------------------------------------------------------------------------------------------------------

    def loss(self, variables: dict[str, PyTree], batch: Batch, key: Array, *, groups: int):
        """Loss, metrics and updated collections of one (micro-)batch.

        Args:
            variables: of the model.
            batch: `image` or `features`; `text` or `tokens` with `text_mask`, where an example has its own; `label`, `valid`.
            key: for dropout.
            groups: not read.
        """
        mutable = [name for name in variables if name not in ("params", "bank")]
        (output, _), new = self._apply(variables, batch, train=True, rngs={"dropout": key}, mutable=mutable)
        valid, label = batch["valid"], batch["label"]
        loss = losses.masked_mean(self.example_losses(output, label), valid)
        return loss, ({"accuracy": average(output.argmax(-1) == label, valid)}, new)

    def predict(self, variables: dict[str, PyTree], batch: Batch) -> dict[str, Array]:
        """What is known of every example: "probabilities/combined" (B, C)."""
        output, _ = self._apply(variables, batch, train=False)
        return {"probabilities/combined": jax.nn.softmax(output)}

    def explain(self, variables: dict[str, PyTree], batch: Batch) -> dict[str, Array]:
        """As `predict`, with the last layer's maps, mean of the heads: "image_to_text" (B, N, T), what a region reads, and
        "text_to_image" (B, T, N), what a word reads."""
        capture = self.example_keep if self.config.fusion.mode == "fusion" else ()
        output, aux = self._apply(variables, batch, train=False, capture=capture)
        return {"probabilities/combined": jax.nn.softmax(output)} | {k: aux[k][-1].mean(1) for k in capture}

    def _apply(self, variables: dict[str, PyTree], batch: Batch, **how: Any) -> Any:
        net = {name: tree for name, tree in variables.items() if name != "bank"}
        return self.module.apply(net, **self.inputs(batch), **self._words(variables, batch), **how)

    def _words(self, variables: dict[str, PyTree], batch: Batch) -> dict[str, Array]:
        """The text that the module takes."""
        if self.side is None:
            return {}
        if self.side.kind != "bank":
            return {key: batch[key] for key in ("text", "tokens", "text_mask") if key in batch}
        mask = jnp.asarray(self.side.bank_mask())
        if self.side.freeze:
            return {"text": variables["bank"]["text"], "text_mask": mask}
        bank = self.side.bank()
        # Without dropout: every image of the batch reads the same texts.
        _, aux = self.side.module.apply({"params": variables["params"]["text"]}, bank.tokens, bank.mask)
        return {"text": self.side.bank_features(aux["tokens"]), "text_mask": mask}

    def _frozen_bank(self) -> bool:
        return self.side is not None and self.side.kind == "bank" and self.side.freeze

    # -- report -----------------------------------------------------------------------------------------------------------

    def report(
        self, results: Any, outputs: Mapping[str, Outputs], sources: Mapping[str, Source]
    ) -> dict[str, Any]:
        """Fields of `interpret.report.ReportContent` that are this task's."""
        c = self.config
        what = BASELINES[c.fusion.mode] + (f", head {c.fusion.head}" if c.fusion.mode == "fusion" else "")
        fields = {
            "task": f"One of {len(self.class_names)} classes for each image and text: {what}.",
            "results": results,
        }
        if self.side is None:
            return fields
        rows = [
            ["text of an example", KINDS[self.side.kind]],
            ["text encoder", c.text.encoder + (", frozen" if c.text.freeze else "")],
        ]
        for name, leaks in self.leaking.items():
            rows.append([f"labels of {name} permuted", _MOVED[leaks]])
        fields["tables"] = [("Text", ("", ""), rows)]
        return fields

    def explanations(
        self, source: Source, shown: Sequence[tuple[maps_lib.Example, int, Mapping[str, np.ndarray]]]
    ) -> dict[str, Any]:
        """Figures of what regions and words read of each other; see `ImageTask`."""
        if self.config.fusion.mode != "fusion" or not shown:
            return {}
        shown = spread(shown)
        made = [self._explained(source, *one) for one in shown]
        text = text_maps.BANK_TEXT if self.side.kind == "bank" else text_maps.WORDS_TEXT
        return {"figures": [("Attention between image and text", text, text_maps.figure(made))]}

    def _explained(
        self, source: Source, example: maps_lib.Example, index: int, found: Mapping[str, np.ndarray]
    ) -> text_maps.TextExample:
        to_text, to_image = found["image_to_text"], found["text_to_image"]
        texts, classes = self.side.texts(source), None
        if self.side.kind == "bank":
            words, classes = self.side.bank_words(), [self.class_names[k] for k in texts.classes]
            if self.config.text.bank_level == "token":
                keep = texts.mask.ravel()
                rows = np.repeat(np.arange(len(texts.mask)), texts.mask.shape[1])[keep]
                to_text, to_image = text_maps.pool(rows, to_text[:, keep], to_image[keep])
        else:
            row = texts.row(None, index)
            keep = texts.mask[row]
            words, to_text, to_image = text_maps.merge_pieces(
                self.side.words(texts, row), to_text[:, keep], to_image[keep]
            )
        return text_maps.TextExample(
            name=example.name, image=example.image, words=words, image_to_text=to_text, text_to_image=to_image,
            grid=self.grid, true=example.true, predicted=example.predicted, probability=example.probability,
            classes=classes,
        )  # fmt: skip


def spread(shown: Sequence[Any], count: int = 6) -> Sequence[Any]:
    """Of the right ones and the wrong ones, which come in that order, as many as a page needs."""
    return (
        shown if len(shown) <= count else [shown[i * (len(shown) - 1) // (count - 1)] for i in range(count)]
    )
