"""Attention maps, gradients and tokens of a trained run for some images, from which explanations are made."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fusionjax.data.loading import pipeline
from fusionjax.data.source import Source, take
from fusionjax.errors import UserError
from fusionjax.experiment import user_images
from fusionjax.experiment.inference import Run
from fusionjax.interpret import capture
from fusionjax.interpret.capture import Captured
from fusionjax.tasks.base.explanations import Legible
from fusionjax.types import PyTree

MEMORY = 2**29
"""Bytes of maps and gradients that are computed together; a program needs about four times as much."""
Target = str | int | np.ndarray | None
"""Class of the score: None for the predicted one, "label" for that of the data, a number or one per image; or embeddings
(N, D) float, and the score is the cosine similarity to them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Explained:
    """N examples as the model saw them, and what it computed.

    Attributes:
        images: (N, h, w, C) uint8, after the evaluation transform.
        names: of the files.
        labels: (N,) int32; −1 where it is not known.
        words: per example the tokens of its text, or the descriptions that all share; empty without text.
        sounds: per example (log-mel frames (S, F), seconds), or None.
        captured: maps, gradients, tokens and outputs.
        probabilities: (N, C) float32; None for a model without classes.
    """

    images: np.ndarray
    names: list[str]
    labels: np.ndarray
    words: list[list[str]]
    sounds: list[tuple[np.ndarray, float] | None]
    captured: Captured
    probabilities: np.ndarray | None


