"""A transformer as an embedding network for re-identification: a BNNeck and a classifier on every branch's CLS feature."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fusionjax.models.backbones.vit import ViT
from fusionjax.models.layers import Dense
from fusionjax.types import Array
from fusionjax.vectors import unit

_HEAD_INIT = nn.initializers.normal(0.001)


class BNNeck(nn.Module):
    """Batch normalisation without a shift, between the feature of the metric loss and that of the classifier.

    The statistics are those of the whole batch, whatever the devices that share it, in float32.

    Attributes:
        momentum: share of the running statistics kept at a training step.
        eps: of the norm.

    Args (call):
        x: (B, D).
        train: normalise by the batch, else by the running statistics.
        update: whether this batch enters the running statistics.
        valid: (B,), 0 for rows that take no part in the statistics; None for none.

    Returns:
        (B, D) float32.

    Source: Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person Re-identification", CVPR Workshops 2019.
    """

    momentum: float = 0.9
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: Array, *, train: bool, update: bool = True, valid: Array | None = None) -> Array:
        width = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones_init(), (width,), jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, (width,), jnp.float32)
        variance = self.variable("batch_stats", "var", jnp.ones, (width,), jnp.float32)
        x = x.astype(jnp.float32)
        if not train:
            return (x - mean.value) * jax.lax.rsqrt(variance.value + self.eps) * scale
        weight = jnp.ones(x.shape[:1]) if valid is None else (valid > 0).astype(jnp.float32)
        count = jnp.maximum(weight.sum(), 1)
        centre = (weight[:, None] * x).sum(0) / count
        spread = (weight[:, None] * jnp.square(x - centre)).sum(0) / count
        if update and not self.is_initializing():
            unbiased = spread * (count / jnp.maximum(count - 1, 1))  # as torch keeps it
            mean.value = self.momentum * mean.value + (1 - self.momentum) * centre
            variance.value = self.momentum * variance.value + (1 - self.momentum) * unbiased
        return (x - centre) * jax.lax.rsqrt(spread + self.eps) * scale


class ReID(nn.Module):
    """A ViT or DCAL without its heads, with a BNNeck and a bias-free classifier of each branch.

    PWCA shares SA's neck and classifier, as it shares its blocks; its features do not enter the neck's running statistics.

    Attributes:
        backbone: `ViT` or `DCAL` with num_classes 0.
        num_classes: C, training identities.
        centers: keep a centre of each identity for the centre loss, in the collection "centers", by branch.
    """

    backbone: ViT
    num_classes: int
    centers: bool = False

    @property
    def parts(self) -> tuple[tuple[str, nn.Module], ...]:
        """The backbone, whose parameters keep their names: see `models.parameters`."""
        return (("", self.backbone),)

    @property
    def branches(self) -> tuple[str, ...]:
        """Of the backbone: those that train; ("sa",) for a plain ViT."""
        return getattr(self.backbone, "branches", ("sa",))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the backbone's patch tokens."""
        return self.backbone.grid

    @property
    def dtype(self) -> Any:
        """Of the computation."""
        return self.backbone.dtype

    def setup(self) -> None:
        # The backbone's parameters keep their names: patterns and published weights need not know of the wrapper.
        nn.share_scope(self, self.backbone)
        own = [b for b in ("sa", "glca") if b in self.branches]
        self.neck = {b: BNNeck(name=f"neck_{b}") for b in own}
        self.classifier = {
            b: Dense(self.num_classes, False, kernel_init=_HEAD_INIT, name=f"head_{b}") for b in own
        }
        if self.centers:
            shape = (self.num_classes, self.backbone.width)
            self.center = {b: self.variable("centers", b, jnp.zeros, shape, jnp.float32) for b in own}

    def __call__(
        self,
        images: Array | None = None,
        *,
        train: bool = False,
        valid: Array | None = None,
        **inputs: Any,
    ) -> tuple[Array, dict[str, Any]]:
        """Test features: CLS of SA and of GLCA before the neck, side by side, made unit.

        Args:
            images: (B, h, w, 3) normalised.
            train: dropout, stochastic depth and batch statistics; needs the PRNG collection "dropout".
            valid: (B,), 0 for rows that take no part in the necks' statistics; None for none.
            **inputs: features, camera, partner, capture: as for `DCAL` and `ViT`.

        Returns:
            (B, D) or (B, 2 D) float32, and the backbone's aux with, by branch, "features" (B, D) float32 before the neck,
            "logits" (B, C) float32 after it, and "centers" (C, D).
        """
        _, aux = self.backbone(images, train=train, **inputs)
        features = aux["features"] if isinstance(aux["features"], dict) else {"sa": aux["features"]}
        features = {b: f.astype(jnp.float32) for b, f in features.items()}
        logits = {}
        for b, feature in features.items():
            shared = "sa" if b == "pwca" else b
            normed = self.neck[shared](feature, train=train, update=b == shared, valid=valid)
            logits[b] = self.classifier[shared](normed)
        aux = {**aux, "features": features, "logits": logits}
        if self.centers:
            aux["centers"] = {b: c.value for b, c in self.center.items()}
        return unit(jnp.concatenate([features[b] for b in self.neck], -1)), aux

    def run_trunk(self, images: Array, *, train: bool = False) -> Array:
        """As `ViT.run_trunk`."""
        return self.backbone.run_trunk(images, train=train)

    def pool_trunk(self, features: Array) -> Array:
        """As `ViT.pool_trunk`."""
        return self.backbone.pool_trunk(features)
