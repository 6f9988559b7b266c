"""Pretrained weights: read a file, convert its tensors, merge them into an initialised model."""

from pathlib import Path
from typing import Any

from fusionjax.pretrained.convert import convert
from fusionjax.pretrained.files import read
from fusionjax.pretrained.merge import merge
from fusionjax.types import PyTree

__all__ = ["convert", "load", "merge", "read"]


def load(source: str | Path, name: str, template: PyTree | None = None) -> dict[str, Any]:
    """Variables of a model from a weight file: `convert(name, read(source), template)`.

    Args:
        source: as `read` takes it, for instance "package:efficientnet_lite0" or "weights.safetensors".
        name: of the model.
        template: as `convert` takes it.

    Raises:
        UserError: the file cannot be read, or its tensors do not fit the model.
    """
    return convert(name, read(source), template)
