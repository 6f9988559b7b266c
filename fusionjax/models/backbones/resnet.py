"""ResNet-50 and -101, and the convolutional trunk of the hybrid R50-ViT.

`resnet50` and `resnet101` are torch's v1.5 (the stride is in the 3×3 convolution) with batch norm.
`resnetv2_50_s16` is the trunk of timm's vit_base_r50_s16: three stages of 3, 4 and 9 blocks up to stride 16
and 1,024 channels, weight-standardised convolutions, group norm, TensorFlow's padding. "v2" is timm's name;
its blocks are not pre-activation blocks.

Source: He et al. 2016, arXiv 1512.03385; Kolesnikov et al. 2020 (BiT), arXiv 1912.11370; Qiao et al. 2019
(weight standardisation), arXiv 1903.10520; Dosovitskiy et al. 2021, arXiv 2010.11929.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from fusionjax.errors import UserError
from fusionjax.models.backbones import naming
from fusionjax.models.backbones.conv import ConvNorm, check_capture, conv2d, max_pool, run_block
from fusionjax.models.layers import Dense, DType, residual
from fusionjax.types import Array

OUTPUTS = ("logits", "pooled", "tokens")
WIDTHS = (256, 512, 1024, 2048)

CONFIGS: dict[str, dict[str, Any]] = {
    "resnet50": {"layers": (3, 4, 6, 3)},
    "resnet101": {"layers": (3, 4, 23, 3)},
    "resnetv2_50_s16": {"layers": (3, 4, 9), "standardise": True, "padding": "same"},
}
NAMES: tuple[str, ...] = tuple(sorted(CONFIGS))


class StdConvNorm(nn.Module):
    """Convolution whose kernel is standardised per output channel, group norm and activation.

    Parameters: kernel (k, k, C, D), scale (D,), bias (D,), float32.

    Attributes:
        features, kernel, stride, padding, act, scale_init, dtype: as in ConvNorm.
        groups: of the norm.
        eps: of the norm's variance.
        kernel_eps: of the kernel's variance (timm's StdConv2dSame in the hybrid ViT: 1e-8).
    """

    features: int
    kernel: int = 1
    stride: int = 1
    padding: str = "same"
    act: Callable[[jax.Array], jax.Array] | None = None
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    groups: int = 32
    eps: float = 1e-5
    kernel_eps: float = 1e-8
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """(B, h, w, C) → (B, h', w', features); `train` has no effect, since there are no running statistics."""
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.variance_scaling(2.0, "fan_out", "normal"), shape)
        scale = self.param("scale", self.scale_init, (self.features,))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))

        mean = kernel.mean((0, 1, 2))
        variance = jnp.square(kernel - mean).mean((0, 1, 2))
        kernel = (kernel - mean) * lax.rsqrt(variance + self.kernel_eps)
        y = conv2d(
            x.astype(self.dtype), kernel.astype(self.dtype), stride=self.stride, padding=self.padding
        ).astype(jnp.float32)

        grouped = y.reshape(y.shape[0], -1, self.groups, self.features // self.groups)
        mean = grouped.mean((1, 3), keepdims=True)
        variance = jnp.square(grouped - mean).mean((1, 3), keepdims=True)
        y = ((grouped - mean) * lax.rsqrt(variance + self.eps)).reshape(y.shape)
        y = (y * scale + bias).astype(self.dtype)
        return y if self.act is None else self.act(y)


class Bottleneck(nn.Module):
    """1×1, 3×3 (strided), 1×1 to four times the width, and a shortcut that is projected if the shapes differ.

    Attributes:
        features: output channels.
        stride: of the 3×3 convolution.
        drop_path: probability that an example skips the residual branch in training.
        unit: constructor of ConvNorm or StdConvNorm with the settings of the network.
        last_scale: initialiser of the last norm's scale.
    """

    features: int
    stride: int
    drop_path: float
    unit: Callable[..., nn.Module]
    last_scale: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """(B, h, w, C) → (B, h', w', features)."""
        inner = self.features // 4
        y = self.unit(inner, act=nn.relu, name="conv1")(x, train=train)
        y = self.unit(inner, kernel=3, stride=self.stride, act=nn.relu, name="conv2")(y, train=train)
        y = self.unit(self.features, scale_init=self.last_scale, name="conv3")(y, train=train)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = self.unit(self.features, stride=self.stride, name="downsample")(x, train=train)
        return nn.relu(residual(self, x, y, self.drop_path or None, train=train))


class ResNet(nn.Module):
    """The module of the family; `build` sets the fields of a name.

    Parameters: stem, stage_i_block_j (conv1, conv2, conv3, downsample), head.

    Attributes:
        num_classes: C of the logits.
        output: "logits" (B, C); "pooled" (B, D), the map's mean; "tokens" (B, h, w, D), the map itself.
        features: which map: "last" (stride 32 and D = 2048; in resnetv2_50_s16 stride 16 and D = 1024) or
          "stride16" (D = 1024; later stages do not exist then).
        layers: blocks of every stage.
        standardise: weight-standardised convolutions with group norm in place of batch norm.
        padding: rule of `edge_padding`.
        eps: of the norm.
        momentum: weight of the old running statistics at a training step.
        dropout: rate before the classifier.
        drop_path: stochastic depth rate of the last block; the rate grows linearly from 0.
        remat: recompute blocks in the backward pass, which saves memory and takes longer.
        dtype: compute dtype; parameters are float32.
    """

    num_classes: int = 1000
    output: str = "logits"
    features: str = "last"
    layers: tuple[int, ...] = (3, 4, 6, 3)
    standardise: bool = False
    padding: str = "symmetric"
    eps: float = 1e-5
    momentum: float = 0.9
    dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool = False
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(
        self, images: Array, *, train: bool = False, capture: Sequence[str] = ()
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Runs the network.

        Args:
            images: (B, h, w, C) float, normalised.
            train: batch statistics, dropout and stochastic depth; needs `mutable=["batch_stats"]` where batch
              norm is used and, if a rate is not 0, the PRNG collection "dropout".
            capture: maps to return in aux: "stage_0" … "stage_3", up to the last stage.

        Returns:
            (output, aux); logits are float32, pooled and tokens of the compute dtype.

        Raises:
            UserError: `output`, `features`, `padding` or a captured name is unknown.
        """
        for field, known in (("output", OUTPUTS), ("features", ("last", "stride16"))):
            if getattr(self, field) not in known:
                raise UserError(f"{field} {getattr(self, field)!r} is not one of {', '.join(known)}")
        layers = self.layers[:3] if self.features == "stride16" else self.layers
        check_capture(capture, [f"stage_{index}" for index in range(len(layers))])

        unit: Callable[..., nn.Module] = functools.partial(
            ConvNorm, padding=self.padding, eps=self.eps, momentum=self.momentum, dtype=self.dtype
        )
        if self.standardise:
            unit = functools.partial(StdConvNorm, padding=self.padding, eps=self.eps, dtype=self.dtype)

        # A residual branch with batch norm starts at zero, as in timm; that of the hybrid's trunk does not.
        last_scale = nn.initializers.ones if self.standardise else nn.initializers.zeros
        x = unit(64, kernel=7, stride=2, act=nn.relu, name="stem")(images, train=train)
        x = max_pool(x, padding=self.padding)
        aux, done = {}, 0
        for stage, depth in enumerate(layers):
            for block in range(depth):
                bottleneck = Bottleneck(
                    WIDTHS[stage],
                    stride=2 if stage > 0 and block == 0 else 1,
                    drop_path=self.drop_path * done / max(sum(self.layers) - 1, 1),
                    unit=unit,
                    last_scale=last_scale,
                    name=f"stage_{stage}_block_{block}",
                )
                x = run_block(bottleneck, x, train=train, remat=self.remat)
                done += 1
            if f"stage_{stage}" in capture:
                aux[f"stage_{stage}"] = x

        if self.output == "tokens":
            return x, aux
        x = x.mean((1, 2))
        if self.output == "pooled":
            return x, aux
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Dense(self.num_classes, name="head")(x.astype(jnp.float32)), aux


build = naming.builder(ResNet, CONFIGS)
"""(name of NAMES, **fields of ResNet) → the module; a UserError for an unknown name."""
