"""Image and text encoders and what fuses them: image–text classification (docs/methods/image_text_fusion.md)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fusionjax.models.backbones.text import TextEncoder
from fusionjax.models.layers import DType, feature_norm
from fusionjax.models.methods.fusion import FusionClassifier
from fusionjax.types import Array


class ImageText(nn.Module):
    """Encoders in front of a `FusionClassifier`; a frozen one may be left out of a call by giving its features.

    Attributes:
        trunk: module mapping images to (B, h, w, C) features.
        fusion: what reads both.
        text: encoder of texts; None where the fusion reads none.
        freeze_trunk, freeze_text: the encoder runs in evaluation mode and receives no gradient.
        trunk_norm: batch normalisation, without scale and shift, of the image's features.
        dtype: of the computation.
    """

    trunk: nn.Module
    fusion: FusionClassifier
    text: TextEncoder | None = None
    freeze_trunk: bool = False
    freeze_text: bool = False
    trunk_norm: bool = False
    dtype: DType = jnp.float32

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the image's tokens."""
        return self.fusion.grid

    @property
    def parts(self) -> tuple[tuple[str, nn.Module | None], ...]:
        """The encoders, and what reads them: see `models.parameters`."""
        return tuple((name, getattr(self, name, None)) for name in ("trunk", "text", "audio", "fusion"))

    def setup(self) -> None:
        if self.trunk_norm:
            self.feature_norm = feature_norm(self.dtype)

    def __call__(
        self,
        images: Array | None = None,
        *,
        features: Array | None = None,
        tokens: Array | None = None,
        text: Array | None = None,
        text_mask: Array | None = None,
        train: bool = False,
        capture: tuple[str, ...] = (),
    ) -> tuple[Array, dict[str, Any]]:
        """Class logits.

        Args:
            images: (B, H, W, 3) normalised; or
            features: (B, h, w, C), what `trunk` made of them.
            tokens: (B, T) int32 words; or
            text: (B, T, Ct), what `text` made of them; or (1, M, Ct), a bank that all images share.
            text_mask: bool, (B, T) or (1, M), False at padding.
            train: dropout on; needs the PRNG collection "dropout".
            capture: see `FusionClassifier`.

        Returns:
            As `FusionClassifier`.
        """
        if (images is None) == (features is None):
            raise ValueError("pass either images or features")
        if features is None:
            features = self.run_trunk(images, train=train)
        image = features.astype(self.dtype)
        if self.trunk_norm:
            image = self.feature_norm(image, use_running_average=not train)
        image = image.reshape(image.shape[0], -1, image.shape[-1])
        if self.fusion.mode == "image":
            return self.fusion(image, train=train, capture=capture)
        if text is None:
            text = self.encode_text(tokens, text_mask, train=train)
        return self.fusion(image, text.astype(self.dtype), text_mask, train=train, capture=capture)

    def run_trunk(self, images: Array, *, train: bool = False) -> Array:
        """The trunk's feature map (B, h, w, C) of normalised images."""
        features, _ = self.trunk(images, train=train and not self.freeze_trunk)
        return jax.lax.stop_gradient(features) if self.freeze_trunk else features

    def pool_trunk(self, features: Array) -> Array:
        """Mean over the grid of the trunk's features, (B, C): what a linear probe sees."""
        return features.astype(jnp.float32).mean((1, 2))

    def encode_text(self, tokens: Array, mask: Array, *, train: bool = False) -> Array:
        """Token vectors (B, T, Ct) of texts (B, T)."""
        _, aux = self.text(tokens, mask, train=train and not self.freeze_text)
        return jax.lax.stop_gradient(aux["tokens"]) if self.freeze_text else aux["tokens"]
