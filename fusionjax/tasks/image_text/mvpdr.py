"""MVPDR: one label for an image, by visual prototypes and prompts in the common space of a frozen image and text encoder.

Wei et al., ACM MM 2024; docs/methods/mvpdr.md. No text of an example is read at test. With train.epochs=0 the prototypes
are used as they are (training-free), else they train.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from fusionjax.config import impossible
from fusionjax.data.source import Source
from fusionjax.data.text import Texts, descriptions
from fusionjax.errors import UserError
from fusionjax.models.methods import mvpdr
from fusionjax.models.methods.prototypes import COUNTS
from fusionjax.tasks.base import model_factory
from fusionjax.tasks.base.class_task import ClassTask
from fusionjax.tasks.base.image_task import Array, Batch, Outputs, PyTree, average
from fusionjax.tasks.image_text import alignment, frozen_encoders
from fusionjax.train import losses

Say = Callable[[str], None]
_STREAM = 0x3D9D  # keeps these draws apart from others that start from the same seed


class MVPDR(ClassTask):
    """Classification by prototypes.

    Args:
        config: of the whole run, validated.
        class_names: one a class.
    """

    def __init__(self, config: ConfigDict, class_names: Sequence[str]):
        if config.mvpdr.prompts == "captions":
            prompts = config.mvpdr.max_prompts
        else:
            frozen_encoders.need_descriptions(config, "the prompts of the classes")
            prompts = max(map(len, descriptions.read(config.text.descriptions).values()))
        module = model_factory.prototype_model(config, len(class_names), prompts=prompts)
        super().__init__(config, class_names, module)
        self._texts: list[Texts] = []

    # -- weights ----------------------------------------------------------------------------------------------------------

    def load_pretrained(
        self, variables: dict[str, PyTree], weights: PyTree | None = None, log: Say = lambda text: None
    ) -> dict[str, PyTree]:
        """As every image task; of a CLIP, its image tower."""
        if not self.config.mvpdr.clip:
            return super().load_pretrained(variables, weights, log)
        params = variables["params"]
        trunk = frozen_encoders.image_weights(self.config, params["trunk"])
        return {**variables, "params": {**params, "trunk": trunk}}

    @property
    def frozen(self) -> tuple[str, ...]:
        """All but the prototypes."""
        return ("^trunk/", "^projection/") if self.module.project else ("^trunk/",)

    # -- data -------------------------------------------------------------------------------------------------------------

    def check(self, sources: Mapping[str, Source]) -> None:
        """Also makes the texts: of the classes, and of the training examples where they are read."""
        super().check(sources)
        train, own = sources["train"], "caption" in sources["train"].columns
        if self.config.mvpdr.prompts == "captions" and not own:
            columns = ", ".join(train.columns) or "none"
            raise impossible(
                self.config, "mvpdr.prompts", f"{train.name} has no column caption; its columns are {columns}"
            )
        self._pair = frozen_encoders.FrozenPair(self.config, self.class_names)
        # The prompts, then what the images are aligned with where that is something else.
        self._texts = []
        if self.config.mvpdr.prompts == "descriptions":
            self._texts.append(self._pair.descriptions())
        if self.config.mvpdr.prompts == "captions" or (own and self.module.project):
            self._texts.append(self._pair.captions(train))

    def warnings(self) -> list[str]:
        """Lines that come before every score."""
        return list(dict.fromkeys(line for texts in self._texts for line in texts.warnings))

    def start(
        self,
        variables: dict[str, PyTree],
        feed: Any,
        *,
        folder: Path | None = None,
        say: Say = lambda text: None,
    ) -> dict[str, PyTree]:
        """Trains the projections where there are some, then makes both kinds of prototypes.

        Args:
            variables: with pretrained weights, on the host.
            feed: of cached features; "train" and, to choose by, "eval/val" are read.
            folder, say: as for `extras`.
        """
        part = feed.cached["train"]
        rows = np.flatnonzero(part.valid.min(0) > 0)
        images, labels = frozen_encoders.pooled(part, rows=rows), part.labels[rows]
        vectors = [self._pair.vectors(texts, folder=folder, say=say) for texts in self._texts]
        prompts, params, steps = self._prompts(rows, labels), dict(variables["params"]), 0
        words = vectors[0]
        if self.module.project:
            val, pairs = self._judged(feed.cached.get("eval/val"), prompts, words), self._pairs(rows, labels)
            worded = self._texts[-1].mask.any(1)[pairs.first]
            aligned, steps = alignment.align(
                images[:, worded],
                vectors[-1],
                alignment.Pairs(*(part[worded] for part in pairs)),
                width=self.module.width,
                steps=self.config.mvpdr.align_steps,
                batch_size=self.config.mvpdr.align_batch,
                learning_rate=self.config.mvpdr.align_rate,
                seed=self.config.seed,
                score=val,
            )
            say(f"common space: {steps} steps of InfoNCE{', chosen on validation' if val else ''}")
            params["projection"] = aligned["image"]
            images, words = images @ aligned["image"]["kernel"], words @ aligned["text"]["kernel"]
        # The first pass is the images as they are.
        visual = mvpdr.visual_prototypes(
            images[1:] if len(images) > 1 else images, labels, len(self.class_names),
            per_class=self.module.visual, seed=self.config.seed,
        ).filled(self.module.visual)  # fmt: skip
        text = mvpdr.text_prototypes([words[own] for own in prompts]).filled(self.module.text)
        params |= {"visual": visual.vectors, "text": text.vectors}
        counts = {"visual_count": visual.counts, "text_count": text.counts, "align_steps": steps}
        return {
            **variables,
            "params": params,
            COUNTS: {name: np.asarray(value, np.int32) for name, value in counts.items()},
        }

    def _prompts(self, rows: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
        """Of each class, the rows of the first texts that are its prompts."""
        texts, limit = self._texts[0], self.config.mvpdr.max_prompts
        if self.config.mvpdr.prompts == "descriptions":
            return [np.flatnonzero(texts.classes == c) for c in range(len(self.class_names))]
        worded, found = texts.mask.any(1), []
        for c, name in enumerate(self.class_names):
            own = np.unique(texts.index[rows[labels == c]])
            own = own[worded[own]]
            if not len(own):
                raise UserError(
                    f"mvpdr: no training example of class {name!r} has a caption; set mvpdr.prompts='descriptions'"
                )
            if len(own) > limit:
                rng = np.random.default_rng([_STREAM, self.config.seed, c])
                own = np.sort(rng.choice(own, limit, replace=False))
            found.append(own)
        return found

    def _pairs(self, rows: np.ndarray, labels: np.ndarray) -> alignment.Pairs:
        """Which of the last texts belongs to each training image: its caption, else a description of its class."""
        texts = self._texts[-1]
        if texts.index is not None:
            return alignment.Pairs(texts.index[rows], np.ones(len(rows), np.int64))
        counts = np.bincount(texts.classes, minlength=len(self.class_names))
        return alignment.Pairs((np.cumsum(counts) - counts)[labels], counts[labels])

    def _judged(self, val: Any, prompts: Sequence[np.ndarray], words: np.ndarray) -> Any:
        """Parameters of `Align` → accuracy of the text scores on validation; None without validation."""
        if val is None:
            return None
        rows = np.flatnonzero(val.valid[0] > 0)
        images, labels = frozen_encoders.pooled(val, rows=rows)[0], val.labels[rows]
        none = mvpdr.Prototypes(
            np.zeros((len(prompts), 1, self.module.width), np.float32), (0,) * len(prompts)
        )

        def score(params: PyTree) -> float:
            kernel = np.asarray(params["text"]["kernel"])
            text = mvpdr.text_prototypes([words[own] @ kernel for own in prompts])
            x = images @ np.asarray(params["image"]["kernel"])
            logits, _ = mvpdr.scores(x, none, text, beta=self.module.beta, gamma=self.module.gamma)
            return float((np.asarray(logits).argmax(-1) == labels).mean())

        return score

    # -- steps ------------------------------------------------------------------------------------------------------------

    def loss(self, variables: dict[str, PyTree], batch: Batch, key: Array, *, groups: int):
        """CE(v) + 0.1 CE(t_max) + 0.1 CE(t_mean), metrics and updated collections of one (micro-)batch.

        Args:
            variables: of the model.
            batch: `features` or `image`; `label`, `valid`.
            key, groups: not read.
        """
        output, aux = self.module.apply(variables, **self.inputs(batch), train=True)
        valid, label = batch["valid"], batch["label"]
        each = mvpdr.loss(aux, label, text_weight=self.config.mvpdr.text_weight)
        return losses.masked_mean(each, valid), ({"accuracy": average(output.argmax(-1) == label, valid)}, {})

    def predict(self, variables: dict[str, PyTree], batch: Batch) -> dict[str, Array]:
        """What is known of every example: "probabilities/combined" (B, C)."""
        output, _ = self.module.apply(variables, **self.inputs(batch))
        return {"probabilities/combined": jax.nn.softmax(output)}

    # -- report -----------------------------------------------------------------------------------------------------------

    def report(
        self, results: Any, outputs: Mapping[str, Outputs], sources: Mapping[str, Source]
    ) -> dict[str, Any]:
        """Fields of `interpret.report.ReportContent` that are this task's."""
        how = "trained prototypes" if self._trains else "training-free"
        return {
            "task": f"One of {len(self.class_names)} classes for each image: MVPDR, {how}.",
            "results": results,
        }

    def tables(self, variables: dict[str, PyTree]) -> list[tuple[str, Sequence[str], list[list[Any]]]]:
        """See `ImageTask`."""
        c, counts = self.config, {name: np.asarray(x) for name, x in variables[COUNTS].items()}
        if c.mvpdr.clip:
            space = f"{c.mvpdr.clip}, both towers frozen"
        else:
            by = ", chosen on validation" if "val" in c.data.eval_splits else ""
            space = (
                f"linear projections of {c.model.trunk} and {c.text.encoder}, both frozen, {self.module.width} wide: "
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
            ["prototypes", "trained" if self._trains else "as they are (training-free)"],
        ]
        return [("Prototypes", ("", ""), rows)]

    @property
    def _trains(self) -> bool:
        return bool(self.config.train.steps or self.config.train.epochs)


def _range(counts: np.ndarray) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low}" if low == high else f"{low} to {high}"
