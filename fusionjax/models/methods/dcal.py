"""Dual cross-attention learning, DCAL (Zhu et al., CVPR 2022, arXiv 2205.02151), over a vision transformer.

Three branches are trained together; SA and GLCA are used at test time. See docs/methods/dcal.md.

    SA     self-attention: the plain transformer.
    GLCA   global-local cross-attention: one more block with its own weights, in which CLS and the R·(N − 1) patches with
           the highest rollout weight query all tokens (section 3.2, equation 5).
    PWCA   pair-wise cross-attention: a second stream through the same blocks, whose queries attend to the keys and values
           of their own image and of a partner image (section 3.3, equations 6–7). Training only.
"""

import functools
import math
from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from fusionjax.models.attention import attention, attention_and_map, merge_heads, split_heads
from fusionjax.models.backbones.vit import Attend, ViT
from fusionjax.models.layers import (
    FEED_FORWARD,
    Dense,
    DType,
    LayerNorm,
    LayerScale,
    residual,
    take_within_groups,
)
from fusionjax.models.observation import Axis, See, Stream, observer
from fusionjax.models.rollout import cls_rollout_from_qk
from fusionjax.types import Array, Aux


def derangement(
    key: Array, groups: int, size: int, images_per_identity: int = 1
) -> Int[Array, "groups size"]:
    """Draws a partner for each image within its group, never the image itself: a random cycle through the group.

    Batches for re-identification list the images of each identity consecutively. Each group is then partitioned into
    `images_per_identity` subsets with one image per identity, and a cycle is drawn through each subset, so that partners
    never share an identity.

    Args:
        key: PRNG key.
        groups: number of groups.
        size: images in a group, at least 2.
        images_per_identity: consecutive images of one identity; a group holds at least two complete identities.

    Returns:
        (groups, size) int32, the position within the group of each image's partner.

    Raises:
        ValueError: a group has fewer than 2 images, or does not hold at least two complete identities.
    """
    if size < 2:
        raise ValueError(f"a group of {size} has no pairs")
    if images_per_identity > 1:
        return _between_identities(key, groups, size, images_per_identity)
    order = jnp.argsort(jax.random.uniform(key, (groups, size)), axis=1)
    rows = jnp.arange(groups)[:, None]
    return (
        jnp.zeros((groups, size), jnp.int32)
        .at[rows, order]
        .set(jnp.roll(order, -1, axis=1).astype(jnp.int32))
    )


def _between_identities(key: Array, groups: int, size: int, per_identity: int) -> Array:
    identities = size // per_identity
    if size % per_identity or identities < 2:
        raise ValueError(f"a group of {size} images does not hold two complete identities of {per_identity}")
    member_key, cycle_key = jax.random.split(key)
    member = jnp.argsort(jax.random.uniform(member_key, (groups, identities, per_identity)), axis=2)
    subsets = (jnp.arange(identities)[:, None] * per_identity + member).swapaxes(1, 2)
    order = jnp.argsort(jax.random.uniform(cycle_key, (groups, per_identity, identities)), axis=2)
    cycle = jnp.take_along_axis(subsets, order, axis=2)  # (groups, per_identity, identities)
    rows = jnp.arange(groups)[:, None, None]
    partner = jnp.zeros((groups, size), jnp.int32)
    return partner.at[rows, cycle].set(jnp.roll(cycle, -1, axis=2).astype(jnp.int32))


def num_selected(ratio: float, patches: int) -> int:
    """Returns the number of patch tokens that GLCA selects, max(1, ⌊R · (N − 1)⌋), for R = `ratio` and N − 1 patches."""
    return max(1, math.floor(ratio * patches + 1e-9))  # 0.29 · 100 is 28.999…96 in floating point


def select(rollout: Float[Array, "batch tokens"], count: int) -> Int[Array, "batch selected"]:
    """Returns the token indices of GLCA's queries.

    Args:
        rollout: (B, N) float rollout weights, CLS first.
        count: number of patch tokens to select.

    Returns:
        (B, 1 + count) int32: always 0 (CLS), then the patches by descending weight; ties go to the lower index.
    """
    # A sort splits over the devices of a batch; `top_k` would gather all rows on each of them.
    top = jnp.argsort(rollout[:, 1:], axis=1, descending=True, stable=True)[:, :count]
    return jnp.concatenate([jnp.zeros_like(top[:, :1]), top + 1], axis=1)


