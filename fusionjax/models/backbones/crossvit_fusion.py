"""CrossViT's cross-attention between branches (Chen, Fan & Panda, ICCV 2021, section 3.3)."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from fusionjax.models.attention import attention_and_map, merge_heads, split_heads
from fusionjax.models.layers import Dense, DType, LayerNorm, gelu, residual
from fusionjax.models.observation import observer
from fusionjax.types import Array


class Fusion(nn.Module):
    """Cross-attention from the CLS token of one branch to the patch tokens of another.

    The CLS token is projected to the width of the other branch and back.

    Attributes:
        heads: H of the other branch.
        depth: number of cross-attention blocks, all with the same patch tokens.

    Args (call):
        cls: (B, 1, D_i), CLS token of the branch.
        patches: (B, N_j − 1, D_j), patch tokens of the other branch.
        rate: stochastic depth rate.

    Returns:
        (B, 1, D_i) without a residual from `cls`, and the maps [(B, H, 1, N_j)] if "attention" is captured.

    The other fields are those of `vit.Block`.
    """

    heads: int
    depth: int = 1
    dropout: float = 0.0
    dtype: DType = jnp.float32
    qkv_bias: bool = True
    qk_scale: float | None = None
    attention_dropout: float = 0.0
    norm: Callable[..., nn.Module] = LayerNorm

    @nn.compact
    def __call__(
        self, cls: Array, patches: Array, rate: float, *, train: bool, capture: tuple[str, ...] = ()
    ) -> tuple[Array, list[Array]]:
        own, width = cls.shape[-1], patches.shape[-1]
        cls = Dense(width, dtype=self.dtype, name="proj")(gelu(self._norm("proj_norm")(cls)))
        maps: list[Array] = []
        for index in range(self.depth):
            out = self._attend(index, jnp.concatenate([cls, patches], 1), train, capture, maps)
            out = nn.Dropout(self.dropout, deterministic=not train)(out)
            cls = residual(self, cls, out, rate or None, train=train)
        return Dense(own, dtype=self.dtype, name="revert")(gelu(self._norm("revert_norm")(cls))), maps

    def _attend(
        self, index: int, x: Array, train: bool, capture: tuple[str, ...], maps: list[Array]
    ) -> Array:
        x = self._norm(f"norm_{index}")(x)
        q, k, v = (
            split_heads(
                Dense(x.shape[-1], self.qkv_bias, self.dtype, name=f"{part}_{index}")(tokens), self.heads
            )
            for part, tokens in (("q", x[:, :1]), ("k", x), ("v", x))
        )
        if self.qk_scale is not None:
            q = q * (self.qk_scale * q.shape[-1] ** 0.5)
        key = self.make_rng("dropout") if train and self.attention_dropout > 0 else None
        # The map has one row, so computing it is as cheap as any alternative.
        see = observer(self, f"attention_{index}")
        out, weights = attention_and_map(
            q, k, v, rate=self.attention_dropout, key=key, with_map=True, see=see
        )
        if weights is not None and {"attention", "fusion"} & set(capture):
            maps.append(weights)
        return Dense(x.shape[-1], dtype=self.dtype, name=f"out_{index}")(merge_heads(out))

    def _norm(self, name: str) -> nn.Module:
        return self.norm(dtype=self.dtype, name=name)
