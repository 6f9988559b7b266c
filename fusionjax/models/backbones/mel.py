"""A small encoder of log-mel frames, to train from scratch without Wav2Vec2 weights.

Strided 3×3 convolutions over time and frequency, then pre-norm transformer blocks over time. Nothing is normalised over
time, and padding is zero in every convolution, so the tokens of a clip do not depend on the other clips of the batch.
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
from fusionjax.models.observation import Axis, Stream
from fusionjax.types import Array


def sincos_1d(length: int, width: int) -> np.ndarray:
    """Returns sine-cosine position embeddings, (T, d) float32: [sin(t·ω), cos(t·ω)], ω_i = 10000^(−i / (d/2)).

    Source: Vaswani et al., 2017, section 3.5.
    """
    angles = np.arange(length)[:, None] * 10000.0 ** (-np.arange(width // 2) / (width // 2))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


class MelEncoder(nn.Module):
    """Encoder of log-mel frames: one token per 2^n frames, with n convolutions.

    Attributes:
        width, depth, heads: D, L and H of the transformer.
        mlp_ratio: hidden width of its MLP / D.
        channels: channels of the convolutions; each halves time and frequency.
        dropout: rate after the embedding, the attention projections and the MLP layers.
        dtype: dtype of the computation; parameters are float32.

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

    @property
    def streams(self) -> dict[str, Stream]:
        """See `models.observation`."""
        own = Axis("audio")
        return {f"block_{i}/attention": Stream("sa", own, own) for i in range(self.depth)}

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads or self.width % 2:
            raise UserError(f"audio encoder: heads={self.heads} and 2 must divide width={self.width}")
        super().__post_init__()

    @nn.compact
    def __call__(
        self, audio: Array, mask: Array | None = None, *, train: bool = False
    ) -> tuple[Array, dict[str, Any]]:
        """Encodes audio clips.

        Args:
            audio: (B, T, F), log-mel energies in F bins; padding frames come last.
            mask: (B, T) bool, False for padding frames; None for no padding. Their content has no effect on the output.
            train: dropout on; needs the PRNG collection "dropout".

        Returns:
            (B, ⌈T / 2ⁿ⌉, D) in `dtype`, 0 for padding tokens, and {"mask": (B, ⌈T / 2ⁿ⌉) bool, False for padding tokens}.
        """
        mask = jnp.ones(audio.shape[:2], bool) if mask is None else jnp.asarray(mask) != 0
        x = jnp.where(mask[..., None], audio, 0).astype(self.dtype)[..., None]
        for i, channels in enumerate(self.channels):
            x = nn.Conv(channels, (3, 3), (2, 2), [(1, 1), (1, 1)], dtype=self.dtype, name=f"conv_{i}")(x)
            x = gelu(LayerNorm(dtype=self.dtype, name=f"conv_norm_{i}")(x))
            # A token is valid if the centre of its window is. The next convolution must see zeros as padding.
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
