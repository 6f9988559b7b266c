"""Embedding network for re-identification: a transformer with a BNNeck and a classifier on the CLS feature of each branch.

See docs/methods/reid.md.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Shaped

from fusionjax.models.backbones.vit import ViT
from fusionjax.models.layers import Dense, DType
from fusionjax.types import Array, Aux
from fusionjax.vectors import unit

_HEAD_INIT = nn.initializers.normal(0.001)


class BNNeck(nn.Module):
    """Batch normalisation without a shift, between the feature of the metric loss and that of the classifier.

    The statistics are those of the whole (global) batch, on any number of devices, in float32.

    Attributes:
        momentum: weight of the running statistics in their update.
        eps: added to the variance.

    Args (call):
        x: (B, D) float.
        train: normalise with the statistics of the batch, else with the running statistics.
        update: whether this batch updates the running statistics.
        valid: (B,), 0 for rows that are left out of the statistics; None to use all rows.

    Returns:
        (B, D) float32.

    Source: Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person Re-identification", CVPR Workshops 2019.
    """

    momentum: float = 0.9
    eps: float = 1e-5

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch width"],
        *,
        train: bool,
        update: bool = True,
        valid: Shaped[Array, " batch"] | None = None,
    ) -> Float[Array, "batch width"]:
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
    """A ViT or DCAL without classification heads, with a BNNeck and a bias-free classifier for each branch.

    PWCA shares the neck and the classifier of SA, as it shares its blocks; its features do not update the running statistics
    of the neck.

    Attributes:
        backbone: `ViT` or `DCAL` with num_classes 0.
        num_classes: C, number of training identities.
        centers: keep one centre per identity for the centre loss, in the collection "centers", by branch.
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
        """Names of the branches that are trained; ("sa",) for a plain ViT."""
        return getattr(self.backbone, "branches", ("sa",))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patch tokens."""
        return self.backbone.grid

    @property
    def dtype(self) -> DType:
        """Data type of the computation."""
        return self.backbone.dtype

    def setup(self) -> None:
        # The backbone's parameters keep their names, so that patterns and published weights apply unchanged.
        nn.share_scope(self, self.backbone)
        own: list[str] = [b for b in ("sa", "glca") if b in self.branches]
        self.neck = {b: BNNeck(name=f"neck_{b}") for b in own}
        self.classifier = {
            b: Dense(self.num_classes, False, kernel_init=_HEAD_INIT, name=f"head_{b}") for b in own
        }
        if self.centers:
            shape = (self.num_classes, self.backbone.width)
            self.center = {b: self.variable("centers", b, jnp.zeros, shape, jnp.float32) for b in own}

    def __call__(
        self,
        images: Float[Array, "batch rows columns channels"] | None = None,
        *,
        train: bool = False,
        valid: Shaped[Array, " batch"] | None = None,
        features: Float[Array, "batch _ _ _"] | None = None,
        camera: Int[Array, " batch"] | None = None,
        partner: Int[Array, "groups size"] | None = None,
        capture: tuple[str, ...] = (),
    ) -> tuple[Float[Array, "batch width"], Aux]:
        """Computes the features of the test protocol: CLS of SA and GLCA before the neck, concatenated, of unit length.

        Args:
            images: (B, h, w, 3) float, normalised.
            train: dropout, stochastic depth and batch statistics on; needs the PRNG collection "dropout".
            valid: (B,), 0 for rows that are left out of the necks' statistics; None to use all rows.
            features, camera, partner, capture: as for `DCAL` and `ViT`; only a `DCAL` has `partner`.

        Returns:
            (B, D) or (B, 2·D) float32, and the backbone's aux with, by branch, "features" (B, D) float32 before the neck,
            "logits" (B, C) float32 after it, and "centers" (C, D).
        """
        pairs = {} if partner is None else {"partner": partner}
        _, aux = self.backbone(
            images, features=features, camera=camera, train=train, capture=capture, **pairs
        )
        branches = aux["features"] if isinstance(aux["features"], dict) else {"sa": aux["features"]}
        by_branch = {b: f.astype(jnp.float32) for b, f in branches.items()}
        logits = {}
        for b, feature in by_branch.items():
            shared = "sa" if b == "pwca" else b
            normed = self.neck[shared](feature, train=train, update=b == shared, valid=valid)
            logits[b] = self.classifier[shared](normed)
        aux = {**aux, "features": by_branch, "logits": logits}
        if self.centers:
            aux["centers"] = {b: c.value for b, c in self.center.items()}
        return unit(jnp.concatenate([by_branch[b] for b in self.neck], -1)), aux

    def run_trunk(self, images: Array, *, train: bool = False) -> Array:
        """Calls `ViT.run_trunk`."""
        return self.backbone.run_trunk(images, train=train)

    def pool_trunk(self, features: Array) -> Array:
        """Calls `ViT.pool_trunk`."""
        return self.backbone.pool_trunk(features)
