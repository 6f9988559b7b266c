"""Building blocks that every transformer here shares."""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp

from fusionjax.models.observation import LAYERED
from fusionjax.types import Array, PyTree

DType: TypeAlias = jax.typing.DTypeLike

trunc_normal = nn.initializers.normal(0.02)
"""timm's initialisation of transformers, `trunc_normal_(std=0.02)`: it cuts at ±2, which is ±100 σ, so nothing is cut.

`nn.initializers.truncated_normal(0.02)` cuts at ±2 σ and does not correct for it: its standard deviation is 0.0176.
"""
INPUT_KERNEL = re.compile(r"(trunk/)?(stem|patch_embed(_\d+)?(/conv0)?)/kernel")
"""Name of the kernel that is applied to the input channels; in a model with a trunk, the trunk's."""


class Dense(nn.Module):
    """Linear layer over the last axis, computed as one flat (rows, D) matmul.

    XLA's CPU back end runs a token-major 3-D product about 2.5 times slower than the same product over flattened rows
    (docs/benchmarks.md); on other back ends the reshape is free.

    Args (call):
        x: (..., D) float.

    Returns:
        (..., features) in `dtype`.
    """

    features: int
    use_bias: bool = True
    dtype: DType = jnp.float32
    kernel_init: Callable[..., Array] = trunc_normal
    bias_init: Callable[..., Array] = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        rows = x.reshape(-1, x.shape[-1]).astype(self.dtype) @ kernel.astype(self.dtype)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
            rows = rows + bias.astype(self.dtype)
        return rows.reshape(*x.shape[:-1], self.features)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, always in float32; `epsilon` is the reference model's."""

    epsilon: float = 1e-6
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones_init(), (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (x.shape[-1],), jnp.float32)
        y = x.astype(jnp.float32)
        mean = y.mean(-1, keepdims=True)
        # Two passes: E[x²] − E[x]² loses digits that parity at 1e-4 needs.
        variance = jnp.square(y - mean).mean(-1, keepdims=True)
        y = (y - mean) * jax.lax.rsqrt(variance + self.epsilon)
        return (y * scale + bias).astype(self.dtype)


@jax.custom_jvp
def gelu(x: Array) -> Array:
    """Computes the exact GELU, x·Φ(x) with erf, as timm and transformers do (jax.nn.gelu defaults to the tanh form)."""
    return jax.nn.gelu(x, approximate=False)


@gelu.defjvp
def _gelu_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (t,) = primals, tangents
    cdf = 0.5 * (1 + jax.lax.erf(x * 0.7071067811865476))
    slope = cdf + x * jnp.exp(-0.5 * x * x) * 0.3989422804014327
    # Without the barrier XLA fuses erf and exp into the operand of the backward matmul and evaluates them once per
    # output column block: twice the time at small widths.
    return x * cdf, t * jax.lax.optimization_barrier(slope.astype(x.dtype))


