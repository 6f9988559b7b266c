"""Bicubic resizing as torch does it, inside the compiled program: one matmul per axis."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fusionjax.types import Array

A = -0.75
"""Coefficient of torch's cubic kernel (Keys, 1981); Pillow and jax.image use −0.5."""


@functools.partial(jax.jit, static_argnums=1)
def resize_bicubic(
    images: Float[Array, "batch rows columns channels"], size: tuple[int, int]
) -> Float[Array, "batch new_rows new_columns channels"]:
    """Resizes images as `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)` does, without antialias.

    Args:
        images: (B, h, w, C) float.
        size: new rows and columns; images that have this size already are returned unchanged.

    Returns:
        (B, *size, C) in the dtype of `images`. Values may lie outside the range of the input, as torch's do.
    """
    if images.shape[1:3] == tuple(size):
        return images
    rows = jnp.asarray(bicubic_weights(images.shape[1], size[0]), images.dtype)
    columns = jnp.asarray(bicubic_weights(images.shape[2], size[1]), images.dtype)
    # HIGHEST: pixels, not features; a TPU's bfloat16 passes would show.
    taller = jnp.einsum("yh,bhwc->bywc", rows, images, precision="highest")
    return jnp.einsum("xw,bywc->byxc", columns, taller, precision="highest")


def bicubic_weights(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Returns the interpolation weights of one axis, (new, old) float64.

    Each row has four taps and sums to 1; taps beyond the edge are added to the edge pixel.
    """
    # In float32, as torch computes them: near pixel 400 this moves a sample by 1e-5 pixels, and the result by 1e-4.
    centers = np.float32(old) / np.float32(new) * (
        np.arange(new, dtype=np.float32) + np.float32(0.5)
    ) - np.float32(0.5)
    first = np.floor(centers).astype(int) - 1
    centers = centers.astype(np.float64)
    weights = np.zeros((new, old))
    for tap in range(4):
        index = first + tap
        distance = np.abs(centers - index)
        near = ((A + 2) * distance - (A + 3)) * distance**2 + 1
        far = A * (((distance - 5) * distance + 8) * distance - 4)
        weight = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
        np.add.at(weights, (np.arange(new), np.clip(index, 0, old - 1)), weight)
    return weights
