"""Explanations from captured attention: pure functions of NumPy arrays, batched over N examples.

Maps are (L, N, H, Q, K), layer 0 first, as in `capture.Captured`; gradients are those of a score with respect to them. A map
over tokens becomes a map over the image with `to_patches`. Equations and choices are in docs/methods/explanations.md.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from fusionjax.models.observation import Axis

HeadFusion = Literal["mean", "max", "min"]
FUSE: dict[str, Callable[..., np.ndarray]] = {"mean": np.mean, "max": np.max, "min": np.min}
"""Over an axis of heads."""


def to_patches(weights: np.ndarray, axis: Axis) -> np.ndarray:
    """Arranges the weights of tokens in the grid of patches: (..., K) → (..., h, w), without the tokens before the patches.

    Raises:
        ValueError: the axis has no grid, or another number of tokens.
    """
    if axis.grid is None or weights.shape[-1] != axis.prefix + axis.grid[0] * axis.grid[1]:
        raise ValueError(f"{weights.shape[-1]} weights are not of {axis}")
    return weights[..., axis.prefix :].reshape(*weights.shape[:-1], *axis.grid)


def raw_attention(
    maps: np.ndarray, *, layer: int = -1, head: int | HeadFusion = "mean", query: int = 0
) -> np.ndarray:
    """The attention of one query in one layer.

    Args:
        maps: (L, N, H, Q, K).
        layer: 0 … L − 1; negative from the last.
        head: 0 … H − 1, or how the heads are combined.
        query: 0 … Q − 1; 0 is the class token, if there is one.

    Returns:
        (N, K).
    """
    rows = maps[layer, :, :, query]
    return FUSE[head](rows, axis=1) if isinstance(head, str) else rows[:, head]


def rollout(
    maps: np.ndarray,
    *,
    head_fusion: HeadFusion = "mean",
    discard: float = 0.0,
    start: int = 0,
    stop: int | None = None,
) -> np.ndarray:
    """Attention rollout (Abnar & Zuidema, ACL 2020): Ŝ = S̄_{stop−1} ⋯ S̄_start, S̄_l = rows of ½ S_l + ½ E, normalised to sum 1.

    S_l combines the heads of layer l. With head_fusion="mean" and nothing discarded, its CLS row is DCAL's rollout.

    Args:
        maps: (L, N, H, T, T) self-attention.
        head_fusion: how heads are combined.
        discard: share, 0 … 1, of the smallest weights of each S_l that are set to 0.
        start, stop: layers, as of a slice.

    Returns:
        (N, T, T) float32: row i is how much token i after layer stop − 1 draws from each token before layer start.
    """
    own = maps[start:stop]
    total = np.broadcast_to(np.eye(maps.shape[-1], dtype=np.float32), (maps.shape[1], *maps.shape[3:]))
    for layer in own:
        total = _mixed(layer, head_fusion, discard) @ total
    return total


def rollout_row(
    maps: np.ndarray,
    *,
    head_fusion: HeadFusion = "mean",
    discard: float = 0.0,
    start: int = 0,
    stop: int | None = None,
    query: int = 0,
) -> np.ndarray:
    """One row of `rollout`, (N, T), at the cost O(L T²) of a vector instead of O(L T³); arguments as for `rollout`."""
    row = np.zeros((maps.shape[1], 1, maps.shape[-1]), np.float32)
    row[:, 0, query] = 1
    for layer in maps[start:stop][::-1]:
        row = row @ _mixed(layer, head_fusion, discard)
    return row[:, 0]


def _mixed(layer: np.ndarray, head_fusion: HeadFusion, discard: float) -> np.ndarray:
    fused = FUSE[head_fusion](layer, axis=1)
    count = int(discard * fused[0].size)
    if count:
        flat = fused.reshape(len(fused), -1).copy()
        smallest = np.argpartition(flat, count - 1, axis=1)[:, :count]
        np.put_along_axis(flat, smallest, 0, axis=1)
        fused = flat.reshape(fused.shape)
    mixed = 0.5 * fused + 0.5 * np.eye(fused.shape[-1], dtype=fused.dtype)
    return mixed / mixed.sum(-1, keepdims=True)


def partner_share(maps: np.ndarray) -> np.ndarray:
    """The share of PWCA's attention on the partner's tokens (Zhu et al., CVPR 2022, section 3.3), mean over heads and queries.

    Args:
        maps: (L, N, H, T, 2 · T), keys of the image itself, then of its partner.

    Returns:
        (L, N); 0.5 for attention that does not distinguish the two.
    """
    return maps[..., maps.shape[-1] // 2 :].sum(-1).mean((2, 3))


def glca_queries(maps: np.ndarray, axis: Axis) -> np.ndarray:
    """Where GLCA's queries look: (1, N, H, 1 + k, T) → (N, 1 + k, h, w), the class token's first, mean over heads."""
    return to_patches(maps[-1].mean(1), axis)


def glca_difference(sa: np.ndarray, glca: np.ndarray, axis: Axis) -> np.ndarray:
    """What GLCA's class token attends to more (positive) or less than the rollout of self-attention.

    Args:
        sa: (L, N, H, T, T).
        glca: (1, N, H, 1 + k, T).
        axis: of the T tokens.

    Returns:
        (N, h, w), the difference of two maps that each sum to 1.
    """
    ours, theirs = glca_queries(glca, axis)[:, 0], to_patches(rollout_row(sa), axis)
    return _share(ours) - _share(theirs)


def _share(x: np.ndarray) -> np.ndarray:
    return x / x.sum((1, 2), keepdims=True)


def weighted_heads(maps: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Ā = mean over heads of (∇A ⊙ A)⁺, (..., H, Q, K) → (..., Q, K): Chefer et al., ICCV 2021, equation 5."""
    return np.maximum(gradients * maps, 0).mean(-3)


