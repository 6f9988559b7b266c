"""Initial weights of MVPDR: visual prototypes from cached features, and prompts, in the common space of both."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from fusionjax.config import impossible
from fusionjax.data.feature_cache.store import CachedFeatures
from fusionjax.data.source import listed_columns
from fusionjax.data.text import Texts
from fusionjax.errors import UserError
from fusionjax.models.methods import mvpdr
from fusionjax.models.methods.prototypes import COUNTS, PrototypeClassifier
from fusionjax.tasks.base.protocol import Facts, Say, TrainingData, Variables, silent
from fusionjax.tasks.image_text import common_space, frozen_encoders
from fusionjax.types import PyTree

_STREAM = 0x3D9D  # keeps these draws apart from others that start from the same seed


@dataclasses.dataclass(frozen=True, eq=False)
class PrototypeStart:
    """Computes the initial weights of a run from its cached features and texts.

    Attributes:
        config: of the whole run, validated.
        class_names: one name per class.
        module: of the task.
        pair: the frozen encoders.
        texts: the prompts, then the texts that the images are aligned with if those are not the prompts.
    """

    config: ConfigDict
    class_names: tuple[str, ...]
    module: PrototypeClassifier
    pair: frozen_encoders.FrozenPair
    texts: tuple[Texts, ...]

    def __call__(
        self, variables: Variables, data: TrainingData, *, folder: Path | None = None, say: Say = silent
    ) -> Variables:
        """Trains the projections where there are some, then makes both kinds of prototypes.

        Args:
            variables: with pretrained weights, on the host.
            data: of cached features; "train" and, to choose by, "eval/val" are read.
            folder: cache folder.
            say: takes a line of progress.
        """
        part = data.cached["train"]
        rows = np.flatnonzero(part.valid.min(0) > 0)
        images, labels = frozen_encoders.pooled(part, rows=rows), part.labels[rows]
        vectors = [self.pair.vectors(texts, folder=folder, say=say) for texts in self.texts]
        prompts, params, steps = self._prompts(rows, labels), dict(variables["params"]), 0
        words = vectors[0]
        if self.module.project:
            val, pairs = (
                self._validation_score(data.cached.get("eval/val"), prompts, words),
                self._pairs(rows, labels),
            )
            worded = np.any(self.texts[-1].mask, axis=1)[pairs.first]
            aligned, steps = common_space.align(
                images[:, worded],
                vectors[-1],
                common_space.Pairs(*(part[worded] for part in pairs)),
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
        texts, limit = self.texts[0], self.config.mvpdr.max_prompts
        if texts.index is None:  # descriptions: one set of texts for all images
            return [np.flatnonzero(texts.classes == c) for c in range(len(self.class_names))]
        worded, found = np.any(texts.mask, axis=1), []
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

    def _pairs(self, rows: np.ndarray, labels: np.ndarray) -> common_space.Pairs:
        """Which of the last texts belongs to each training image: its caption, else a description of its class."""
        texts = self.texts[-1]
        if texts.index is not None:
            return common_space.Pairs(texts.index[rows], np.ones(len(rows), np.int64))
        counts = np.bincount(np.asarray(texts.classes), minlength=len(self.class_names))
        return common_space.Pairs((np.cumsum(counts) - counts)[labels], counts[labels])

    def _validation_score(
        self, val: CachedFeatures | None, prompts: Sequence[np.ndarray], words: np.ndarray
    ) -> Callable[[PyTree], float] | None:
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


def prompts_and_captions(
    config: ConfigDict,
    facts: Facts,
    module: PrototypeClassifier,
    clip: frozen_encoders.ClipWeights | None,
) -> tuple[frozen_encoders.FrozenPair | None, tuple[Texts, ...]]:
    """The encoders and texts of `PrototypeStart`; None and no text at inference.

    Raises:
        UserError: captions are asked for and the training split has none.
    """
    if facts.train is None:
        return None, ()
    train, own = facts.train, "caption" in facts.train.columns
    captions = config.mvpdr.prompts == "captions"
    if captions and not own:
        raise impossible(
            config,
            "mvpdr.prompts",
            f"{train.name} has no column caption; its columns are {listed_columns(train)}",
        )
    pair = frozen_encoders.FrozenPair(config, facts.class_names, clip)
    texts = [] if captions else [pair.descriptions()]
    if captions or (own and module.project):
        texts.append(pair.captions(train))
    return pair, tuple(texts)
