"""Vision transformer (Dosovitskiy et al., ICLR 2021), with timm's parameter names. DeiT (Touvron et al., ICML 2021) is the
same network; DINOv2 (Oquab et al., 2024) adds layer scale, at its largest size SwiGLU, and registers (Darcet et al., ICLR
2024): learned tokens after CLS, without a position, whose outputs are not used.

The blocks run as one `nn.scan`: their parameters have a leading layer axis, and only one layer is compiled.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from fusionjax.models.attention import attention, attention_and_map, merge_heads, split_heads
from fusionjax.models.layers import (
    FEED_FORWARD,
    Dense,
    DType,
    LayerNorm,
    LayerScale,
    PatchEmbed,
    feature_norm,
    over_layers,
    residual,
    trunc_normal,
)
from fusionjax.models.observation import (
    Axis,
    Stream,
    observe_tokens,
    observer,
    self_attention,
    stop_gradient,
)
from fusionjax.types import Array

Attend = Callable[..., Array]
"""(q, k, v, see=None) → out, all (B, H, N, d); see `attention`."""


class Block(nn.Module):
    """Pre-norm block: x + attend(norm1 x), x + mlp(norm2 x).

    Attributes:
        heads, hidden: H and the hidden width of the MLP.
        dropout: rate after the attention projection and both MLP layers.
        qkv_bias: queries, keys and values have a bias.
        qk_scale: factor of q kᵀ; None for 1 / √d.
        attention_dropout: rate for the attention map; in training the map is then computed, whatever `attend` is.
        norm: constructor of both norms, called with `dtype` and `name`.
        layer_scale: initial value of the factors of both residuals' channels; 0 for none.
        feed_forward: "gelu" or "swiglu".

    Args (call):
        x: (B, N, D).
        rate: stochastic depth rate of this layer, a scalar, or None for none.
        attend: attention over heads.
        train: whether dropout and stochastic depth are on.
        capture: any of "qk", "attention", "tokens".

    Returns:
        x, and a dict of what `capture` names.
    """

    heads: int
    hidden: int
    dropout: float = 0.0
    dtype: DType = jnp.float32
    qkv_bias: bool = True
    qk_scale: float | None = None
    attention_dropout: float = 0.0
    norm: Callable[..., nn.Module] = LayerNorm
    layer_scale: float = 0.0
    feed_forward: str = "gelu"

    @nn.compact
    def __call__(
        self, x: Array, rate: Array | None, *, attend: Attend, train: bool, capture: tuple[str, ...] = ()
    ) -> tuple[Array, dict[str, Array]]:
        width = x.shape[-1]
        seen: dict[str, Array] = {}
        qkv = Dense(3 * width, self.qkv_bias, self.dtype, name="qkv")(
            self.norm(dtype=self.dtype, name="norm1")(x)
        )
        q, k, v = (split_heads(part, self.heads) for part in jnp.split(qkv, 3, axis=-1))
        if self.qk_scale is not None:
            q = q * (self.qk_scale * q.shape[-1] ** 0.5)
        if "qk" in capture:
            seen["queries"], seen["keys"] = q, k
        key = self.make_rng("dropout") if train and self.attention_dropout > 0 else None
        see = observer(self)
        if key is not None or "attention" in capture:
            out, weights = attention_and_map(
                q, k, v, rate=self.attention_dropout, key=key, with_map="attention" in capture, see=see
            )
            if weights is not None:
                seen["attention"] = weights
        else:
            out = attend(q, k, v) if see is None else attend(q, k, v, see=see)
        out = Dense(width, dtype=self.dtype, name="proj")(merge_heads(out))
        out = nn.Dropout(self.dropout, deterministic=not train)(out)
        out = LayerScale(self.layer_scale, self.dtype, name="ls1")(out)
        x = residual(self, x, out, rate, train=train)
        mlp = FEED_FORWARD[self.feed_forward](self.hidden, self.dropout, self.dtype, name="mlp")
        out = mlp(self.norm(dtype=self.dtype, name="norm2")(x), train=train)
        out = LayerScale(self.layer_scale, self.dtype, name="ls2")(out)
        x = residual(self, x, out, rate, train=train)
        if "tokens" in capture:
            seen["tokens"] = x
        observe_tokens(self, x)
        return x, seen


class ViT(nn.Module):
    """Vision transformer over patches, or over the feature map of a convolutional trunk.

    Attributes:
        image_size: height and width in pixels, or one number for a square.
        patch: side of a patch, in pixels; with a trunk, in cells of its feature map (then usually 1).
        stride: distance between patches; 0 for `patch`. Patches overlap if it is smaller than `patch`.
        width, depth, heads, mlp_ratio: D, L, H and hidden width / D.
        num_classes: C; 0 for no head (the output is then the CLS token after the last norm).
        drop_path: stochastic depth rate of the last block; the rate grows linearly from 0.
        dropout: rate after the embedding, the attention projection and both MLP layers.
        trunk: module mapping images to (B, h, w, C) features, or None.
        trunk_stride: pixels per cell of the feature map of the trunk (and neck).
        freeze_trunk: the trunk runs in evaluation mode and receives no gradient.
        neck: module that takes the features of the trunk and is always trained, with fixed normalisation statistics; or None.
        trunk_norm: apply batch normalisation, without scale and shift, to the feature map: the scales of the channels of a
            frozen trunk differ by orders of magnitude.
        output: "logits", or "tokens" for the normalised features of the patches, (B, h, w, D), like a trunk.
        cameras: number of cameras. The embedding of the camera, times `camera_scale`, is added to every token (side
            information embedding; He et al., TransReID, ICCV 2021, equation 3); 0 for none.
        frozen_blocks: number of the lowest blocks that, with the embedding, are the trunk: a `LowerBlocks`, which is frozen.
        remat: recompute blocks in the backward pass, which saves memory and takes longer.
        registers: number of register tokens.
        layer_scale, feed_forward: see `Block`; with "swiglu", two thirds of mlp_ratio · D are the hidden width, rounded up to
            a multiple of 8.
        antialias: whether published position embeddings are resampled with antialiasing; see `resample_pos_embed`.
        dtype: dtype of the computation; parameters are float32.
    """

    image_size: int | tuple[int, int] = 224
    patch: int = 16
    stride: int = 0
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    num_classes: int = 1000
    drop_path: float = 0.0
    dropout: float = 0.0
    trunk: nn.Module | None = None
    trunk_stride: int = 1
    freeze_trunk: bool = False
    neck: nn.Module | None = None
    trunk_norm: bool = False
    cameras: int = 0
    camera_scale: float = 3.0
    output: str = "logits"
    frozen_blocks: int = 0
    remat: bool = False
    registers: int = 0
    layer_scale: float = 0.0
    feed_forward: str = "gelu"
    antialias: bool = True
    dtype: DType = jnp.float32

    rolls_out: ClassVar[bool] = False
    """Whether it needs the rollout of frozen blocks."""

    @property
    def prefix(self) -> int:
        """Number of tokens before the patches: CLS and the registers."""
        return 1 + self.registers

    @property
    def block(self) -> dict[str, Any]:
        """Fields of its blocks, and of those that a subclass adds."""
        hidden = int(self.width * self.mlp_ratio)
        if self.feed_forward == "swiglu":
            hidden = (hidden * 2 // 3 + 7) // 8 * 8
        shared = dict(dropout=self.dropout, dtype=self.dtype, feed_forward=self.feed_forward)
        return dict(heads=self.heads, hidden=hidden, layer_scale=self.layer_scale, **shared)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patch tokens."""
        size = (self.image_size,) * 2 if isinstance(self.image_size, int) else tuple(self.image_size)
        cells = (-(-side // self.trunk_stride) for side in size)
        rows, columns = ((side - self.patch) // (self.stride or self.patch) + 1 for side in cells)
        return rows, columns

    @property
    def streams(self) -> dict[str, Stream]:
        """See `models.observation`."""
        axis = Axis("image", self.grid, self.prefix, self.output != "tokens")
        frozen = self_attention("trunk/blocks/attention", axis) if self.frozen_blocks else {}
        return {**frozen, **self_attention("blocks/attention", axis)}

    @property
    def patch_spacing(self) -> tuple[float, float]:
        """Centre of the first patch, and distance between the centres of neighbours, in pixels of the image."""
        return self.trunk_stride * self.patch / 2, float(self.trunk_stride * (self.stride or self.patch))

    @property
    def below(self) -> tuple[tuple[str, nn.Module], ...]:
        """The networks before the patch embedding, from the last to the first; see `models.parameters`."""
        parts = (("neck", self.neck), ("trunk", self.trunk))
        return tuple((name, part) for name, part in parts if part is not None)

    def setup(self) -> None:
        if not self.frozen_blocks:
            self._set_up_embedding()
        self.blocks = Block(**self.block)
        self.norm = LayerNorm(dtype=self.dtype)
        self.embed_dropout = nn.Dropout(self.dropout)
        if self.trunk_norm:
            self.feature_norm = feature_norm(self.dtype)
        if self.num_classes:
            self.head = Dense(self.num_classes, dtype=jnp.float32)

    def _set_up_embedding(self) -> None:
        tokens = self.grid[0] * self.grid[1] + 1
        self.cls_token = self.param(
            "cls_token", nn.initializers.normal(1e-6), (1, 1, self.width), jnp.float32
        )
        self.pos_embed = self.param("pos_embed", trunc_normal, (1, tokens, self.width), jnp.float32)
        self.patch_embed = PatchEmbed(self.width, self.patch, self.dtype, self.stride)
        if self.cameras:
            self.camera_embed = self.param(
                "camera_embed", trunc_normal, (self.cameras, 1, self.width), jnp.float32
            )
        if self.registers:
            shape = (1, self.registers, self.width)
            self.reg_token = self.param("reg_token", nn.initializers.normal(1e-6), shape, jnp.float32)

    def __call__(
        self,
        images: Array | None = None,
        *,
        features: Array | None = None,
        camera: Array | None = None,
        train: bool = False,
        capture: tuple[str, ...] = (),
    ) -> tuple[Array, dict[str, Any]]:
        """Returns class logits.

        Args:
            images: (B, h, w, 3) normalised; or
            features: (B, h, w, C), output of `trunk`.
            camera: (B,) int, 0 … cameras − 1; required if the model has `cameras`.
            train: whether dropout and stochastic depth are on; needs the PRNG collection "dropout".
            capture: "attention" (L, B, H, N, N), "qk" (queries and keys, (L, B, H, N, d)), "tokens" (L, B, N, D), registers
                included.

        Returns:
            Logits (B, C) float32 (the CLS feature (B, D) if num_classes is 0), and aux: "features" (B, D) and what `capture`
            names.
        """
        x = self.embed(images, features, camera, train=train)
        x, aux = self.encode(x, attend=attention, train=train, capture=capture)
        if self.output == "tokens":
            patches = self.norm(x[:, self.prefix :])
            return patches.reshape(-1, *self.grid, self.width), aux
        cls = self.norm(x[:, 0])
        aux["features"] = cls
        return self.classify(cls), aux

    def run_trunk(self, images: Array, *, train: bool = False) -> Array:
        """Returns the feature map of the trunk for normalised images, (B, h, w, C)."""
        if self.trunk is None:
            raise ValueError("the model has no trunk")
        features, _ = self.trunk(images, train=train and not self.freeze_trunk)
        return stop_gradient(self, features) if self.freeze_trunk else features

    def pool_trunk(self, features: Array) -> Array:
        """Returns the mean feature of trunk and neck over the grid, (B, C): the input of a linear probe. With `frozen_blocks`
        it is the mean of the patch tokens after all blocks and the last norm.
        """
        if self.frozen_blocks:
            x, _ = self.encode(self.embed(None, features, train=False), attend=attention, train=False)
            return self.norm(x[:, self.prefix :]).astype(jnp.float32).mean(1)
        if self.neck is not None:
            features, _ = self.neck(features, train=False)
        return features.astype(jnp.float32).mean((1, 2))

    def features_of(self, images: Array | None, features: Array | None, *, train: bool) -> Array:
        """Returns the features of the trunk, or the images if there is no trunk; features that are given are returned."""
        if features is not None and images is None:
            return features
        if images is None or features is not None:
            raise ValueError("pass either images or features")
        return images if self.trunk is None else self.run_trunk(images, train=train)

    def embed(
        self, images: Array | None, features: Array | None, camera: Array | None = None, *, train: bool
    ) -> Array:
        """Returns the tokens, (B, N, D): CLS and patches with position and camera embeddings, and the registers after CLS."""
        if (camera is None) != (not self.cameras):
            raise ValueError(
                f"the model has {self.cameras} cameras: pass camera if and only if there are any"
            )
        features = self.features_of(images, features, train=train)
        if self.frozen_blocks:
            return features[:, :, 0, : self.width].astype(self.dtype)
        if self.neck is not None:
            features, _ = self.neck(features, train=False)
        if self.trunk_norm:
            features = self.feature_norm(features, use_running_average=not train)
        x = self.patch_embed(features)
        if x.shape[1:3] != self.grid:
            raise ValueError(
                f"the input gives a {x.shape[1]}×{x.shape[2]} grid, the model was built for {self.grid}"
            )
        x = x.reshape(x.shape[0], -1, self.width)
        cls = jnp.broadcast_to(self.cls_token.astype(x.dtype), (x.shape[0], 1, self.width))
        x = jnp.concatenate([cls, x], axis=1) + self.pos_embed.astype(x.dtype)
        if camera is not None:
            x = x + self.camera_scale * self.camera_embed[camera].astype(x.dtype)
        if self.registers:
            registers = jnp.broadcast_to(self.reg_token.astype(x.dtype), (len(x), *self.reg_token.shape[1:]))
            x = jnp.concatenate([x[:, :1], registers, x[:, 1:]], axis=1)
        return self.embed_dropout(x, deterministic=not train)

    def encode(
        self, x: Array, *, attend: Attend, train: bool, capture: tuple[str, ...] = ()
    ) -> tuple[Array, dict[str, Array]]:
        """Runs all blocks that are not frozen; what `capture` names is stacked over layers."""

        def body(block: Block, x: Array, rate: Array) -> tuple[Array, dict[str, Array]]:
            return block(x, rate if self.drop_path else None, attend=attend, train=train, capture=capture)

        if self.remat:
            body = nn.remat(body, prevent_cse=False)
        rates = jnp.linspace(0, self.drop_path, self.depth)[self.frozen_blocks :]
        return over_layers(body, self.depth - self.frozen_blocks)(self.blocks, x, rates)

    def classify(self, cls: Array) -> Array:
        """Applies the head in float32; returns the features if there is no head."""
        return self.head(cls.astype(jnp.float32)) if self.num_classes else cls
