"""The module of image, audio and text: encoders, and the classifier that joins what they give."""

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict

from fusionjax.config import impossible
from fusionjax.models.backbones.text import TextEncoder
from fusionjax.models.methods.trimodal import MODALITIES, TrimodalClassifier, check, possible
from fusionjax.models.methods.trimodal_with_encoders import Multimodal
from fusionjax.tasks.base import model_factory


def module(
    config: ConfigDict, num_classes: int, audio: nn.Module | None, text: TextEncoder | None
) -> Multimodal:
    """The module of `config.model` and `config.trimodal`.

    Args:
        config: of the run, validated.
        num_classes: C of its classifier.
        audio, text: the encoders; None for a modality that is not read.

    Raises:
        UserError: a trunk without images or images without one, or an impossible combination.
    """
    c, t = config.model, config.trimodal
    check(t.modalities, ())
    # A pairing of a modality that is left out is none; a misspelt one is an error.
    check(MODALITIES, t.pairings)
    dtype, trunk, grid = jnp.dtype(config.precision).type, None, (1, 1)
    if "image" in t.modalities:
        trunk, grid = model_factory.image_encoder(config)
    elif c.trunk:
        raise impossible(config, "model.trunk", "trimodal.modalities has no image: set it to ''")
    sizes = {key: c[key] for key in ("width", "heads") if c[key]}
    fusion = TrimodalClassifier(
        num_classes, tuple(t.modalities), possible(t.pairings, t.modalities), **sizes, hidden=t.hidden,
        dropout=c.dropout, modality_dropout=t.modality_dropout, dtype=dtype,
    )  # fmt: skip
    return Multimodal(
        trunk,
        fusion,
        text,
        c.freeze_trunk,
        config.text.freeze,
        c.trunk_norm,
        dtype,
        audio,
        config.audio.freeze,
        grid,
    )