class Explainer:
    """Captures a run's attention; programs are compiled once per combination of options.

    Args:
        run: of `fusionjax.load`.
        batch: images that are read together; the last batch is padded to as many. They are computed together as far as their
            maps fit `MEMORY`.

    Attributes:
        variables: the weights; those of the run, unless they are replaced.
    """

    def __init__(self, run: Run, batch: int = 8):
        self.run, self.batch, self.variables = run, batch, run.variables
        self._fitting: dict[tuple[str, bool, bool], int] = {}
        task = run.task

        def observe(
            variables: PyTree,
            batch: dict[str, jax.Array],
            target: jax.Array | None,
            partner: jax.Array | None,
            branch: str,
        ) -> dict[str, Any]:
            arguments = task.inputs.arguments(batch, variables)
            if partner is not None:
                arguments["partner"] = partner
            score = None
            if target is not None:
                by_class = jnp.issubdtype(target.dtype, jnp.integer)
                make = capture.class_score if by_class else capture.similarity_score
                score = make(target, branch)
            found = capture.observe(task.model.module, variables, arguments, score)
            if "text_mask" in arguments and "text" not in found["masks"]:
                found["masks"]["text"] = arguments["text_mask"]
            if "image" in arguments.get("present", {}):
                rows, columns = task.model.grid or (1, 1)
                found["masks"]["image"] = jnp.tile(arguments["present"]["image"][:, None], rows * columns)
            return found

        self._observe = jax.jit(observe, static_argnames="branch")
        inputs = task.inputs
        self._hear = jax.jit(inputs.spectrogram) if isinstance(inputs, Legible) else None

    def images(
        self,
        images: Any,
        *,
        texts: Sequence[str] | None = None,
        sounds: Sequence[str | Path | None] | None = None,
        cameras: Sequence[int] | None = None,
        target: Target = None,
        branch: str = "",
        pairs: bool = False,
        gradients: bool = True,
    ) -> Explained:
        """Explains images of a user.

        Args:
            images, texts, sounds: as for `Run.predict`.
            cameras: as for `Run.embed`.
            target: see `Target`; a re-identification model has no gradients without one.
            branch: of a DCAL whose logit is explained, "sa" or "glca"; modality of a contrastive model; "" for the output.
            pairs: run PWCA too, each image with the next one as its partner.
            gradients: of the score with respect to the maps.

        Raises:
            UserError: an image that cannot be read, or options that do not fit the model.
        """
        wanted = user_images.named(images)
        pixels, _ = self.run._read(wanted)
        inputs = self.run.task.inputs
        if inputs.reads_text and (texts is None or len(texts) != len(wanted)):
            raise UserError(f"{self.run.folder} reads a text of each image: give {len(wanted)} texts")
        auxiliary = inputs.from_user(self.variables, texts=texts, sounds=sounds)
        carried = {
            name: list(cameras) if name == "camera" and cameras else [0] * len(pixels)
            for name in self.run.config.data.carry
        }
        batches = pipeline.array_batches(pixels, self.batch, carried=carried, auxiliary=auxiliary)
        names, labels = [image.name for image in wanted], np.full(len(wanted), -1, np.int32)
        words = inputs.words(None, range(len(wanted)), texts) if isinstance(inputs, Legible) else []
        return self._explain(batches, names, labels, words, target, branch, pairs, gradients)

    def rows(
        self,
        split: str | Source,
        rows: Sequence[int] | np.ndarray,
        *,
        target: Target = None,
        branch: str = "",
        pairs: bool = False,
        gradients: bool = True,
    ) -> Explained:
        """Explains examples of a split, with their texts and sounds.

        Args:
            split: of the run's data set, or its source.
            rows: (N,) int, positions in the split.
            target, branch, pairs, gradients: as for `images`.

        Raises:
            UserError: no such split, or an image that cannot be read.
        """
        source = self.run.source(split) if isinstance(split, str) else split
        part = take(source, np.asarray(rows, np.int64), "explained")
        inputs = self.run.task.inputs
        batches = pipeline.eval_batches(
            part,
            self.run.config.data,
            batch_size=self.batch,
            bad=self.run.bad,
            auxiliary=inputs.prepare("eval/explained", part, self.variables),
        )
        names, labels = [str(name) for name in part.names], np.asarray(part.labels, np.int32)
        words = inputs.words(part, range(len(names))) if isinstance(inputs, Legible) else []
        return self._explain(iter(batches), names, labels, words, target, branch, pairs, gradients)

    def _explain(
        self,
        batches: Iterator[dict[str, np.ndarray]],
        names: list[str],
        labels: np.ndarray,
        words: list[list[str]],
        target: Target,
        branch: str,
        pairs: bool,
        gradients: bool,
    ) -> Explained:
        count = len(names)
        if not count:
            raise UserError(f"{self.run.folder}: name an image to explain")
        if pairs and count == 1:
            raise UserError("PWCA attends to a partner, another image: name two at least")
        wanted = self._targets(target, labels, count) if gradients else None
        parts: list[Captured] = []
        pictures, sounds = [], []
        before: dict[str, np.ndarray] = {}
        for start, batch in zip(range(0, count, self.batch), batches, strict=False):
            size = min(self.batch, count - start)
            bad = np.flatnonzero(batch["valid"][:size] == 0)
            if len(bad):
                raise UserError(f"{names[start + int(bad[0])]} cannot be read")
            own = None if wanted is None else _padded(wanted[start : start + size], self.batch)
            if pairs and size == 1:  # its partner is one of the batch before
                batch = {name: np.concatenate([x[:1], before[name][:1], x[2:]]) for name, x in batch.items()}
                parts += [x[:1] for x in self._captured(batch, 2, own, branch, pairs)]
            else:
                parts += self._captured(batch, size, own, branch, pairs)
            before = batch
            pictures.append(batch["image"][:size])
            sounds += self._sounds(batch)[:size]
        captured = Captured.joined(parts)
        return Explained(
            np.concatenate(pictures),
            names,
            labels,
            words or [[] for _ in names],
            sounds,
            captured,
            _probabilities(captured.output) if self._has_classes else None,
        )

    def _captured(
        self, batch: dict[str, np.ndarray], count: int, target: np.ndarray | None, branch: str, pairs: bool
    ) -> Iterator[Captured]:
        """The first `count` rows of a batch, computed as many at a time as fit."""
        step = self._together(batch, target, branch, pairs)
        for start in range(0, count, step):
            # The last row alone is computed again with the one before it, for a pair.
            again = int(pairs and start == count - 1)
            rows, size = slice(start - again, start - again + step), min(step, count - start) + again
            found = self._observe(
                self.variables,
                {name: x[rows] for name, x in batch.items()},
                None if target is None else target[rows],
                _partners(size, step) if pairs else None,
                branch=branch,
            )
            yield capture.captured(self.run.task.model.module, found)[again:size]

    def _together(
        self, batch: dict[str, np.ndarray], target: np.ndarray | None, branch: str, pairs: bool
    ) -> int:
        """How many rows of a batch are computed together: a divisor of its size, two at least for pairs."""
        key = (branch, pairs, target is None)
        if key not in self._fitting:
            one = {name: x[:1] for name, x in batch.items()}
            found = jax.eval_shape(
                lambda: self._observe(
                    self.variables,
                    one,
                    None if target is None else target[:1],
                    np.zeros((1, 1), np.int64) if pairs else None,
                    branch=branch,
                )
            )
            size = sum(
                x.size * x.dtype.itemsize for x in jax.tree.leaves((found["maps"], found["gradients"]))
            )
            most = max(MEMORY // max(size, 1), 2 if pairs else 1)
            self._fitting[key] = max(n for n in range(1, self.batch + 1) if self.batch % n == 0 and n <= most)
        return self._fitting[key]

    @property
    def _has_classes(self) -> bool:
        return not any(name.startswith("embedding") for name in self.run.task.scorer.output_names)

    def _targets(self, target: Target, labels: np.ndarray, count: int) -> np.ndarray | None:
        if target is None:
            return np.full(count, -1, np.int32) if self._has_classes else None
        if isinstance(target, str):
            if target != "label" or (labels < 0).any():
                raise UserError(f'target={target!r}: give "label" (of a split), a class or one per image')
            return labels
        array = np.asarray(target)
        if array.ndim and len(array) != count:
            raise UserError(f"target has {len(array)} entries for {count} images")
        if array.dtype.kind not in "iu":
            return array.astype(np.float32)
        classes = np.broadcast_to(array, (count,)).astype(np.int32)
        known = len(self.run.task.class_names)
        if (classes >= known).any() or (classes < -1).any():
            raise UserError(f"target={target!r}: the classes of {self.run.folder} are 0 … {known - 1}")
        return classes

    def _sounds(self, batch: Mapping[str, np.ndarray]) -> list[tuple[np.ndarray, float] | None]:
        heard = self._hear(batch) if self._hear else None
        if heard is None:
            return [None] * len(batch["valid"])
        inputs = self.run.task.inputs
        assert isinstance(inputs, Legible)
        own = [mel[keep > 0] for mel, keep in zip(*jax.device_get(heard), strict=True)]
        return [(mel, inputs.seconds(len(mel))) if len(mel) else None for mel in own]


def _padded(rows: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), 0)])


def _partners(count: int, size: int) -> np.ndarray:
    """(1, size): of each of the first `count` the next one, of the last the first; padding is its own partner."""
    partner = np.arange(size)
    partner[:count] = (partner[:count] + 1) % count
    return partner[None]


def _probabilities(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
