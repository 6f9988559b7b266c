"""Mixup and CutMix: pure functions of a batch, inside the compiled step; one λ per batch, soft targets."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fusionjax.models.layers import take_within_groups
from fusionjax.types import Array


def soft(labels: Array, num_classes: int) -> Array:
    """Converts class indices (B,) int to targets (B, C) float32, as `mixup` and `cutmix` take them."""
    return jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)


def mix(
    key: Array,
    images: Array,
    targets: Array,
    *,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
    switch: float = 0.5,
    groups: int = 1,
) -> tuple[Array, Array]:
    """Applies `mixup` or `cutmix` to a batch; if both are on, one is drawn per batch, as in DeiT's recipe.

    Args:
        key, images, targets, groups: as for `mixup`.
        mixup_alpha, cutmix_alpha: α of each; 0 turns it off.
        switch: probability of CutMix if both are on.

    Returns:
        Mixed images and targets, of the same shapes and dtypes.

    Source: Touvron et al., ICML 2021, arXiv 2012.12877, table 9.
    """
    coin, key = jax.random.split(key)
    if not (mixup_alpha > 0 and cutmix_alpha > 0):
        return (
            cutmix(key, images, targets, cutmix_alpha, groups=groups)
            if cutmix_alpha > 0
            else mixup(key, images, targets, mixup_alpha, groups=groups)
        )
    return jax.lax.cond(
        jax.random.bernoulli(coin, switch),
        lambda: cutmix(key, images, targets, cutmix_alpha, groups=groups),
        lambda: mixup(key, images, targets, mixup_alpha, groups=groups),
    )


def mixup(key: Array, images: Array, targets: Array, alpha: float, *, groups: int = 1) -> tuple[Array, Array]:
    """Mixes a batch with a random permutation of itself: λ x + (1 − λ) x', λ ~ Beta(α, α).

    Args:
        key: PRNG key, for λ and the permutation.
        images: (B, ...) float, normalised.
        targets: (B, C) float, each row a distribution; see `soft`.
        alpha: α; 0 changes nothing.
        groups: equal parts of the batch within which images are mixed; one per device needs no communication.

    Returns:
        Mixed images and targets, of the same shapes and dtypes.

    Source: Zhang et al., ICLR 2018, arXiv 1710.09412.
    """
    if alpha <= 0:
        return images, targets
    share, shuffled = _draw(key, alpha, len(images), groups)
    return _blend(images, shuffled(images), share), _blend(targets, shuffled(targets), share)


def cutmix(
    key: Array, images: Array, targets: Array, alpha: float, *, groups: int = 1
) -> tuple[Array, Array]:
    """Replaces a rectangle of each image by that of another image of the batch; the targets are mixed by area.

    The rectangle has the aspect ratio of the image and 1 − λ of its area, λ ~ Beta(α, α), around a uniformly drawn centre, and
    is cut off at the edges; the targets are weighted by the actual share of pixels. There is one rectangle per batch.

    Args:
        key: PRNG key, for λ, the permutation and the centre.
        images: (B, h, w, C) float.
        targets, alpha, groups: as for `mixup`.

    Returns:
        Mixed images and targets, of the same shapes and dtypes.

    Source: Yun et al., ICCV 2019, arXiv 1905.04899.
    """
    if alpha <= 0:
        return images, targets
    key, centre_key = jax.random.split(key)
    share, shuffled = _draw(key, alpha, len(images), groups)
    sizes = jnp.asarray(images.shape[1:3])
    half = (sizes * jnp.sqrt(1 - share)).astype(jnp.int32) // 2
    centre = jax.random.randint(centre_key, (2,), 0, sizes)
    inside = [
        (jnp.arange(size) >= centre[axis] - half[axis]) & (jnp.arange(size) < centre[axis] + half[axis])
        for axis, size in enumerate(images.shape[1:3])
    ]
    box = inside[0][:, None] & inside[1][None, :]
    mixed = jnp.where(box[None, :, :, None], shuffled(images), images)
    return mixed, _blend(targets, shuffled(targets), 1 - box.mean(dtype=jnp.float32))


def _draw(key: Array, alpha: float, batch: int, groups: int) -> tuple[Array, Callable[[Array], Array]]:
    """Draws λ, and a function that permutes the rows of a batch within each group."""
    share_key, order_key = jax.random.split(key)
    size = batch // groups
    orders = jax.vmap(lambda k: jax.random.permutation(k, size))(jax.random.split(order_key, groups))

    return jax.random.beta(share_key, alpha, alpha), lambda x: take_within_groups(x, orders)


def _blend(x: Array, other: Array, share: Array) -> Array:
    return (share * x + (1 - share) * other).astype(x.dtype)
