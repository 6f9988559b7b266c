"""A frozen image encoder and MVPDR's prototypes as one image classifier; see docs/methods/mvpdr.md."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from fusionjax.models.backbones.clip import CLIP
from fusionjax.models.layers import Dense, DType
from fusionjax.models.methods import mvpdr
from fusionjax.models.observation import stop_gradient
from fusionjax.types import Array, Aux

COUNTS = "prototypes"
"""Variable collection with the numbers of prototypes, which depend on the data, whereas the shapes do not."""


class PrototypeClassifier(nn.Module):
    """`mvpdr.MVPDR` on the features of a frozen image encoder.

    Parameters: "trunk", "projection" if there is one, "visual" (C, K, D) and "text" (C, P, D), of which each class uses the
    first few. The collection `COUNTS` holds their numbers, "visual_count" and "text_count" (C,) int32, and "align_steps", the
    number of steps for which the projection was trained.

    Attributes:
        trunk: maps images to features (B, h, w, Di); or a CLIP, whose image encoder is used.
        num_classes: C.
        visual, text: K and P, maximum number of prototypes of a class.
        width: D of the common space.
        project: a linear layer without bias maps the trunk's mean features to the common space.
        alpha, beta, gamma: see `mvpdr.scores`.
        dtype: of the trunk's computation.
    """

    trunk: nn.Module
    num_classes: int
    visual: int
    text: int
    width: int
    project: bool = True
    alpha: float = 0.3
    beta: float = 0.5
    gamma: float = 0.5
    dtype: DType = jnp.float32

    @property
    def parts(self) -> tuple[tuple[str, nn.Module], ...]:
        """The trunk: see `models.parameters`."""
        return (("trunk", self.trunk),)

    def setup(self) -> None:
        if self.project:
            self.projection = Dense(self.width, use_bias=False)
        made, counts = {}, {}
        for name, places in (("visual", self.visual), ("text", self.text)):
            shape = (self.num_classes, places, self.width)
            made[name] = self.param(name, nn.initializers.lecun_normal(), shape, jnp.float32)
            counts[name] = self.variable(COUNTS, f"{name}_count", jnp.full, shape[:1], places, jnp.int32)
        self.vectors, self.counts = made, counts
        self.align_steps = self.variable(COUNTS, "align_steps", jnp.zeros, (), jnp.int32)

    def __call__(
        self,
        images: Float[Array, "batch rows columns channels"] | None = None,
        *,
        features: Float[Array, "batch ..."] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "batch {self.num_classes}"], Aux]:
        """Computes class scores; see `mvpdr.scores`.

        Args:
            images: (B, H, W, 3) float, normalised; or
            features: the output of `run_trunk` for them.
            train: has no effect, because the trunk is frozen.

        Returns:
            Logits, (B, C) float32; aux: "visual", "text_mean", "text_max" (B, C) each, and "features" (B, D).

        Raises:
            ValueError: not exactly one of `images` and `features` is given.
        """
        if (images is None) == (features is None):
            raise ValueError("pass either images or features")
        x = self.pool_trunk(self.run_trunk(images) if images is not None else jnp.asarray(features))
        x = self.projection(x) if self.project else x
        visual, text = (
            mvpdr.Prototypes(self.vectors[name], self.counts[name].value) for name in ("visual", "text")
        )
        logits, aux = mvpdr.scores(x, visual, text, alpha=self.alpha, beta=self.beta, gamma=self.gamma)
        return logits, {**aux, "features": x}

    def run_trunk(self, images: Array) -> Array:
        """Computes the features (B, h, w, Di) of normalised images, or a CLIP's unit vectors (B, D)."""
        found = self.trunk.encode_image(images) if isinstance(self.trunk, CLIP) else self.trunk(images)
        return stop_gradient(self, found[0])

    def pool_trunk(self, features: Array) -> Array:
        """Averages the features over the grid, if there is one: (B, Di) float32."""
        features = features.astype(jnp.float32)
        return features if features.ndim == 2 else features.mean((1, 2))
