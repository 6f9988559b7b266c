"""A convolutional patch embedding: three convolutions in place of one linear map (CrossViT's "dagger" models)."""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from fusionjax.models.layers import DType
from fusionjax.types import Array

LAYERS = {12: ((3, 3, 0), (3, 1, 1)), 16: ((3, 2, 1), (3, 2, 1))}
"""By patch size, (kernel, stride, padding) of the two convolutions after the 7×7 one of stride 4."""


class Conv(nn.Module):
    """Convolution with bias: (B, h, w, C) → (B, h', w', D)."""

    width: int
    kernel: int
    stride: int
    padding: int
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = nn.initializers.lecun_normal(in_axis=(0, 1, 2))
        kernel = self.param("kernel", init, (self.kernel, self.kernel, x.shape[-1], self.width), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.width,), jnp.float32)
        y = lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (self.stride, self.stride),
            [(self.padding, self.padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + bias.astype(self.dtype)


class MultiConv(nn.Module):
    """Three convolutions in place of a linear patch embedding, widths D / 4, D / 2, D; ReLU between them."""

    width: int
    patch: int
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.relu(Conv(self.width // 4, 7, 4, 3, self.dtype, name="conv0")(x))
        second, third = LAYERS[self.patch]
        x = nn.relu(Conv(self.width // 2, *second, self.dtype, name="conv1")(x))
        return Conv(self.width, *third, self.dtype, name="conv2")(x)
