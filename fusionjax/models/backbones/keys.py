"""The rules of key maps: the parameter of a reference tensor, and the transformation of the tensor."""

from collections.abc import Callable, Mapping
from types import EllipsisType
from typing import Any, NamedTuple

import numpy as np


class Rule(NamedTuple):
    """The target of one reference tensor.

    Attributes:
        path: path of the leaf, beginning with the collection: ("params", "stem", "kernel").
        turn: tensor → leaf, or the layer of the leaf.
        layer: index along the leading axis of the leaf where layers are stacked, else None.
        part: (i, n) where the tensor is the i-th of n equal parts of the last axis of the leaf, else None.
    """

    path: tuple[str, ...]
    turn: Callable[[np.ndarray], np.ndarray]
    layer: int | None = None
    part: tuple[int, int] | None = None

    def region(self, shape: tuple[int, ...]) -> tuple[int | slice | EllipsisType, ...]:
        """Returns the index of the transformed tensor in a leaf of this shape."""
        layer: tuple[int, ...] = () if self.layer is None else (self.layer,)
        if self.part is None:
            return layer
        i, n = self.part
        width = shape[-1] // n
        return (*layer, ..., slice(i * width, (i + 1) * width))


KeyMap = dict[str, Rule]


def same(tensor: np.ndarray) -> np.ndarray:
    """The tensor, unchanged."""
    return tensor


def conv(tensor: np.ndarray) -> np.ndarray:
    """torch's (D, C, k, k) → (k, k, C, D)."""
    return tensor.transpose(2, 3, 1, 0)


def linear(tensor: np.ndarray) -> np.ndarray:
    """torch's (D, C) → (C, D)."""
    return tensor.transpose(1, 0)


def flat_conv(tensor: np.ndarray) -> np.ndarray:
    """A 1×1 convolution's (D, C, 1, 1) → a linear layer's (C, D)."""
    return tensor[:, :, 0, 0].transpose(1, 0)


def linear_rules(source: str, *path: str, turn: Callable[[np.ndarray], np.ndarray] = linear) -> KeyMap:
    """Rules of a linear layer: weight, bias → params/…/kernel, bias."""
    return {
        f"{source}.weight": Rule(("params", *path, "kernel"), turn),
        f"{source}.bias": Rule(("params", *path, "bias"), same),
    }


def norm_rules(source: str, *path: str, statistics: bool = False) -> KeyMap:
    """Rules of a normalisation layer: weight, bias → params/…/scale, bias; running statistics → batch_stats/…/mean, var."""
    rules = {
        f"{source}.weight": Rule(("params", *path, "scale"), same),
        f"{source}.bias": Rule(("params", *path, "bias"), same),
    }
    if statistics:
        rules[f"{source}.running_mean"] = Rule(("batch_stats", *path, "mean"), same)
        rules[f"{source}.running_var"] = Rule(("batch_stats", *path, "var"), same)
    return rules


def unit_rules(convolution: str, norm: str, *path: str, statistics: bool = True) -> KeyMap:
    """Rules of a convolution without bias and the normalisation after it → one ConvNorm."""
    kernel = {f"{convolution}.weight": Rule(("params", *path, "kernel"), conv)}
    return kernel | norm_rules(norm, *path, statistics=statistics)


def classes(tensors: Mapping[str, np.ndarray], head: str) -> int:
    """Returns the number of classes of the head whose kernel has this name; 0 if there is none."""
    return np.shape(tensors[head])[0] if head in tensors else 0


def headed(tensors: Mapping[str, np.ndarray], head: str) -> dict[str, Any]:
    """Returns the fields of a convolutional network whose head matches the tensors, or without a head."""
    count = classes(tensors, head)
    return {"num_classes": count} if count else {"output": "pooled"}
