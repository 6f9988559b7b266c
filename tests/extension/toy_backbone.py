"""A backbone family of one's own: patches, a residual layer for each of L, their mean, and a classifier."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from fusionjax import register
from fusionjax.models.backbones.record import Family, Layer, LayerOrder, Preprocessing
from fusionjax.types import Array

SIDE = 32


class Pooled(nn.Module):
    """(B, h, w, C) images → (B, num_classes) logits, and aux without entries.

    Attributes:
        num_classes: C of the classifier.
        depth: L.
        width: D.
        patch: side of a patch, in pixels.
        dtype: of the computation.
    """

    num_classes: int = 10
    depth: int = 2
    width: int = 32
    patch: int = 8
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Array, *, train: bool = False, capture: tuple[str, ...] = ()
    ) -> tuple[Array, dict[str, Array]]:
        x = nn.Conv(self.width, (self.patch,) * 2, self.patch, dtype=self.dtype, name="embed")(images)
        x = x + self.param("position", nn.initializers.zeros, x.shape[1:])
        for index in range(self.depth):
            x = x + nn.gelu(nn.Dense(self.width, dtype=self.dtype, name=f"layer_{index}")(x))
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)).astype(jnp.float32)), {}


def build(name: str, **fields: Any) -> Pooled:
    """A model of the family."""
    return Pooled(**fields)


def layers(module: Pooled) -> LayerOrder:
    """0 is the embedding, 1 … L the layers, L + 1 the classifier."""
    own = (Layer(f"layer_{index}/.*", index + 1) for index in range(module.depth))
    return LayerOrder(module.depth, (Layer("embed/.*|position", 0), *own, Layer("head/.*", module.depth + 1)))


def configure(config: ConfigDict, *, image_shape: tuple[int, int], channels: int) -> dict[str, Any]:
    """Fields of the module from `config.model`; 0 is the family's own."""
    return {key: config.model[key] for key in ("depth", "width", "patch") if config.model[key]}


def inputs(module: Pooled, size: tuple[int, int] | None) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Shape and dtype of one image."""
    return (jax.ShapeDtypeStruct((1, *(size or (SIDE, SIDE)), 3), jnp.float32),)


register.backbone(
    Family(
        name="pooled",
        names=("pooled_tiny",),
        module=Pooled,
        build=build,
        layers=layers,
        inputs=inputs,
        undecayed=("position",),
        heads=("head",),
        preprocessing={"pooled_tiny": Preprocessing((SIDE, SIDE))},
        reads=("depth", "width", "patch"),
        configure=configure,
    )
)