class Mlp(nn.Module):
    """Linear, GELU, dropout, linear back to the width of x, dropout; the two layers' names are timm's.

    Attributes:
        hidden: features between the two layers.
        dropout: rate.
        dtype: of the computation; parameters are float32.
        last_dropout: whether the output is dropped, too.
    """

    hidden: int
    dropout: float = 0.0
    dtype: DType = jnp.float32
    last_dropout: bool = True

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        width = x.shape[-1]
        x = gelu(Dense(self.hidden, dtype=self.dtype, name="fc1")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = Dense(width, dtype=self.dtype, name="fc2")(x)
        return nn.Dropout(self.dropout, deterministic=not train)(x) if self.last_dropout else x


class SwiGLU(nn.Module):
    """Gated MLP, fc2(silu(a) ∘ b) with (a, b) = fc1(x) (Shazeer, 2020), as `Mlp`; `hidden` is the width of a and of b."""

    hidden: int
    dropout: float = 0.0
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        width = x.shape[-1]
        gate, value = jnp.split(Dense(2 * self.hidden, dtype=self.dtype, name="fc1")(x), 2, axis=-1)
        x = nn.Dropout(self.dropout, deterministic=not train)(nn.silu(gate) * value)
        x = Dense(width, dtype=self.dtype, name="fc2")(x)
        return nn.Dropout(self.dropout, deterministic=not train)(x)


FEED_FORWARD: Mapping[str, type[Mlp] | type[SwiGLU]] = {"gelu": Mlp, "swiglu": SwiGLU}


class LayerScale(nn.Module):
    """A learned factor of each channel of a residual, initialised to `initial` (Touvron et al., ICCV 2021); 0: none."""

    initial: float
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if not self.initial:
            return x
        start = nn.initializers.constant(self.initial)
        return x * self.param("scale", start, (x.shape[-1],), jnp.float32).astype(self.dtype)


def drop_path(x: Array, rate: Array | float, key: Array) -> Array:
    """Applies stochastic depth (Huang et al., ECCV 2016) to a residual.

    The residual of an example is dropped as a whole; those that are kept are divided by 1 − rate.

    Args:
        x: (B, ...) residual.
        rate: probability of dropping, a scalar that may be traced (scanned layers each have their own).
        key: PRNG key.

    Returns:
        (B, ...) in the dtype of `x`.
    """
    keep = 1 - jnp.asarray(rate, jnp.float32)
    mask = jax.random.bernoulli(key, keep, (x.shape[0],) + (1,) * (x.ndim - 1))
    return x * (mask / keep).astype(x.dtype)


def residual(module: nn.Module, x: Array, out: Array, rate: Array | float | None, *, train: bool) -> Array:
    """Adds a residual, with stochastic depth in training: x + out.

    Args:
        module: whose PRNG collection "dropout" supplies the key.
        x, out: (B, ...) float.
        rate: as for `drop_path`; None for no stochastic depth, and then no key is drawn.
        train: whether to drop.

    Returns:
        (B, ...).
    """
    return x + (drop_path(out, rate, module.make_rng("dropout")) if train and rate is not None else out)


def scan_layers(
    layers: nn.Module,
    x: Array,
    mask: Array | None,
    *,
    length: int,
    remat: bool,
    train: bool,
    capture: tuple[str, ...],
) -> tuple[Array, dict[str, Array]]:
    """One layer module run `length` times over x, its parameters along a leading axis; results of `capture` stacked."""

    def body(layer: nn.Module, x: Array, mask: Array | None) -> tuple[Array, dict[str, Array]]:
        return layer(x, mask, train=train, capture=capture)

    if remat:
        body = nn.remat(body, prevent_cse=False)
    return over_layers(body, length, in_axes=nn.broadcast)(layers, x, mask)


def over_layers(body: Callable[..., PyTree], length: int, **options: Any) -> Callable[..., PyTree]:
    """`nn.scan` of a body, (layer module, carry, …) → (carry, results), over layers with parameters along a leading axis."""
    return nn.scan(
        body,
        variable_axes={"params": 0, **LAYERED},
        split_rngs={"params": True, "dropout": True},
        length=length,
        **options,
    )


def take_within_groups(x: Array, index: Array) -> Array:
    """Rows of x by their position within the group.

    Args:
        x: (B, ...), groups one after another.
        index: (groups, size) int, groups · size = B: of each row, the position within its group of the row to take.

    Returns:
        (B, ...).
    """
    groups, size = index.shape
    # Batched over groups, so that a batch sharded by whole groups needs no communication.
    taken = jax.vmap(lambda group, index: group[index])(x.reshape(groups, size, *x.shape[1:]), index)
    return taken.reshape(x.shape)


def feature_norm(dtype: DType) -> nn.BatchNorm:
    """Batch normalisation, without scale and shift, of a frozen trunk's features."""
    return nn.BatchNorm(momentum=0.9, epsilon=1e-3, use_scale=False, use_bias=False, dtype=dtype)


class PatchEmbed(nn.Module):
    """Patch embedding as one flat matmul: (B, h, w, C) → (B, rows, columns, D). A `patch` of 1 embeds a feature map.

    Attributes:
        width: D.
        patch: side of a patch in pixels.
        dtype: of the computation.
        stride: pixels from one patch to the next; less than `patch` makes patches overlap (TransReID, ICCV 2021, section
            3.1): rows = ⌊(h − patch) / stride⌋ + 1. 0 means `patch`, and then h and w must be multiples of it.
    """

    width: int
    patch: int
    dtype: DType = jnp.float32
    stride: int = 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, h, w, channels = x.shape
        p = self.patch
        overlap = self.stride not in (0, p)
        if not overlap and (h % p or w % p):
            raise ValueError(f"image size {h}×{w} is not a multiple of the patch size {p}")
        kernel = self.param(
            "kernel",
            nn.initializers.lecun_normal(in_axis=(0, 1, 2)),
            (p, p, channels, self.width),
            jnp.float32,
        )
        bias = self.param("bias", nn.initializers.zeros_init(), (self.width,), jnp.float32)
        if overlap:
            x = jax.lax.conv_general_dilated(
                x.astype(self.dtype),
                kernel.astype(self.dtype),
                (self.stride, self.stride),
                "VALID",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            return x + bias.astype(self.dtype)
        x = x.reshape(batch, h // p, p, w // p, p, channels).transpose(0, 1, 3, 2, 4, 5)
        rows = x.reshape(-1, p * p * channels).astype(self.dtype) @ kernel.reshape(-1, self.width).astype(
            self.dtype
        )
        return (rows + bias.astype(self.dtype)).reshape(batch, h // p, w // p, self.width)