def gradient_attention(
    maps: np.ndarray, gradients: np.ndarray, *, layer: int = -1, query: int = 0
) -> np.ndarray:
    """Gradient × attention of one layer, `weighted_heads`, (N, K).

    Args:
        maps, gradients: (L, N, H, Q, K).
        layer: 0 … L − 1.
        query: 0 … Q − 1.
    """
    return weighted_heads(maps[layer], gradients[layer])[:, query]


def relevance(
    maps: np.ndarray, gradients: np.ndarray, *, start: int = 0, before: np.ndarray | None = None
) -> np.ndarray:
    """Relevance of every token for every other: R = E, then R ← R + Ā R by layer (Chefer et al., ICCV 2021, equation 6).

    Args:
        maps, gradients: (L, N, H, T, T) of self-attention.
        start: first layer.
        before: (N, T, T), relevance before that layer; None for E.

    Returns:
        (N, T, T); row 0 is that of the class token.
    """
    eye = np.eye(maps.shape[-1], dtype=np.float32)
    total = np.broadcast_to(eye, (maps.shape[1], *eye.shape)) if before is None else before
    for layer, slope in zip(maps[start:], gradients[start:], strict=True):
        total = total + weighted_heads(layer, slope) @ total
    return total


Relevances = dict[tuple[str, str], np.ndarray]
"""(s, q) → (N, T_s, T_q), the relevance of tokens of q for those of s."""


def cross_step(
    state: Mapping[tuple[str, str], np.ndarray], s: str, q: str, attention: np.ndarray
) -> Relevances:
    """What one cross-attention layer adds to the relevances: tokens of s query those of q.

    R^sq += (R̄^ss)ᵀ Ā R̄^qq and R^ss += Ā R^qs, with R̄ the self-relevance whose part beyond E has rows of sum 1: Chefer et
    al., ICCV 2021, equations 8 to 11.

    Args:
        state: all relevances before the layer.
        s, q: names of the modalities.
        attention: (N, T_s, T_q), Ā of the layer.

    Returns:
        The two additions.
    """
    ss, qq = _normalised(state[s, s]), _normalised(state[q, q])
    return {(s, q): ss.swapaxes(1, 2) @ attention @ qq, (s, s): attention @ state[q, s]}


def _normalised(own: np.ndarray) -> np.ndarray:
    eye = np.eye(own.shape[-1], dtype=own.dtype)
    beyond = own - eye
    total = beyond.sum(-1, keepdims=True)
    return np.divide(beyond, total, out=np.zeros_like(beyond), where=total > 0) + eye


def pca_rgb(tokens: np.ndarray, axis: Axis) -> np.ndarray:
    """The first three principal components of patch tokens as red, green and blue, as in Oquab et al., TMLR 2024, figure 1.

    Args:
        tokens: (N, T, D); the components are those of all patches of the N images, so their colours can be compared.
        axis: of the T tokens.

    Returns:
        (N, h, w, 3) float in 0 … 1; each component is scaled from its 1st to its 99th percentile. Of fewer than three
        components the others are 0.5.
    """
    patches = tokens[:, axis.prefix :].astype(np.float64)
    rows = patches.reshape(-1, patches.shape[-1])
    rows = rows - rows.mean(0)
    _, sizes, directions = np.linalg.svd(rows, full_matrices=False)
    directions = directions[:3] * (sizes[:3, None] > 1e-6 * max(sizes[0], 1e-12))
    # The sign of a component is arbitrary: the larger part of each is positive.
    directions = directions * np.where(np.abs(directions.min(1)) > directions.max(1), -1, 1)[:, None]
    found = np.full((len(rows), 3), 0.5)
    for i, values in enumerate((rows @ directions.T).T):
        low, high = np.percentile(values, (1, 99))
        if high > low:
            found[:, i] = np.clip((values - low) / (high - low), 0, 1)
    grid = axis.grid or (1, patches.shape[1])
    return found.reshape(len(tokens), *grid, 3)
