"""Fusion heads, by name: each fuses an image and a text into one vector.

Every head has `out_width` and is called as

    fused, seen = head(v, t, image, text, train=…, capture=(…))

Args (call):
    v, t: (B, d) float32, the masked means of the image and text tokens.
    image: (B, N, d) float, the image tokens, which only "bottleneck" uses.
    text: `token_blocks.Blocks`, the text tokens, which only "bottleneck" uses.
    train: dropout on; needs the PRNG collection "dropout".
    capture: "gates" or "pooled_attention", of the heads that have them.

Returns:
    fused, (B, out_width) float32, and seen, what `capture` names.

All heads compute in float32, except the layers of "bottleneck". See docs/methods/image_text_fusion.md.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fusionjax import register
from fusionjax.errors import UserError
from fusionjax.models.attention import attention_and_map, merge_heads, split_heads
from fusionjax.models.layers import Dense, DType, LayerNorm, Mlp, trunc_normal
from fusionjax.models.methods import token_blocks
from fusionjax.models.methods.cross_attention import EPSILON, CrossAttention
from fusionjax.models.methods.token_blocks import Blocks
from fusionjax.register import FusionHeadRecord
from fusionjax.types import Array

Seen = dict[str, Array]


class Head(nn.Module):
    """What all heads share.

    Attributes:
        width: d.
        heads: H of the model's own attention (some fusion heads use another number).
        dropout: of attention maps and inside feed-forward layers.
        dtype: of the computation over tokens.
    """

    width: int
    heads: int = 12
    dropout: float = 0.0
    dtype: DType = jnp.float32

    @property
    def out_width(self) -> int:
        """Width of the fused vector."""
        return self.width


class Concat(Head):
    """[v; t], of width 2d."""

    @property
    def out_width(self) -> int:
        """Width of the fused vector."""
        return 2 * self.width

    def __call__(
        self, v: Array, t: Array, image: Array, text: Blocks, *, train: bool, capture: tuple[str, ...] = ()
    ) -> tuple[Array, Seen]:
        return jnp.concatenate([v, t], -1), {}


class Adaptive(Head):
    """Linear(g_v·v + g_t·t), g = σ(Linear([v; t])) divided by g_v + g_t.

    Attributes:
        gate: "scalar", one gate per modality, or "channel", one gate per channel.

    `capture` "gates": (B, 2) or (B, 2, d), the gate of the image first.
    """

    gate: str = "scalar"

    @nn.compact
    def __call__(
        self, v: Array, t: Array, image: Array, text: Blocks, *, train: bool, capture: tuple[str, ...] = ()
    ) -> tuple[Array, Seen]:
        if self.gate not in ("scalar", "channel"):
            raise UserError(f"head adaptive: gate={self.gate!r} is not one of scalar, channel")
        each = 1 if self.gate == "scalar" else self.width
        scores = Dense(2 * each, name="gates")(jnp.concatenate([v, t], -1)).reshape(-1, 2, each)
        # a / (a + b) of two sigmoids, computed from their logarithms, so that 0 / 0 cannot occur.
        gates = jax.nn.softmax(jax.nn.log_sigmoid(scores), axis=1)
        out = Dense(self.width, name="out")(gates[:, 0] * v + gates[:, 1] * t)
        seen = gates[..., 0] if self.gate == "scalar" else gates
        return out, {"gates": seen} if "gates" in capture else {}


class Bilinear(Head):
    """LN(v + t + W(v, t)).

    The full form, W(v, t)_k = vᵀ W_k t + b_k (torch.nn.Bilinear), has d³ weights: 453 million at d = 768, 1.8 GB in float32,
    and three times that with AdamW's moments. Prefer form="hadamard" there, W(v, t) = Linear(v ∘ t), with d² weights.

    Attributes:
        form: "full" or "hadamard".
        chunk: output channels of the full form computed at a time; B·chunk·d numbers are held, not B·d².
    """

    form: str = "full"
    chunk: int = 32

    @nn.compact
    def __call__(
        self, v: Array, t: Array, image: Array, text: Blocks, *, train: bool, capture: tuple[str, ...] = ()
    ) -> tuple[Array, Seen]:
        width = self.width
        if self.form == "hadamard":
            out = Dense(width, name="bilinear")(v * t)
        elif self.form == "full":
            # With σ = 1/d the bilinear form of two vectors of variance 1 has variance 1.
            kernel = self.param("kernel", nn.initializers.normal(1 / width), (width,) * 3, jnp.float32)
            bias = self.param("bias", nn.initializers.zeros_init(), (width,), jnp.float32)
            out = bilinear(v, t, kernel, chunk=self.chunk) + bias
        else:
            raise UserError(f"head bilinear: form={self.form!r} is not one of full, hadamard")
        return LayerNorm(EPSILON, name="norm")(v + t + out), {}


def bilinear(v: Array, t: Array, kernel: Array, *, chunk: int = 32) -> Array:
    """Computes Σ_ij v_i W_kij t_j for every k: (B, I), (B, J), (K, I, J) → (B, K), `chunk` of the K at a time."""

    @jax.checkpoint
    def part(kernel: Array) -> Array:
        return (jnp.einsum("bi,kij->bkj", v, kernel) * t[:, None]).sum(-1)

    k = kernel.shape[0]
    whole = k // chunk * chunk
    parts = []
    if whole:
        out = jax.lax.map(part, kernel[:whole].reshape(-1, chunk, *kernel.shape[1:]))
        parts.append(out.swapaxes(0, 1).reshape(v.shape[0], whole))
    if whole < k:
        parts.append(part(kernel[whole:]))
    return jnp.concatenate(parts, axis=1)


class Attention(Head):
    """Cross-attention in both directions, self-attention over the two results, their mean, LN.

    v' = MHA(v, t, t), t' = MHA(t, v, v), LN(mean of MHA(x, x, x)) with x = [v', t'] as two tokens. A softmax over a single key
    is 1, so v' and t' are linear; only the self-attention weights the modalities.

    Attributes:
        self_heads: H of the self-attention.
        residual: add the input of each attention to its output.

    `capture` "pooled_attention": (B, self_heads, 2, 2).
    """

    self_heads: int = 8
    residual: bool = False

    @nn.compact
    def __call__(
        self, v: Array, t: Array, image: Array, text: Blocks, *, train: bool, capture: tuple[str, ...] = ()
    ) -> tuple[Array, Seen]:
        keep = 1.0 if self.residual else 0.0

        def attend(name: str, heads: int) -> CrossAttention:
            return CrossAttention(self.width, heads, dropout=self.dropout, name=name)

        one, _ = attend("image", self.heads)(v[:, None], t[:, None], train=train)
        two, _ = attend("text", self.heads)(t[:, None], v[:, None], train=train)
        x = jnp.concatenate([one, two], 1) + keep * jnp.stack([v, t], 1)
        ask = ("attention",) if "pooled_attention" in capture else ()
        out, seen = attend("pair", self.self_heads)(x, x, train=train, capture=ask)
        fused = LayerNorm(EPSILON, name="norm")((out + keep * x).mean(1))
        return fused, {"pooled_attention": seen["attention"]} if ask else {}


class BottleneckBlock(nn.Module):
    """Pre-norm transformer block over the tokens of one modality and the bottleneck, which carries the other modality."""

    width: int
    heads: int
    hidden: int
    dropout: float = 0.0
    dtype: DType = jnp.float32

    def setup(self) -> None:
        self.norm1, self.norm2 = LayerNorm(EPSILON, self.dtype), LayerNorm(EPSILON, self.dtype)
        self.qkv, self.proj = Dense(3 * self.width, dtype=self.dtype), Dense(self.width, dtype=self.dtype)
        self.ffn = Mlp(self.hidden, self.dropout, self.dtype, last_dropout=False)

    def over_tokens(self, x: Array, narrow: Array, *, train: bool) -> tuple[Array, Array]:
        """Applies the block to tokens x (B, N, d) and the bottleneck (B, F, d); returns both."""
        both = jnp.concatenate([narrow, x], 1)
        q, k, v = self._project(both)
        key = self.make_rng("dropout") if train and self.dropout else None
        out, _ = attention_and_map(q, k, v, rate=self.dropout, key=key)
        both = self._finish(both, out, train)
        return both[:, narrow.shape[1] :], both[:, : narrow.shape[1]]

    def over_blocks(self, x: Blocks, narrow: Array, *, train: bool) -> tuple[Blocks, Array]:
        """Does the same with tokens in blocks."""
        q, k, v = token_blocks.map_blocks(BottleneckBlock._project, self, x.tokens)
        own, *first = self._project(narrow)
        k_first, v_first = first

        def attend(module: "BottleneckBlock", tokens: Array, q: Array) -> Array:
            drop = train and module.dropout > 0
            key = module.make_rng("dropout") if drop else None
            out, _ = token_blocks.attention(
                q, k, v, x.mask, first=(k_first, v_first), rate=module.dropout, key=key
            )
            return module._finish(tokens, out, train)

        return Blocks(token_blocks.map_blocks(attend, self, x.tokens, q), x.mask), attend(self, narrow, own)

    def _project(self, x: Array) -> tuple[Array, ...]:
        qkv = self.qkv(self.norm1(x))
        return tuple(split_heads(part, self.heads) for part in jnp.split(qkv, 3, axis=-1))

    def _finish(self, x: Array, out: Array, train: bool) -> Array:
        x = x + self.proj(merge_heads(out))
        return x + self.ffn(self.norm2(x), train=train)


class Bottleneck(Head):
    """Attention bottleneck, MBT (Nagrani et al., NeurIPS 2021, section 3.2, equations 8 and 9), over both token sequences.

    Each modality has its own transformer blocks over [bottleneck; its tokens]; after each block, the bottleneck is the mean of
    the two updated copies. The paper averages two CLS predictions; here the fused vector is
    LN((mean of V + masked mean of T) / 2). Information from the other modality arrives in the second block at the earliest.

    Attributes:
        tokens: number of bottleneck tokens.
        depth: number of blocks.
        mlp_ratio: hidden width / d.
    """

    tokens: int = 4
    depth: int = 2
    mlp_ratio: float = 4.0

    @nn.compact
    def __call__(
        self, v: Array, t: Array, image: Array, text: Blocks, *, train: bool, capture: tuple[str, ...] = ()
    ) -> tuple[Array, Seen]:
        narrow = self.param("bottleneck", trunc_normal, (1, self.tokens, self.width), jnp.float32)
        narrow = jnp.broadcast_to(narrow, (image.shape[0], self.tokens, self.width)).astype(self.dtype)
        sizes = (self.width, self.heads, int(self.width * self.mlp_ratio), self.dropout, self.dtype)
        for layer in range(self.depth):
            image, one = BottleneckBlock(*sizes, name=f"image_{layer}").over_tokens(
                image, narrow, train=train
            )
            text, two = BottleneckBlock(*sizes, name=f"text_{layer}").over_blocks(text, narrow, train=train)
            narrow = (one + two) / 2
        pooled = (image.astype(jnp.float32).mean(1) + token_blocks.masked_mean(text)) / 2
        return LayerNorm(EPSILON, name="norm")(pooled), {}


class LowRank(Head):
    """Low-rank tensor fusion, LMF (Liu et al., ACL 2018, section 3.2): Σ_r (A_r [v; 1]) ∘ (B_r [t; 1]).

    Attributes:
        rank: r, rank of the tensor.
    """

    rank: int = 4

    @nn.compact
    def __call__(
        self, v: Array, t: Array, image: Array, text: Blocks, *, train: bool, capture: tuple[str, ...] = ()
    ) -> tuple[Array, Seen]:
        product = jnp.ones((), jnp.float32)
        for name, x in (("image", v), ("text", t)):
            one = jnp.concatenate([x, jnp.ones_like(x[:, :1])], 1)
            out = Dense(
                self.rank * self.width, use_bias=False, kernel_init=nn.initializers.lecun_normal(), name=name
            )(one)
            product = product * out.reshape(-1, self.rank, self.width)
        return product.sum(1), {}


CONCAT = FusionHeadRecord("concat", Concat)
ADAPTIVE = FusionHeadRecord("adaptive", Adaptive)
BILINEAR = FusionHeadRecord("bilinear", Bilinear, {"form": "bilinear_form"})
ATTENTION = FusionHeadRecord("attention", Attention)
BOTTLENECK = FusionHeadRecord("bottleneck", Bottleneck, {"tokens": "bottleneck_tokens"}, ("bottleneck",))
LOW_RANK = FusionHeadRecord("low_rank", LowRank, {"rank": "rank"})


def create(name: str, width: int, *, options: Mapping[str, Any] | None = None, **fields: Any) -> Head:
    """A head by name.

    Args:
        name: of `register.fusion_heads`.
        width: d.
        options: fields of that head alone, e.g. {"form": "hadamard"}.
        **fields: fields that all heads have, and linen's `name` and `parent`.

    Raises:
        UserError: the name or an option is unknown, or the heads do not divide the width.
    """
    module = register.fusion_heads.get(name).module
    shared = {field.name for field in dataclasses.fields(Head)}
    own = {field.name for field in dataclasses.fields(module)} - shared
    for key in options or {}:
        if key not in own:
            raise UserError(f"head {name} has no option {key!r}; it has {', '.join(sorted(own)) or 'none'}")
    head = module(width=width, **fields, **(options or {}))
    for heads in (head.heads, getattr(head, "self_heads", 1)):
        if heads < 1 or width % heads:
            raise UserError(f"head {name}: {heads} attention heads must divide width={width}")
    return head