class GlobalLocalBlock(nn.Module):
    """Pre-norm block with queries, residual and MLP of the selected tokens only, and keys and values of all tokens.

    Attributes:
        heads: H.
        hidden: hidden width of the MLP.
        dropout: after the attention projection and inside the MLP.
        dtype: of the computation; parameters are float32.
        layer_scale, feed_forward: as for `vit.Block`.

    Args (call):
        x: (B, N, D) float, all tokens.
        selected: (B, n) int, indices of the query tokens.
        rate: rate of stochastic depth, or None.
        train: dropout and stochastic depth on; needs the PRNG collection "dropout".
        capture: "glca_attention" or nothing.

    Returns:
        The selected tokens, (B, n, D), and the attention map (B, H, n, N) float32 if captured, else None.
    """

    heads: int
    hidden: int
    dropout: float = 0.0
    dtype: DType = jnp.float32
    layer_scale: float = 0.0
    feed_forward: str = "gelu"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        selected: Int[Array, "batch selected"],
        rate: float | None,
        *,
        train: bool,
        capture: tuple[str, ...] = (),
    ) -> tuple[Float[Array, "batch selected width"], Float[Array, "batch heads selected tokens"] | None]:
        width = x.shape[-1]
        local = jnp.take_along_axis(x, selected[..., None], axis=1)
        norm = LayerNorm(dtype=self.dtype, name="norm1")
        q = split_heads(Dense(width, dtype=self.dtype, name="q")(norm(local)), self.heads)
        kv = Dense(2 * width, dtype=self.dtype, name="kv")(norm(x))
        k, v = (split_heads(part, self.heads) for part in jnp.split(kv, 2, axis=-1))
        out, weights = attention_and_map(q, k, v, with_map="glca_attention" in capture, see=observer(self))
        out = Dense(width, dtype=self.dtype, name="proj")(merge_heads(out))
        out = nn.Dropout(self.dropout, deterministic=not train)(out)
        out = LayerScale(self.layer_scale, self.dtype, name="ls1")(out)
        local = residual(self, local, out, rate, train=train)
        normed = LayerNorm(dtype=self.dtype, name="norm2")(local)
        mlp = FEED_FORWARD[self.feed_forward](self.hidden, self.dropout, self.dtype, name="mlp")
        out = LayerScale(self.layer_scale, self.dtype, name="ls2")(mlp(normed, train=train))
        return residual(self, local, out, rate, train=train), weights


