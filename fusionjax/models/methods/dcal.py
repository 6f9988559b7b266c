"""Dual cross-attention learning, DCAL (Zhu et al., CVPR 2022, arXiv 2205.02151), over a vision transformer.

Three branches are trained together; SA and GLCA are used at test time.

    SA     the plain transformer.
    GLCA   one more block with weights of its own: CLS and the R·(N − 1) patches with the highest rollout weight query all
           tokens (section 3.2, equation 5).
    PWCA   a second stream through the same blocks, whose queries see the keys and values of their own image and of another
           one (section 3.3, equations 6–7). Training only.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fusionjax.models.attention import attention, attention_and_map, merge_heads, split_heads
from fusionjax.models.backbones.vit import ViT
from fusionjax.models.layers import Dense, DType, LayerNorm, Mlp, residual, take_within_groups
from fusionjax.models.methods.rollout import cls_rollout_from_qk
from fusionjax.types import Array


def derangement(key: Array, groups: int, size: int, kin: int = 1) -> Array:
    """Random partners within groups, never oneself: a uniformly drawn cycle through each group.

    Re-identification batches come grouped by identity. There the images of a group are dealt into `kin` hands of one image
    of each identity, and the cycle goes through each hand: nobody meets their kind.

    Args:
        key: PRNG key.
        groups: number of groups.
        size: images in a group, at least 2.
        kin: neighbours that are of one identity; a group holds at least two whole identities.

    Returns:
        (groups, size) int32: the position within the group of each image's partner.
    """
    if size < 2:
        raise ValueError(f"a group of {size} has no pairs")
    if kin > 1:
        return _between_kinds(key, groups, size, kin)
    order = jnp.argsort(jax.random.uniform(key, (groups, size)), axis=1)
    rows = jnp.arange(groups)[:, None]
    return (
        jnp.zeros((groups, size), jnp.int32)
        .at[rows, order]
        .set(jnp.roll(order, -1, axis=1).astype(jnp.int32))
    )


def _between_kinds(key: Array, groups: int, size: int, kin: int) -> Array:
    kinds = size // kin
    if size % kin or kinds < 2:
        raise ValueError(f"a group of {size} does not hold two whole identities of {kin}")
    deal, turn = jax.random.split(key)
    member = jnp.argsort(jax.random.uniform(deal, (groups, kinds, kin)), axis=2)
    hands = (jnp.arange(kinds)[:, None] * kin + member).swapaxes(1, 2)  # (groups, kin, kinds)
    cycle = jnp.take_along_axis(
        hands, jnp.argsort(jax.random.uniform(turn, (groups, kin, kinds)), axis=2), axis=2
    )
    rows = jnp.arange(groups)[:, None, None]
    partner = jnp.zeros((groups, size), jnp.int32)
    return partner.at[rows, cycle].set(jnp.roll(cycle, -1, axis=2).astype(jnp.int32))


def num_selected(ratio: float, patches: int) -> int:
    """How many patch tokens GLCA selects: floor(R · (N − 1)), at least one."""
    return max(1, math.floor(ratio * patches + 1e-9))  # 0.29 · 100 is 28.999…96 in floating point


def select(rollout: Array, count: int) -> Array:
    """Token indices of GLCA's queries.

    Args:
        rollout: (B, N), CLS first.
        count: patch tokens to select.

    Returns:
        (B, 1 + count) int32: 0 (CLS, always), then the patches by falling weight; of equal weights the earlier first.
    """
    _, top = jax.lax.top_k(rollout[:, 1:], count)
    return jnp.concatenate([jnp.zeros_like(top[:, :1]), top + 1], axis=1)


class GlobalLocalBlock(nn.Module):
    """A pre-norm block whose queries, residual and MLP are the selected tokens only; keys and values come from all.

    Args (call):
        x: (B, N, D) all tokens.
        selected: (B, n) indices of the query tokens.
        rate: stochastic depth rate, or None for none.
        capture: with "glca_attention" the second value is the map (B, H, n, N), else None.
    """

    heads: int
    hidden: int
    dropout: float = 0.0
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, selected: Array, rate: float | None, *, train: bool, capture: tuple[str, ...] = ()
    ) -> tuple[Array, Array | None]:
        width = x.shape[-1]
        local = jnp.take_along_axis(x, selected[..., None], axis=1)
        norm = LayerNorm(dtype=self.dtype, name="norm1")
        q = split_heads(Dense(width, dtype=self.dtype, name="q")(norm(local)), self.heads)
        kv = Dense(2 * width, dtype=self.dtype, name="kv")(norm(x))
        k, v = (split_heads(part, self.heads) for part in jnp.split(kv, 2, axis=-1))
        out, weights = attention_and_map(q, k, v, with_map="glca_attention" in capture)
        out = Dense(width, dtype=self.dtype, name="proj")(merge_heads(out))
        local = residual(
            self, local, nn.Dropout(self.dropout, deterministic=not train)(out), rate, train=train
        )
        normed = LayerNorm(dtype=self.dtype, name="norm2")(local)
        out = Mlp(self.hidden, self.dropout, self.dtype, name="mlp")(normed, train=train)
        return residual(self, local, out, rate, train=train), weights


class DCAL(ViT):
    """ViT with the GLCA and PWCA branches; the attributes of `ViT`, and:

    Attributes:
        branches: which of "sa", "glca", "pwca" exist; "sa" always does.
        ratio: R, the share of patch tokens that GLCA selects, in (0, 1].
        glca_input: "last", the output of the last block, or "penultimate", its input.
        partner_stream: where PWCA's partner comes from: "pwca", its own pair-wise stream, or "sa".
        uncertainty_init: start of the learned w of the branch losses.
    """

    branches: tuple[str, ...] = ("sa", "glca", "pwca")
    ratio: float = 0.1
    glca_input: str = "last"
    partner_stream: str = "pwca"
    uncertainty_init: float = 0.0

    def setup(self) -> None:
        super().setup()
        if "glca" in self.branches:
            self.glca_block = GlobalLocalBlock(
                self.heads, int(self.width * self.mlp_ratio), self.dropout, self.dtype
            )
            self.glca_norm = LayerNorm(dtype=self.dtype)
            if self.num_classes:
                self.glca_head = Dense(self.num_classes, dtype=jnp.float32)
        start = nn.initializers.constant(self.uncertainty_init)
        self.log_variances = {
            b: self.param(f"log_variance_{b}", start, (), jnp.float32) for b in self.branches
        }

    def __call__(
        self,
        images: Array | None = None,
        *,
        features: Array | None = None,
        camera: Array | None = None,
        train: bool = False,
        partner: Array | None = None,
        capture: tuple[str, ...] = (),
    ) -> tuple[Array, dict[str, Any]]:
        """Log of the mean class probabilities of SA and GLCA.

        Args:
            images, features, camera, train, capture: as for `ViT`; capture also knows "glca_attention" (B, H, n, N).
            partner: (groups, size) from `derangement`; with it, and the "pwca" branch, the PWCA stream runs too. It never
                changes the other branches' outputs.

        Returns:
            (B, C) float32; its softmax is the prediction. aux: "logits" and "features", each by branch; "rollout" (B, N)
            and "selected" (B, n) with GLCA; "log_variances" by branch.
        """
        pairs = "pwca" in self.branches and partner is not None
        x = self.embed(images, features, camera, train=train)
        embedded, batch = x, x.shape[0]
        extra = ("qk",) if "glca" in self.branches else ()
        extra += ("tokens",) if "glca" in self.branches and self.glca_input == "penultimate" else ()
        if pairs and "attention" in capture:
            raise ValueError("attention maps are captured without a partner: PWCA's are over 2N keys")
        x, aux = self.encode(
            jnp.concatenate([x, x]) if pairs else x,
            attend=self._two_streams(partner) if pairs else attention,
            train=train,
            capture=(*extra, *(name for name in capture if name not in extra)),
        )
        aux = {name: value[:, :batch] for name, value in aux.items()}
        feature = {"sa": self.norm(x[:batch, 0])}
        if pairs:
            feature["pwca"] = self.norm(x[batch:, 0])
        if "glca" in self.branches:
            if self.glca_input == "last":
                source = x[:batch]
            else:  # the input of the only block is the embedding
                source = aux["tokens"][-2] if self.depth > 1 else embedded
            aux["rollout"] = cls_rollout_from_qk(aux["queries"], aux["keys"])
            aux["selected"] = select(aux["rollout"], num_selected(self.ratio, x.shape[1] - 1))
            local, weights = self.glca_block(
                source, aux["selected"], self.drop_path or None, train=train, capture=capture
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

    def _two_streams(self, partner: Array):
        """Attention of the SA stream (first half of the batch) and of the PWCA stream (second half)."""

        def attend(q: Array, k: Array, v: Array) -> Array:
            (q1, q2), (k1, k2), (v1, v2) = (jnp.split(x, 2) for x in (q, k, v))
            source_k, source_v = (k2, v2) if self.partner_stream == "pwca" else (k1, v1)
            joint_k = jnp.concatenate([k2, take_within_groups(source_k, partner)], axis=2)
            joint_v = jnp.concatenate([v2, take_within_groups(source_v, partner)], axis=2)
            return jnp.concatenate([attention(q1, k1, v1), attention(q2, joint_k, joint_v)])

        return attend


def combine(logits: dict[str, Array]) -> Array:
    """log of the mean of SA's and GLCA's class probabilities, (B, C): the fine-grained test rule (section 4.1)."""
    used = [jax.nn.log_softmax(logits[b]) for b in ("sa", "glca") if b in logits]
    return jax.nn.logsumexp(jnp.stack(used), axis=0) - math.log(len(used))
