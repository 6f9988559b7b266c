"""Convolutions for the convolutional trunks: padding rules, depthwise convolution, and convolution with batch norm.

Kernels are HWIO, images NHWC. There are two padding rules because there are two families of weights: `"same"` is
TensorFlow's, which pads the far edge more when a stride does not divide the size; `"symmetric"` is torch's (k
− 1) / 2 on both sides.
"""

import functools
import operator
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from fusionjax.errors import UserError
from fusionjax.models.layers import DType

PADDINGS = ("same", "symmetric")
DEPTHWISE = ("auto", "taps", "conv")


def edge_padding(rule: str, size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Rows to add before and after one spatial axis.

    Args:
        rule: "same" (TensorFlow: the output has ceil(size / stride) rows, the odd row goes to the far edge)
          or "symmetric" (torch: (stride − 1 + kernel − 1) // 2 rows on both sides).
        size: length of the axis.
        kernel: length of the kernel along it.
        stride: step along it.

    Returns:
        (before, after), both ≥ 0.

    Raises:
        UserError: the rule is unknown.
    """
    if rule == "same":
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2
    if rule == "symmetric":
        each = (stride - 1 + kernel - 1) // 2
        return each, each
    raise UserError(f"padding {rule!r} is not one of {', '.join(PADDINGS)}")


def _paddings(rule: str, x: jax.Array, kernel: jax.Array, stride: int) -> list[tuple[int, int]]:
    return [edge_padding(rule, x.shape[1 + axis], kernel.shape[axis], stride) for axis in (0, 1)]


def conv2d(x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: str = "symmetric") -> jax.Array:
    """A dense convolution without bias; a 1×1 kernel runs as one flat (B·h·w, C) matmul.

    Args:
        x: (B, h, w, C).
        kernel: (k, k, C, D), of x's dtype.
        stride: step along rows and columns.
        padding: rule of `edge_padding`.

    Returns:
        (B, h', w', D), of x's dtype.
    """
    if kernel.shape[:2] == (1, 1):
        x = x[:, ::stride, ::stride] if stride > 1 else x
        flat = x.reshape(-1, x.shape[-1]) @ kernel[0, 0]
        return flat.reshape(*x.shape[:-1], kernel.shape[-1])
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=_paddings(padding, x, kernel, stride),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def depthwise_conv2d(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: str = "symmetric", method: str = "auto"
) -> jax.Array:
    """A depthwise convolution without bias: every channel has its own k×k kernel.

    XLA's grouped convolution is slow on CPUs because its inner loop is not over channels. CPUs therefore sum
    the k² shifted and weighted images, which fuses into one vectorised loop; accelerators use the grouped
    convolution.

    Args:
        x: (B, h, w, C).
        kernel: (k, k, 1, C), of x's dtype.
        stride: step along rows and columns.
        padding: rule of `edge_padding`.
        method: "taps" (shifted sum), "conv" (grouped convolution) or "auto" (taps if the default backend
          is a CPU). The two differ only in the order of summation.

    Returns:
        (B, h', w', C), of x's dtype.

    Raises:
        UserError: the method or the padding rule is unknown.
    """
    if method not in DEPTHWISE:
        raise UserError(f"depthwise method {method!r} is not one of {', '.join(DEPTHWISE)}")
    pads = _paddings(padding, x, kernel, stride)
    if method == "conv" or (method == "auto" and jax.default_backend() != "cpu"):
        return lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(stride, stride),
            padding=pads,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1],
        )
    return _taps(jnp.pad(x, ((0, 0), *pads, (0, 0))), kernel, stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _taps(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Returns the sum of shifted images over an already padded x, with a custom backward pass of the same kind.

    Automatic differentiation would give k² padded additions and k² reductions over rows, which XLA compiles to slow loops on
    CPUs: 2.4 times the time at (64, 6, 6, 1152), k = 5.
    """
    size = _steps(x, kernel, stride)
    taps = (
        _shifted(x, i, j, size, stride) * kernel[i, j, 0]
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    )
    return functools.reduce(operator.add, taps)


def _taps_forward(
    x: jax.Array, kernel: jax.Array, stride: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _taps(x, kernel, stride), (x, kernel)


def _taps_backward(
    stride: int, saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    rows, columns = kernel.shape[:2]
    size = _steps(x, kernel, stride)
    dy = lax.optimization_barrier(dy)  # otherwise dy is recomputed for every tap
    edges = [
        (k - 1, whole - (n - 1) * stride - 1, stride - 1)
        for k, whole, n in zip((rows, columns), x.shape[1:3], size, strict=True)
    ]
    spread = lax.pad(dy, jnp.zeros((), dy.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    dx = _taps(lax.optimization_barrier(spread), kernel[::-1, ::-1], 1)

    def add(total: jax.Array, image: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        one, slope = image[0][None], image[1][None]
        taps = [
            [(_shifted(one, i, j, size, stride) * slope).sum((0, 1, 2)) for j in range(columns)]
            for i in range(rows)
        ]
        return total + jnp.stack([jnp.stack(row) for row in taps]), None

    start = jnp.zeros((rows, columns, x.shape[-1]), dy.dtype)
    return dx, lax.scan(add, start, (x, dy))[0][:, :, None]


_taps.defvjp(_taps_forward, _taps_backward)


def _steps(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[int, int]:
    """Returns the rows and columns of the output for a padded x."""
    rows, columns = (
        (whole - k) // stride + 1 for whole, k in zip(x.shape[1:3], kernel.shape[:2], strict=True)
    )
    return rows, columns


def _shifted(x: jax.Array, i: int, j: int, size: tuple[int, int], stride: int) -> jax.Array:
    """Returns the input pixels under tap (i, j) of the kernel, one per output pixel."""
    height, width = size
    last = (x.shape[0], i + (height - 1) * stride + 1, j + (width - 1) * stride + 1, x.shape[3])
    return lax.slice(x, (0, i, j, 0), last, (1, stride, stride, 1))


class ConvNorm(nn.Module):
    """Convolution, batch norm and activation as one module.

    With `train=False` the norm's affine map of running statistics is folded into the kernel, so inference is
    one convolution and one fused add and activation. With `train=True` the statistics of the batch are used,
    and the running statistics are updated.

    Parameters: kernel (k, k, C or 1, D), scale (D,), bias (D,), float32. Collection batch_stats: mean (D,),
    var (D,).

    Attributes:
        features: D; for a depthwise convolution, the number of input channels.
        kernel: k.
        stride: step along rows and columns.
        padding: rule of `edge_padding`.
        depthwise: every channel has its own kernel.
        eps: added to the variance.
        momentum: weight of the old running statistics at a training step.
        act: activation, applied last; None for none.
        scale_init: initialiser of the scale of the norm (with zeros, a residual block starts as the identity).
        method: implementation of the depthwise convolution, as in `depthwise_conv2d`.
        dtype: compute dtype.

    Source: Ioffe & Szegedy 2015, arXiv 1502.03167.
    """

    features: int
    kernel: int = 1
    stride: int = 1
    padding: str = "symmetric"
    depthwise: bool = False
    eps: float = 1e-5
    momentum: float = 0.9
    act: Callable[[jax.Array], jax.Array] | None = None
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    method: str = "auto"
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """(B, h, w, C) → (B, h', w', features)."""
        shape = (self.kernel, self.kernel, 1 if self.depthwise else x.shape[-1], self.features)
        # He's rule over the fan-out; a depthwise kernel's fan-out is k², as each channel feeds only itself.
        fan_out = self.kernel**2 * (1 if self.depthwise else self.features)
        kernel = self.param("kernel", nn.initializers.normal((2.0 / fan_out) ** 0.5), shape)
        scale = self.param("scale", self.scale_init, (self.features,))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (self.features,))
        var = self.variable("batch_stats", "var", jnp.ones, (self.features,))

        x = x.astype(self.dtype)
        if train:
            y = self._convolve(x, kernel.astype(self.dtype)).astype(jnp.float32)
            batch_mean = y.mean((0, 1, 2))
            batch_var = jnp.square(y - batch_mean).mean((0, 1, 2))
            if not self.is_initializing():
                keep = self.momentum
                mean.value = keep * mean.value + (1 - keep) * batch_mean
                var.value = keep * var.value + (1 - keep) * batch_var
            y = (y - batch_mean) * (scale * lax.rsqrt(batch_var + self.eps)) + bias
        else:
            gain = scale * lax.rsqrt(var.value + self.eps)
            y = self._convolve(x, (kernel * gain).astype(self.dtype))
            y = y + (bias - mean.value * gain).astype(self.dtype)
        y = y.astype(self.dtype)
        return y if self.act is None else self.act(y)

    def _convolve(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        if self.depthwise:
            return depthwise_conv2d(x, kernel, stride=self.stride, padding=self.padding, method=self.method)
        return conv2d(x, kernel, stride=self.stride, padding=self.padding)


def max_pool(x: jax.Array, *, window: int = 3, stride: int = 2, padding: str = "symmetric") -> jax.Array:
    """Maximum over windows; padded with −∞. (B, h, w, C) → (B, h', w', C)."""
    pads = [edge_padding(padding, size, window, stride) for size in x.shape[1:3]]
    return nn.max_pool(x, (window, window), (stride, stride), pads)


def run_block(block: nn.Module, x: jax.Array, *, train: bool, remat: bool) -> jax.Array:
    """`block(x, train=train)`; with `remat`, its activations are recomputed in the backward pass."""
    if not remat:
        return block(x, train=train)
    return nn.remat(lambda module, x: module(x, train=train))(block, x)


def chunk_size(shape: Sequence[int], *, least: int = 2**15, most: int = 2**17) -> int | None:
    """Returns how many images to run at a time on a CPU, so that wide feature maps stay in its cache.

    Args:
        shape: (B, h, w, C) of the images; B may be symbolic (jax.export).
        least, most: bounds of the number of pixels in a chunk.

    Returns:
        The largest divisor of B whose images have at most `most` pixels. None if the whole batch should run at
        once: on accelerators, on more than one device (the batch may be sharded), if the batch is small or
        symbolic, or if the chunk would have fewer than `least` pixels.
    """
    batch, pixels = shape[0], shape[1] * shape[2]
    if (
        jax.default_backend() != "cpu"
        or jax.device_count() > 1
        or not isinstance(batch, int)
        or batch * pixels <= most
    ):
        return None
    sizes = [size for size in range(1, batch) if batch % size == 0 and least <= size * pixels <= most]
    return max(sizes, default=None)


def check_capture(capture: Sequence[str], known: Sequence[str]) -> None:
    """Raises a UserError if `capture` has a name that is not among the known ones."""
    for name in capture:
        if name not in known:
            raise UserError(f"capture {name!r} is not one of {', '.join(known)}")
