"""A small encoder of log-mel frames, to train from scratch where no weights of Wav2Vec2 are at hand.

Strided 3×3 convolutions over time and frequency, then pre-norm transformer blocks over time. Nothing is normalised over time
and every convolution sees zeros beyond a clip's end, so each clip of a batch gives what it gives alone.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from fusionjax.errors import UserError
from fusionjax.models.attention import attention
from fusionjax.models.backbones.vit import Block
from fusionjax.models.layers import Dense, DType, LayerNorm, gelu
from fusionjax.types import Array


def sincos_1d(length: int, width: int) -> np.ndarray:
    """Sine-cosine positions, (T, d) float32: [sin(t·ω), cos(t·ω)], ω_i = 10000^(−i / (d/2)) (Vaswani et al., 2017)."""
    angles = np.arange(length)[:, None] * 10000.0 ** (-np.arange(width // 2) / (width // 2))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


class MelEncoder(nn.Module):
    """Tokens of log-mel frames, one for 2^n frames with n convolutions.

    Attributes:
        width, depth, heads: D, L and H of the transformer.
        mlp_ratio: hidden width of its MLP / D.
        channels: of the convolutions; each halves time and frequency.
        dropout: after the embedding, the attention projections and the MLP layers.
        dtype: of the computation; parameters are float32.

    Raises:
        UserError: `heads` does not divide `width`, or `width` is odd.
    """

    width: int = 128
    depth: int = 2
    heads: int = 4
    mlp_ratio: float = 2.0
    channels: Sequence[int] = (8, 16, 32)
    dropout: float = 0.0
    dtype: DType = jnp.float32

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads or self.width % 2:
            raise UserError(f"audio encoder: heads={self.heads} and 2 must divide width={self.width}")
        super().__post_init__()

    @nn.compact
    def __call__(
        self, audio: Array, mask: Array | None = None, *, train: bool = False
    ) -> tuple[Array, dict[str, Any]]:
        """Tokens of a clip's sound.

        Args:
            audio: (B, T, F), log-mel energies, F bins; each clip's own frames come first.
            mask: (B, T) bool, True for a clip's own frames; None for all. What stands in the others changes no bit.
            train: dropout on; needs the PRNG collection "dropout".

        Returns:
            (B, ⌈T / 2ⁿ⌉, D) in `dtype`, 0 where a token is padding, and {"mask": of the tokens, bool}.
        """
        mask = jnp.ones(audio.shape[:2], bool) if mask is None else jnp.asarray(mask) != 0
        x = jnp.where(mask[..., None], audio, 0).astype(self.dtype)[..., None]
        for i, channels in enumerate(self.channels):
            x = nn.Conv(channels, (3, 3), (2, 2), [(1, 1), (1, 1)], dtype=self.dtype, name=f"conv_{i}")(x)
            x = gelu(LayerNorm(dtype=self.dtype, name=f"conv_norm_{i}")(x))
            # The centre of a window is inside the clip. Beyond its end the next convolution must see zeros, as it does alone.
            mask = mask[:, ::2]
            x = jnp.where(mask[..., None, None], x, 0)
        x = Dense(self.width, dtype=self.dtype, name="proj")(x.reshape(*x.shape[:2], -1))
        x = x + jnp.asarray(sincos_1d(x.shape[1], self.width), self.dtype)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        attend = functools.partial(attention, mask=mask[:, None, None])
        for i in range(self.depth):
            block = Block(
                self.heads, int(self.width * self.mlp_ratio), self.dropout, self.dtype, name=f"block_{i}"
            )
            x, _ = block(x, None, attend=attend, train=train)
        x = LayerNorm(dtype=self.dtype, name="norm")(x)
        return jnp.where(mask[..., None], x, 0), {"mask": mask}
