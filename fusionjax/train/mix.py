"""Mixup and CutMix: pure functions of a batch, inside the compiled step; one λ a batch, soft targets."""

import jax
import jax.numpy as jnp

Array = jax.Array


def soft(labels: Array, num_classes: int) -> Array:
    """(B,) class indices → (B, C) float32 targets, what `mixup` and `cutmix` take."""
    return jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)


def mixup(key: Array, images: Array, targets: Array, alpha: float) -> tuple[Array, Array]:
    """λ · batch + (1 − λ) · the batch in a random order, λ ~ Beta(α, α).

    Args:
        key: PRNG key; decides λ and the order.
        images: (B, ...) float, normalised.
        targets: (B, C) float, each row a distribution; `soft` makes them.
        alpha: α > 0; 0 changes nothing.

    Returns:
        Mixed images and targets, of the same shapes and dtypes.

    Source: Zhang et al., ICLR 2018, arXiv 1710.09412.
    """
    if alpha <= 0:
        return images, targets
    share, order = _draw(key, alpha, len(images))
    return _blend(images, images[order], share), _blend(targets, targets[order], share)


def cutmix(key: Array, images: Array, targets: Array, alpha: float) -> tuple[Array, Array]:
    """A rectangle of each image comes from another image of the batch; the targets follow the areas.

    The rectangle has the image's proportions and 1 − λ of its area, λ ~ Beta(α, α), around a uniform centre, and is cut at the
    edges; the targets' share is that of the pixels that really stayed. One rectangle a batch.

    Args:
        key: PRNG key; decides λ, the order and the centre.
        images: (B, h, w, C).
        targets: (B, C) float, each row a distribution; `soft` makes them.
        alpha: α > 0; 0 changes nothing.

    Returns:
        Mixed images and targets, of the same shapes and dtypes.

    Source: Yun et al., ICCV 2019, arXiv 1905.04899.
    """
    if alpha <= 0:
        return images, targets
    key, centre_key = jax.random.split(key)
    share, order = _draw(key, alpha, len(images))
    sizes = jnp.asarray(images.shape[1:3])
    half = (sizes * jnp.sqrt(1 - share)).astype(jnp.int32) // 2
    centre = jax.random.randint(centre_key, (2,), 0, sizes)
    inside = [
        (jnp.arange(size) >= centre[axis] - half[axis]) & (jnp.arange(size) < centre[axis] + half[axis])
        for axis, size in enumerate(images.shape[1:3])
    ]
    box = inside[0][:, None] & inside[1][None, :]
    mixed = jnp.where(box[None, :, :, None], images[order], images)
    return mixed, _blend(targets, targets[order], 1 - box.mean(dtype=jnp.float32))


def _draw(key: Array, alpha: float, batch: int) -> tuple[Array, Array]:
    share_key, order_key = jax.random.split(key)
    return jax.random.beta(share_key, alpha, alpha), jax.random.permutation(order_key, batch)


def _blend(x: Array, other: Array, share: Array) -> Array:
    return (share * x + (1 - share) * other).astype(x.dtype)
