"""The model of image–text fusion, from an image encoder, a text encoder and what joins them."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fusionjax import register
from fusionjax.data.source import Source
from fusionjax.models.backbones.text import TextEncoder
from fusionjax.models.methods.fusion import FusionClassifier, check
from fusionjax.models.methods.image_text_with_encoders import ImageText
from fusionjax.tasks.base import model_factory
from fusionjax.tasks.base.image_inputs import ImageInputs
from fusionjax.tasks.base.image_model import Encoder, ImageModel, frozen_trunk
from fusionjax.tasks.base.protocol import Facts, Say
from fusionjax.tasks.image_text.text_inputs import TextInputs
from fusionjax.types import PyTree


def create(
    config: ConfigDict, facts: Facts, images: ImageInputs, text: TextInputs | None
) -> ImageModel[ImageText]:
    """The model with its text encoder's published weights.

    Args:
        config: of the whole run, validated.
        facts: of the data.
        images, text: inputs of the task; no text for a model that reads none.

    Raises:
        UserError: see `module`.
    """
    built = module(config, len(facts.class_names), None if text is None else text.module)
    frozen = frozen_trunk(config)
    if text is None:
        return ImageModel(config, built, images, frozen=frozen, grid=built.grid)
    return ImageModel(
        config,
        built,
        images,
        arguments=lambda: {"tokens": jnp.zeros((1, 8), jnp.int32), "text_mask": jnp.ones((1, 8), bool)},
        encoders={"text": Encoder("text.encoder", text.weights)},
        collections=(Bank(text),) if text.kind == "bank" and text.freeze else (),
        frozen=(*frozen, "^text/") if text.freeze else frozen,
        grid=built.grid,
    )


def module(config: ConfigDict, num_classes: int, text: TextEncoder | None) -> ImageText:
    """The module of `config.model`, `config.fusion` and `config.text`.

    Args:
        config: of the run, validated.
        num_classes: C of its classifier.
        text: the encoder; None for a model that reads no text.

    Raises:
        UserError: no trunk, or an impossible combination.
    """
    c, f = config.model, config.fusion
    trunk, grid = model_factory.image_encoder(config)
    dtype = jnp.dtype(config.precision).type
    sizes = {key: c[key] for key in ("width", "depth", "heads", "mlp_ratio") if c[key]}
    fusion = FusionClassifier(
        grid=grid, num_classes=num_classes, **sizes, dropout=c.dropout, mode=f.mode, head=f.head,
        head_options=register.fusion_heads.get(f.head).options(f), remat=c.remat, dtype=dtype,
    )  # fmt: skip
    check(fusion)
    return ImageText(
        trunk, fusion, text, freeze_trunk=c.freeze_trunk, freeze_text=config.text.freeze, trunk_norm=c.trunk_norm,
        dtype=dtype,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Bank:
    """The features of the descriptions of all classes by a frozen encoder; see `image_model.Collection`.

    Attributes:
        text: with the bank.
    """

    text: TextInputs
    name: str = "bank"

    def fresh(self) -> PyTree:
        """See `Collection.fresh`."""
        return {"text": np.zeros(self.text.bank_shape(), np.float32)}

    def from_params(self, params: PyTree) -> PyTree:
        """See `Collection.from_params`."""
        tokens = jnp.asarray(self.text.features(self.text.bank, params["text"]), jnp.float32)
        return {"text": np.asarray(self.text.bank_features(tokens))}

    def from_data(self, source: Source, *, steps: int, folder: Path, say: Say) -> None:
        """See `Collection.from_data`."""
        return None
