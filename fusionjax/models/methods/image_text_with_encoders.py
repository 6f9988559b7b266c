"""Image–text classification: an image encoder, a text encoder and the classifier that fuses them.

See docs/methods/image_text_fusion.md.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float, Int, Shaped

from fusionjax.models.backbones.text import TextEncoder
from fusionjax.models.layers import DType, feature_norm
from fusionjax.models.methods.fusion import FusionClassifier
from fusionjax.models.observation import observe_tokens, stop_gradient
from fusionjax.types import Array, Aux


class ImageText(nn.Module):
    """Encoders in front of a `FusionClassifier`; a call may pass the features of an encoder instead of its input.

    Attributes:
        trunk: module that maps images to features (B, h, w, C).
        fusion: classifier of both modalities.
        text: text encoder; None if the classifier uses no text.
        freeze_trunk, freeze_text: the encoder runs in evaluation mode and receives no gradient.
        trunk_norm: batch normalisation, without scale and shift, of the image features.
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
        images: Float[Array, "batch rows columns channels"] | None = None,
        *,
        features: Float[Array, "batch grid_rows grid_columns width"] | None = None,
        tokens: Int[Array, "batch length"] | None = None,
        text: Float[Array, "text_batch length text_width"] | None = None,
        text_mask: Shaped[Array, "mask_batch length"] | None = None,
        train: bool = False,
        capture: tuple[str, ...] = (),
    ) -> tuple[Float[Array, "batch classes"], Aux]:
        """Computes class logits.

        Args:
            images: (B, H, W, 3) float, normalised; or
            features: (B, h, w, C) float, the output of `trunk` for them.
            tokens: (B, T) int32 token ids; or
            text: (B, T, Ct) float, the output of `text` for them; or (1, M, Ct), descriptions that all images share.
            text_mask: (B, T) or (1, M) bool, False at padding.
            train: dropout on; needs the PRNG collection "dropout".
            capture: see `FusionClassifier`.

        Returns:
            As `FusionClassifier`.

        Raises:
            ValueError: not exactly one of `images` and `features` is given, or the text is missing.
        """
        image = self.image_features(images, features, train=train)
        image = image.astype(self.dtype)
        if self.trunk_norm:
            image = self.feature_norm(image, use_running_average=not train)
        image = image.reshape(image.shape[0], -1, image.shape[-1])
        observe_tokens(self, image)
        if self.fusion.mode == "image":
            return self.fusion(image, train=train, capture=capture)
        if text is None:
            text = self.encode_text(tokens, text_mask, train=train)
        return self.fusion(image, text.astype(self.dtype), text_mask, train=train, capture=capture)

    def image_features(self, images: Array | None, features: Array | None, *, train: bool) -> Array:
        """Returns the given features, or the trunk's of the given images: (B, h, w, C).

        Raises:
            ValueError: not exactly one of the two is given.
        """
        if (images is None) == (features is None):
            raise ValueError("pass either images or features")
        return self.run_trunk(images, train=train) if images is not None else jnp.asarray(features)

    def run_trunk(self, images: Array, *, train: bool = False) -> Array:
        """Computes the trunk's feature map (B, h, w, C) of normalised images (B, H, W, 3)."""
        features, _ = self.trunk(images, train=train and not self.freeze_trunk)
        return stop_gradient(self, features) if self.freeze_trunk else features

    def pool_trunk(self, features: Array) -> Array:
        """Averages the trunk's features over the grid: (B, h, w, C) → (B, C) float32, the input of a linear probe."""
        return features.astype(jnp.float32).mean((1, 2))

    def encode_text(self, tokens: Array | None, mask: Array | None, *, train: bool = False) -> Array:
        """Computes the token vectors (B, T, Ct) of token ids (B, T).

        Raises:
            ValueError: there are no tokens, or the model has no text encoder.
        """
        if self.text is None or tokens is None:
            raise ValueError("the model uses text: pass tokens or text")
        _, aux = self.text(tokens, mask, train=train and not self.freeze_text)
        return stop_gradient(self, aux["tokens"]) if self.freeze_text else aux["tokens"]
