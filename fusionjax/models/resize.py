"""Bicubic resizing as torch does it, inside the compiled program: one matmul an axis."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from fusionjax.types import Array

A = -0.75
"""torch's constant of the cubic kernel (Keys, 1981); Pillow and jax.image have −0.5."""


@functools.partial(jax.jit, static_argnums=1)
def resize_bicubic(images: Array, size: tuple[int, int]) -> Array:
    """Resizes images as `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)` does, without antialias.

    Args:
        images: (B, h, w, C) float.
        size: new rows and columns; where they are the old ones the images come back as they are.

    Returns:
        (B, *size, C), of the images' dtype. Values may lie outside the input's range, as torch's do.
    """
    if images.shape[1:3] == tuple(size):
        return images
    rows = jnp.asarray(bicubic_weights(images.shape[1], size[0]), images.dtype)
    columns = jnp.asarray(bicubic_weights(images.shape[2], size[1]), images.dtype)
    # HIGHEST: pixels, not features; a TPU's bfloat16 passes would show.
    taller = jnp.einsum("yh,bhwc->bywc", rows, images, precision="highest")
    return jnp.einsum("xw,bywc->byxc", columns, taller, precision="highest")


def bicubic_weights(old: int, new: int) -> np.ndarray:
    """(new, old) float64 weights of one axis: four taps a row, those beyond the edge fall on the edge; rows sum to 1."""
    # In float32, as torch computes them: near pixel 400 that moves a sample by 1e-5 of a pixel, and the result by 1e-4.
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
