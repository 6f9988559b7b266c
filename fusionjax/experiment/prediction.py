"""What a trained run predicts for one image."""

import dataclasses
from typing import Any

import numpy as np

from fusionjax.errors import UserError
from fusionjax.interpret.maps import Example


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
