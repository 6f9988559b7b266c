"""A frozen image encoder and MVPDR's prototypes as one classifier of images (docs/methods/mvpdr.md)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fusionjax.models.backbones.clip import CLIP
from fusionjax.models.layers import Dense, DType
from fusionjax.models.methods import mvpdr
from fusionjax.types import Array

COUNTS = "prototypes"
"""Collection of the numbers of prototypes: they follow from the data, the shapes do not."""


class PrototypeClassifier(nn.Module):
    """`mvpdr.MVPDR` on what a frozen image encoder makes of images.

    Parameters: "trunk", "projection" where there is one, "visual" (C, K, D) and "text" (C, P, D), of which a class uses the
    first few. The collection `COUNTS` says how many: "visual_count" and "text_count" (C,) int32; and "align_steps", how long
    the projection was trained.

    Attributes:
        trunk: images → (B, h, w, Di) features; or a CLIP, whose image tower is used.
        num_classes: C.
        visual, text: K and P, room for the prototypes of a class.
        width: D of the common space.
        project: a linear layer without bias leads from the trunk's mean features to the common space.
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
        self, images: Array | None = None, *, features: Array | None = None, train: bool = False
    ) -> tuple[Array, dict[str, Any]]:
        """Class scores; see `mvpdr.scores`.

        Args:
            images: (B, H, W, 3) normalised; or
            features: what `run_trunk` made of them.
            train: changes nothing: the trunk is frozen.

        Returns:
            logits (B, C) float32; aux: "visual", "text_mean", "text_max" (B, C) each, and "features" (B, D).
        """
        if (images is None) == (features is None):
            raise ValueError("pass either images or features")
        x = self.pool_trunk(self.run_trunk(images) if features is None else features)
        x = self.projection(x) if self.project else x
        visual, text = (
            mvpdr.Prototypes(self.vectors[name], self.counts[name].value) for name in ("visual", "text")
        )
        logits, aux = mvpdr.scores(x, visual, text, alpha=self.alpha, beta=self.beta, gamma=self.gamma)
        return logits, {**aux, "features": x}

    def run_trunk(self, images: Array) -> Array:
        """(B, h, w, Di) of normalised images, or a CLIP's unit vectors (B, D)."""
        found = self.trunk.encode_image(images) if isinstance(self.trunk, CLIP) else self.trunk(images)
        return jax.lax.stop_gradient(found[0])

    def pool_trunk(self, features: Array) -> Array:
        """(B, Di) float32: the mean over the grid where there is one."""
        features = features.astype(jnp.float32)
        return features if features.ndim == 2 else features.mean((1, 2))
