"""Wav2Vec2: a transformer over convolutional features of a waveform.

Baevski et al., NeurIPS 2020, arXiv 2006.11477. The base architecture has group norm after the first convolution only, and
post-norm layers, which run as one `nn.scan`.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from fusionjax.errors import UserError
from fusionjax.models.attention import attention_and_map, merge_heads, split_heads
from fusionjax.models.layers import Dense, DType, LayerNorm, gelu, scan_layers
from fusionjax.models.observation import Axis, Stream, observer, self_attention
from fusionjax.types import Array

OUTPUTS = ("tokens", "pooled")
CAPTURE = ("attention", "hidden")
Frames = TypeVar("Frames", int, Array)


def num_frames(samples: Frames, kernels: Sequence[int], strides: Sequence[int]) -> Frames:
    """Returns the number of frames after unpadded convolutions over so many samples (a number or an array), at least 0."""
    for kernel, stride in zip(kernels, strides, strict=True):
        samples = (samples - kernel) // stride + 1
    return max(samples, 0) if isinstance(samples, int) else jnp.maximum(samples, 0)


def conv1d(x: Array, kernel: Array, stride: int) -> Array:
    """Strided convolution without padding: (B, T, C) and (k, C, D) → (B, (T − k) // stride + 1, D)."""
    # XLA's convolution is the fastest on CPUs too: matmuls over grouped samples took 1.8 times as long.
    return lax.conv_general_dilated(x, kernel, (stride,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"))


class ChannelNorm(nn.Module):
    """Group norm with one group per channel, over the frames of a clip without padding, in float32."""

    epsilon: float = 1e-5
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None) -> Array:
        """(B, T, C) and a bool mask (B, T) → (B, T, C)."""
        scale = self.param("scale", nn.initializers.ones_init(), (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (x.shape[-1],), jnp.float32)
        y = x.astype(jnp.float32)
        if mask is None:
            mean = y.mean(1, keepdims=True)
            variance = jnp.square(y - mean).mean(1, keepdims=True)
        else:
            weight = mask[..., None].astype(jnp.float32)
            count = jnp.maximum(weight.sum(1, keepdims=True), 1)
            mean = (y * weight).sum(1, keepdims=True) / count
            variance = (jnp.square(y - mean) * weight).sum(1, keepdims=True) / count
        y = (y - mean) * lax.rsqrt(variance + self.epsilon)
        return (y * scale + bias).astype(self.dtype)


class PositionalConv(nn.Module):
    """Grouped convolution over frames, zero-padded to the same length, with weight norm: kernel g · v / ‖v‖ per tap."""

    kernel: int = 128
    groups: int = 16
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, T, D) → (B, T, D), after GELU."""
        width = x.shape[-1]
        shape = (self.kernel, width // self.groups, width)
        v = self.param("v", nn.initializers.normal(2 * (self.kernel * width) ** -0.5), shape, jnp.float32)
        g = self.param("g", lambda _: jnp.sqrt(jnp.square(v).sum((1, 2))))
        bias = self.param("bias", nn.initializers.zeros_init(), (width,), jnp.float32)
        weight = v * (g * lax.rsqrt(jnp.square(v).sum((1, 2))))[:, None, None]
        # torch pads both sides by k / 2 and, for an even k, drops the last frame.
        padding = (self.kernel // 2, self.kernel // 2 - (self.kernel % 2 == 0))
        y = lax.conv_general_dilated(
            x.astype(self.dtype),
            weight.astype(self.dtype),
            (1,),
            [padding],
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=self.groups,
        )
        return gelu(y + bias.astype(self.dtype))


class EncoderLayer(nn.Module):
    """Post-norm layer: x ← norm1(x + attention x), x ← norm2(x + MLP x)."""

    heads: int
    hidden: int
    dropout: float = 0.0
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, mask: Array | None, *, train: bool, capture: tuple[str, ...] = ()
    ) -> tuple[Array, dict[str, Array]]:
        """(B, T, D) and a bool mask of keys (B, 1, 1, T) → (B, T, D) and what `capture` names."""
        width = x.shape[-1]

        def linear(name: str, features: int = width) -> Dense:
            return Dense(features, dtype=self.dtype, name=name)

        def dropped(x: Array) -> Array:
            return nn.Dropout(self.dropout, deterministic=not train)(x)

        q, k, v = (split_heads(linear(name)(x), self.heads) for name in ("q", "k", "v"))
        out, weights = attention_and_map(
            q, k, v, mask=mask, with_map="attention" in capture, see=observer(self)
        )
        seen = {} if weights is None else {"attention": weights}
        x = x + dropped(linear("out")(merge_heads(out)))
        x = LayerNorm(1e-5, self.dtype, name="norm1")(x)
        y = dropped(gelu(linear("fc1", self.hidden)(x)))
        x = x + dropped(linear("fc2")(y))
        x = LayerNorm(1e-5, self.dtype, name="norm2")(x)
        if "hidden" in capture:
            seen["hidden"] = x
        return x, seen


class Wav2Vec2(nn.Module):
    """Wav2Vec2 without a pretraining or transcription head.

    Attributes:
        output: "tokens" (B, T, D) or "pooled" (B, D), the mean over the frames of a clip.
        width, depth, heads, hidden: D, L, H and the MLP's width.
        conv_width, kernels, strides: width, kernel sizes and strides of the convolutions over the waveform.
        pos_kernel, pos_groups: kernel size and groups of the positional convolution.
        dropout: rate after the projection, after the attention, and inside and after the MLP.
        freeze_extractor: the convolutions receive no gradient, as is usual in fine-tuning; `frozen_parameters` names them,
            since the optimiser must not decay them either.
        remat: recompute layers in the backward pass, which saves memory and takes longer.
        dtype: dtype of the computation; parameters are float32.
    """

    output: str = "tokens"
    width: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    conv_width: int = 512
    kernels: Sequence[int] = (10, 3, 3, 3, 3, 2, 2)
    strides: Sequence[int] = (5, 2, 2, 2, 2, 2, 2)
    pos_kernel: int = 128
    pos_groups: int = 16
    dropout: float = 0.0
    freeze_extractor: bool = False
    frozen_parameters: ClassVar[str] = r"(conv_\d+|conv_norm/.*)"
    remat: bool = False
    dtype: DType = jnp.float32

    @property
    def streams(self) -> dict[str, Stream]:
        """See `models.observation`."""
        return self_attention("layers/attention", Axis("audio"))

    def __post_init__(self) -> None:
        if self.output not in OUTPUTS:
            raise UserError(f"output {self.output!r} is not one of {', '.join(OUTPUTS)}")
        if len(self.kernels) != len(self.strides):
            raise UserError(
                f"kernels has {len(self.kernels)} entries and strides has {len(self.strides)}:"
                " they must be equally long"
            )
        for name in ("heads", "pos_groups"):
            if self.width % getattr(self, name):
                raise UserError(f"{name}={getattr(self, name)} must divide width={self.width}")
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        audio: Array,
        mask: Array | None = None,
        *,
        masked_frames: Array | None = None,
        train: bool = False,
        capture: Sequence[str] = (),
    ) -> tuple[Array, dict[str, Array]]:
        """Encodes waveforms.

        Args:
            audio: (B, samples) float, 16 kHz; each clip normalised to mean 0 and variance 1 without padding.
            mask: (B, samples) bool, True for the samples of a clip, which precede the padding. Padding then has no effect on
                the output: it enters neither the group norm, nor the positional convolution, nor attention, nor the mean.
            masked_frames: (B, T) bool; True frames are replaced by the learned mask embedding (SpecAugment).
            train: dropout on; needs the PRNG collection "dropout".
            capture: "attention" (L, B, H, T, T), "hidden" (L, B, T, D).

        Returns:
            The output in `dtype`, 0 for padding frames, and aux: "mask" (B, T) bool, True for frames without padding, and what
            `capture` names.

        Raises:
            UserError: an unknown name in `capture`.
            ValueError: there are too few samples for one frame.
        """
        for name in capture:
            if name not in CAPTURE:
                raise UserError(f"capture {name!r} is not one of {', '.join(CAPTURE)}")
        if num_frames(audio.shape[1], self.kernels, self.strides) < 1:
            raise ValueError(f"{audio.shape[1]} samples are too few for one frame")
        x, frames = self._features(audio, mask)
        x = Dense(self.width, dtype=self.dtype, name="feature_proj")(
            LayerNorm(1e-5, self.dtype, name="feature_norm")(x)
        )
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        embedding = self.param("masked_embedding", nn.initializers.uniform(1.0), (self.width,), jnp.float32)
        if masked_frames is not None:
            x = jnp.where(masked_frames[..., None], embedding.astype(x.dtype), x)
        if frames is not None:
            x = jnp.where(frames[..., None], x, 0)
        x = x + PositionalConv(self.pos_kernel, self.pos_groups, self.dtype, name="pos_conv")(x)
        x = LayerNorm(1e-5, self.dtype, name="norm")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x, aux = self._layers(x, frames, train, tuple(capture))
        if frames is None:
            frames = jnp.ones(x.shape[:2], bool)
        x = jnp.where(frames[..., None], x, 0)
        aux["mask"] = frames
        if self.output == "pooled":
            x = (x.astype(jnp.float32).sum(1) / jnp.maximum(frames.sum(1), 1)[:, None]).astype(self.dtype)
        return x, aux

    def _features(self, audio: Array, mask: Array | None) -> tuple[Array, Array | None]:
        """Returns the features (B, T, conv_width) and the mask of frames without padding."""
        x = audio[..., None].astype(self.dtype)
        lengths = None
        if mask is not None:
            x = jnp.where(mask[..., None], x, 0)
            lengths = mask.sum(1)
        frames = None
        for index, (size, stride) in enumerate(zip(self.kernels, self.strides, strict=True)):
            kernel = self.param(
                f"conv_{index}",
                nn.initializers.he_normal(in_axis=(0, 1)),
                (size, x.shape[-1], self.conv_width),
                jnp.float32,
            )
            x = conv1d(x, kernel.astype(self.dtype), stride)
            if lengths is not None:
                lengths = num_frames(lengths, (size,), (stride,))
                frames = jnp.arange(x.shape[1]) < lengths[:, None]
            x = gelu(ChannelNorm(dtype=self.dtype, name="conv_norm")(x, frames) if index == 0 else x)
        return (lax.stop_gradient(x) if self.freeze_extractor else x), frames

    def _layers(
        self, x: Array, frames: Array | None, train: bool, capture: tuple[str, ...]
    ) -> tuple[Array, dict[str, Array]]:
        keys = None if frames is None else frames[:, None, None]
        layer = EncoderLayer(self.heads, self.hidden, self.dropout, self.dtype, name="layers")
        return scan_layers(layer, x, keys, length=self.depth, remat=self.remat, train=train, capture=capture)


CONFIGS: dict[str, dict[str, Any]] = {"wav2vec2_base": {}}
NAMES: tuple[str, ...] = tuple(CONFIGS)


def build(name: str, **overrides: Any) -> Wav2Vec2:
    """Builds the Wav2Vec2 of a name, with fields overridden.

    Args:
        name: one of NAMES.
        **overrides: fields of Wav2Vec2.

    Raises:
        UserError: the name is unknown, or the combination of fields is invalid.
    """
    if name not in CONFIGS:
        raise UserError(f"model {name!r} is not one of {', '.join(NAMES)}")
    return Wav2Vec2(**{**CONFIGS[name], **overrides})
