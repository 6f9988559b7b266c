"""What a trained run predicts for one image."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fusionjax.errors import UserError
from fusionjax.interpret.maps import Example
from fusionjax.tasks.base.protocol import Task


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The prediction of one image.

    Attributes:
        name: the file's, or "image <n>" for an array.
        image: uint8 (S, S, 3), as the model saw it; None where it cannot be read.
        classes: the k most probable class names, the most probable first.
        probabilities: float32 (k,), of these classes.
        rollout: float32 (h, w), the contribution of each patch to CLS, or None.
        selected: int32 (n,), the patches that GLCA selected, by descending weight, or None.
        error: why the image cannot be read; "" where it can. There are no classes then.
    """

    name: str
    image: np.ndarray | None
    classes: tuple[str, ...]
    probabilities: np.ndarray
    rollout: np.ndarray | None
    selected: np.ndarray | None
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Name, classes, probabilities and error as plain values, for JSON."""
        return {
            "image": self.name,
            "classes": list(self.classes),
            "probabilities": [float(p) for p in self.probabilities],
            "error": self.error,
        }

    def example(self) -> Example:
        """For the figures of `fusionjax.interpret`."""
        if self.image is None:
            raise UserError(f"{self.name} cannot be read: {self.error}")
        return Example(
            name=self.name,
            image=self.image,
            true="",
            predicted=self.classes[0],
            probability=float(self.probabilities[0]),
            rollout=self.rollout,
            selected=self.selected,
            grid=None if self.rollout is None else self.rollout.shape,
        )


def check_classes(folder: Path, task: Task) -> None:
    """Raises a UserError for a run that predicts no classes."""
    if "embedding" in task.scorer.output_names:
        raise UserError(f"{folder}: re-identification has no classes to predict; use embed()")
    if "embedding/" in task.scorer.output_names:
        raise UserError(
            f"{folder} has no classes to predict; its embeddings are in embeddings/, its encoders in towers/"
        )


def check_beside(
    folder: Path,
    task: Task,
    count: int,
    texts: Sequence[str] | None,
    sounds: Sequence[str | Path | None] | None,
) -> None:
    """Raises a UserError where the texts and sounds of `count` images are not what the run reads."""
    if task.inputs.reads_text and (texts is None or len(texts) != count):
        raise UserError(f"{folder} reads a text of each image: give {count} texts, one per image")
    if texts is not None and not task.inputs.reads_text:
        raise UserError(f"{folder} reads no text of an image: leave texts out")
    if sounds is not None and not task.inputs.reads_sound:
        raise UserError(f"{folder} is a model without audio input: leave sounds out")
    for name, given in (("texts", texts), ("sounds", sounds)):
        if isinstance(given, str):  # would be taken apart into letters
            raise UserError(f"{name} is a list with one for each image, not one string: {given!r}")
    if sounds is not None and len(sounds) != count:
        raise UserError(f"{folder}: give {count} sounds, one per image, an empty one for none")
