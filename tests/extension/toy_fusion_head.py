"""A fusion head of one's own: an image's vector, modulated by a text's."""

import flax.linen as nn

from fusionjax import register
from fusionjax.models.layers import LayerNorm
from fusionjax.models.methods.fusion_heads import Head, Seen
from fusionjax.models.methods.token_blocks import Blocks
from fusionjax.types import Array


@register.fusion_head("modulated")
class Modulated(Head):
    """LN(v + v ∘ t), of width d."""

    @nn.compact
    def __call__(
        self, v: Array, t: Array, image: Array, text: Blocks, *, train: bool, capture: tuple[str, ...] = ()
    ) -> tuple[Array, Seen]:
        return LayerNorm(1e-6, name="norm")(v + v * t), {}