class DCAL(ViT):
    """ViT with the branches GLCA and PWCA. It has the attributes of `ViT`, and:

    Attributes:
        branches: which of "sa", "glca", "pwca" exist; "sa" always does.
        ratio: R, the share of patch tokens that GLCA selects, in (0, 1].
        glca_input: "last", the output of the last block, or "penultimate", its input.
        partner_stream: the stream that supplies the partner's keys and values in PWCA: "pwca", the pair-wise stream
            itself, or "sa".
        uncertainty_init: initial value of the learned log variances w of the branch losses.
    """

    branches: tuple[str, ...] = ("sa", "glca", "pwca")
    ratio: float = 0.1
    glca_input: str = "last"
    partner_stream: str = "pwca"
    uncertainty_init: float = 0.0

    rolls_out: ClassVar[bool] = True

    @property
    def streams(self) -> dict[str, Stream]:
        """See `models.observation`."""
        own = Axis("image", self.grid, self.prefix, True)
        return {
            **super().streams,
            "blocks/pair": Stream("pwca", own, Axis("pair", self.grid, self.prefix, True)),
            "glca_block/attention": Stream("glca", Axis("selected", self.grid, 1, True), own),
        }

    def setup(self) -> None:
        super().setup()
        if "glca" in self.branches:
            self.glca_block = GlobalLocalBlock(**self.block)
            self.glca_norm = LayerNorm(dtype=self.dtype)
            if self.num_classes:
                self.glca_head = Dense(self.num_classes, dtype=jnp.float32)
        start = nn.initializers.constant(self.uncertainty_init)
        self.log_variances = {
            b: self.param(f"log_variance_{b}", start, (), jnp.float32) for b in self.branches
        }

    def __call__(
        self,
        images: Float[Array, "batch rows columns channels"] | None = None,
        *,
        features: Float[Array, "batch feature_rows feature_columns feature_channels"] | None = None,
        camera: Int[Array, " batch"] | None = None,
        train: bool = False,
        partner: Int[Array, "groups size"] | None = None,
        capture: tuple[str, ...] = (),
    ) -> tuple[Float[Array, "batch classes"], Aux]:
        """Computes the log of the mean class probabilities of SA and GLCA.

        Args:
            images, features, camera, train, capture: as for `ViT`; capture also accepts "glca_attention" (B, H, n, N).
            partner: (groups, size) int from `derangement`. If it is given and there is a "pwca" branch, the PWCA stream
                runs too; the outputs of the other branches stay the same.

        Returns:
            (B, C) float32, whose softmax is the prediction, or without classes the CLS features of SA and GLCA, (B, 2·D);
            and aux: "logits" and "features", each by branch; with GLCA "rollout" (B, N) and "selected" (B, n), both over CLS
            and patches, without registers, whose share of the rollout is left out; "log_variances" by branch.

        Raises:
            ValueError: attention maps are captured although `partner` is given.
        """
        attend: Attend = attention
        pairs = "pwca" in self.branches and partner is not None
        if pairs and partner is not None:
            attend = self._two_streams(partner)
        features = self.features_of(images, features, train=train)
        x = self.embed(None, features, camera, train=train)
        embedded = x
        extra: tuple[str, ...] = ("qk",) if "glca" in self.branches else ()
        extra += ("tokens",) if "glca" in self.branches and self.glca_input == "penultimate" else ()
        if pairs and "attention" in capture:
            raise ValueError("capture attention maps without a partner: those of PWCA are over 2N keys")
        x, seen = self.encode(
            merge_streams(x, x) if pairs else x,
            attend=attend,
            train=train,
            capture=(*extra, *(name for name in capture if name not in extra)),
        )
        aux: Aux = {name: split_streams(value, 1)[0] if pairs else value for name, value in seen.items()}
        own, pair = split_streams(x) if pairs else (x, None)
        feature = {"sa": self.norm(own[:, 0])}
        if pair is not None:
            feature["pwca"] = self.norm(pair[:, 0])
        if "glca" in self.branches:
            if self.glca_input == "last":
                source = own
            else:  # the input of the only block is the embedding
                source = aux["tokens"][-2] if len(aux["tokens"]) > 1 else embedded
            below = features[:, :, 0, self.width :] if self.frozen_blocks else None
            rollout = cls_rollout_from_qk(aux["queries"], aux["keys"], below)
            aux["rollout"] = self._without_registers(rollout)
            aux["selected"] = select(aux["rollout"], num_selected(self.ratio, x.shape[1] - self.prefix))
            # Positions among CLS and patches → among all tokens.
            rows = jnp.where(aux["selected"] > 0, aux["selected"] + self.registers, 0)
            local, weights = self.glca_block(
                source, rows, self.drop_path or None, train=train, capture=capture
            )
            feature["glca"] = self.glca_norm(local[:, 0])
            if weights is not None:
                aux["glca_attention"] = weights
        for name in extra:
            for key in ("queries", "keys") if name == "qk" else (name,):
                if name not in capture:
                    del aux[key]
        logits = {b: self.glca_head(f.astype(jnp.float32)) if b == "glca" and self.num_classes else self.classify(f)
                  for b, f in feature.items()}  # fmt: skip
        aux.update(logits=logits, features=feature, log_variances=self.log_variances)
        if not self.num_classes:
            return jnp.concatenate([feature[b] for b in ("sa", "glca") if b in feature], axis=-1), aux
        return combine(logits), aux

    def _without_registers(self, rollout: Array) -> Array:
        """(B, N) weights of all tokens → of CLS and patches."""
        if not self.registers:
            return rollout
        return jnp.concatenate([rollout[:, :1], rollout[:, self.prefix :]], axis=1)

    def _two_streams(self, partner: Array) -> Attend:
        """Returns the attention of the SA stream and of the PWCA stream; see `merge_streams`."""

        def attend(q: Array, k: Array, v: Array, *, see: See | None = None) -> Array:
            (q1, q2), (k1, k2), (v1, v2) = (split_streams(x) for x in (q, k, v))
            source_k, source_v = (k2, v2) if self.partner_stream == "pwca" else (k1, v1)
            joint_k = jnp.concatenate([k2, take_within_groups(source_k, partner)], axis=2)
            joint_v = jnp.concatenate([v2, take_within_groups(source_v, partner)], axis=2)
            see_pair = None if see is None else functools.partial(see, name="pair")
            own = attention(q1, k1, v1, see=see)
            return merge_streams(own, attention(q2, joint_k, joint_v, see=see_pair))

        return attend


def merge_streams(first: Array, second: Array) -> Array:
    """Two streams (B, ...) as one batch (2·B, ...), in which the streams of an image are neighbours.

    So a batch that is split over devices stays split: one stream after the other would be sent between devices, and back, in
    every block.
    """
    return jnp.stack([first, second], axis=1).reshape(-1, *first.shape[1:])


def split_streams(x: Array, axis: int = 0) -> tuple[Array, Array]:
    """The inverse of `merge_streams`; `axis` is that of the batch."""
    pairs = x.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
    first, second = (jax.lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in (0, 1))
    return first, second


def combine(logits: Mapping[str, Float[Array, "batch classes"]]) -> Float[Array, "batch classes"]:
    """Computes the log of the mean class probabilities of SA and GLCA, the test rule for classification (section 4.1).

    Args:
        logits: branch → (B, C) float; only "sa" and "glca" are used.

    Returns:
        (B, C) float32 log probabilities.
    """
    used = [jax.nn.log_softmax(logits[b]) for b in ("sa", "glca") if b in logits]
    return jax.nn.logsumexp(jnp.stack(used), axis=0) - math.log(len(used))
