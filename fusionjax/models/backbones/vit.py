"""Vision transformer (Dosovitskiy et al., ICLR 2021; DeiT: Touvron et al., ICML 2021), parameters named as timm names them.

The blocks are one `nn.scan`: their parameters carry a leading layer axis, and a 12-layer model compiles like one layer.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fusionjax.models.attention import attention, attention_and_map, merge_heads, split_heads
from fusionjax.models.layers import (
    Dense,
    DType,
    LayerNorm,
    Mlp,
    PatchEmbed,
    feature_norm,
    residual,
    trunc_normal,
)
from fusionjax.types import Array

Attend = Callable[[Array, Array, Array], Array]


class Block(nn.Module):
    """Pre-norm block: x + attend(norm1 x), x + mlp(norm2 x).

    Attributes:
        heads, hidden: H and the MLP's width.
        dropout: after the attention projection and both MLP layers.
        qkv_bias: queries, keys and values have a bias.
        qk_scale: factor of q kᵀ; None for 1 / √d.
        attention_dropout: of the attention map; in training the map is then built, whatever `attend` is.
        norm: makes both norms; called with `dtype` and `name`.

    Args (call):
        x: (B, N, D).
        rate: stochastic depth rate of this layer, a scalar, or None for none.
        attend: (q, k, v) → out over (B, H, N, d) heads; how the tokens of `x` see each other.
        train: dropout and stochastic depth on.
        capture: any of "qk", "attention", "tokens".

    Returns:
        x and a dict of what `capture` named.
    """

    heads: int
    hidden: int
    dropout: float = 0.0
    dtype: DType = jnp.float32
    qkv_bias: bool = True
    qk_scale: float | None = None
    attention_dropout: float = 0.0
    norm: Callable[..., nn.Module] = LayerNorm

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
        if key is not None or "attention" in capture:
            out, weights = attention_and_map(
                q, k, v, rate=self.attention_dropout, key=key, with_map="attention" in capture
            )
            if weights is not None:
                seen["attention"] = weights
        else:
            out = attend(q, k, v)
        out = Dense(width, dtype=self.dtype, name="proj")(merge_heads(out))
        x = residual(self, x, nn.Dropout(self.dropout, deterministic=not train)(out), rate, train=train)
        out = Mlp(self.hidden, self.dropout, self.dtype, name="mlp")(
            self.norm(dtype=self.dtype, name="norm2")(x), train=train
        )
        x = residual(self, x, out, rate, train=train)
        if "tokens" in capture:
            seen["tokens"] = x
        return x, seen


class ViT(nn.Module):
    """Vision transformer over patches, or over the feature map of a convolutional trunk.

    Attributes:
        image_size: height and width in pixels, one number for a square.
        patch: side of a patch, in pixels; of the trunk's feature map where there is a trunk (then usually 1).
        stride: from one patch to the next, 0 for `patch`; less makes patches overlap.
        width, depth, heads, mlp_ratio: D, L, H and hidden width / D.
        num_classes: C; 0 for no head (the output is then the CLS token after the last norm).
        drop_path: stochastic depth of the last block; earlier ones rise linearly to it.
        dropout: after the embedding, the attention projection and both MLP layers.
        trunk: module mapping images to (B, h, w, C) features, or None.
        trunk_stride: pixels per cell of the trunk's (and neck's) feature map.
        freeze_trunk: the trunk runs in evaluation mode and receives no gradient.
        neck: module that goes on from the trunk's features and always trains, its normalisation statistics fixed; or None.
        trunk_norm: batch normalisation, without scale and shift, of the trunk's feature map: the channels of a frozen trunk
            differ in size by orders of magnitude.
        output: "logits", or "tokens": the patches' normalised features (B, h, w, D), as a trunk of another model gives.
        cameras: rows of a learned embedding that is added to every token of an image from that camera, times `camera_scale`
            (side information embedding; He et al., TransReID, ICCV 2021, equation 3); 0 for none.
        remat: recompute blocks in the backward pass; memory for time.
        dtype: of the computation; parameters are float32.
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
    remat: bool = False
    dtype: DType = jnp.float32

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patch tokens."""
        size = (self.image_size,) * 2 if isinstance(self.image_size, int) else tuple(self.image_size)
        cells = (-(-side // self.trunk_stride) for side in size)
        rows, columns = ((side - self.patch) // (self.stride or self.patch) + 1 for side in cells)
        return rows, columns

    @property
    def below(self) -> tuple[tuple[str, nn.Module], ...]:
        """The networks that feed the patches, from the last to the first: see `models.parameters`."""
        parts = (("neck", self.neck), ("trunk", self.trunk))
        return tuple((name, part) for name, part in parts if part is not None)

    def setup(self) -> None:
        tokens = self.grid[0] * self.grid[1] + 1
        self.cls_token = self.param(
            "cls_token", nn.initializers.truncated_normal(1e-6), (1, 1, self.width), jnp.float32
        )
        self.pos_embed = self.param("pos_embed", trunc_normal, (1, tokens, self.width), jnp.float32)
        self.patch_embed = PatchEmbed(self.width, self.patch, self.dtype, self.stride)
        if self.cameras:
            self.camera_embed = self.param(
                "camera_embed", trunc_normal, (self.cameras, 1, self.width), jnp.float32
            )
        self.blocks = Block(self.heads, int(self.width * self.mlp_ratio), self.dropout, self.dtype)
        self.norm = LayerNorm(dtype=self.dtype)
        self.embed_dropout = nn.Dropout(self.dropout)
        if self.trunk_norm:
            self.feature_norm = feature_norm(self.dtype)
        if self.num_classes:
            self.head = Dense(self.num_classes, dtype=jnp.float32)

    def __call__(
        self,
        images: Array | None = None,
        *,
        features: Array | None = None,
        camera: Array | None = None,
        train: bool = False,
        capture: tuple[str, ...] = (),
    ) -> tuple[Array, dict[str, Any]]:
        """Class logits.

        Args:
            images: (B, h, w, 3) normalised; or
            features: (B, h, w, C), what `trunk` made of them.
            camera: (B,) int, 0 … cameras − 1; needed where the model has `cameras`.
            train: dropout and stochastic depth on; needs the PRNG collection "dropout".
            capture: "attention" (L, B, H, N, N), "qk" (queries and keys, (L, B, H, N, d)), "tokens" (L, B, N, D).

        Returns:
            logits (B, C) float32 (the CLS feature (B, D) where num_classes is 0), and aux: "features" (B, D) and what
            `capture` named.
        """
        x = self.embed(images, features, camera, train=train)
        x, aux = self.encode(x, attend=attention, train=train, capture=capture)
        if self.output == "tokens":
            patches = self.norm(x[:, 1:])
            return patches.reshape(-1, *self.grid, self.width), aux
        cls = self.norm(x[:, 0])
        aux["features"] = cls
        return self.classify(cls), aux

    def run_trunk(self, images: Array, *, train: bool = False) -> Array:
        """The trunk's feature map (B, h, w, C) of normalised images."""
        if self.trunk is None:
            raise ValueError("the model has no trunk")
        features, _ = self.trunk(images, train=train and not self.freeze_trunk)
        return jax.lax.stop_gradient(features) if self.freeze_trunk else features

    def pool_trunk(self, features: Array) -> Array:
        """Mean over the grid of what trunk and neck make of an image: (B, C). What a linear probe sees."""
        if self.neck is not None:
            features, _ = self.neck(features, train=False)
        return features.astype(jnp.float32).mean((1, 2))

    def embed(
        self, images: Array | None, features: Array | None, camera: Array | None = None, *, train: bool
    ) -> Array:
        """Tokens with CLS, positions and camera, (B, N, D)."""
        if (camera is None) != (not self.cameras):
            raise ValueError(
                f"the model has {self.cameras} cameras: pass camera if and only if there are any"
            )
        if images is not None and features is None:
            features = images if self.trunk is None else self.run_trunk(images, train=train)
        elif images is not None or features is None:
            raise ValueError("pass either images or features")
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
        return self.embed_dropout(x, deterministic=not train)

    def encode(
        self, x: Array, *, attend: Attend, train: bool, capture: tuple[str, ...] = ()
    ) -> tuple[Array, dict[str, Array]]:
        """All blocks. What `capture` names is stacked over layers."""

        def body(block: Block, x: Array, rate: Array) -> tuple[Array, dict[str, Array]]:
            return block(x, rate if self.drop_path else None, attend=attend, train=train, capture=capture)

        if self.remat:
            body = nn.remat(body, prevent_cse=False)
        rates = jnp.linspace(0, self.drop_path, self.depth)
        scan = nn.scan(
            body, variable_axes={"params": 0}, split_rngs={"params": True, "dropout": True}, length=self.depth
        )
        return scan(self.blocks, x, rates)

    def classify(self, cls: Array) -> Array:
        """The head, in float32; the features themselves where there is none."""
        return self.head(cls.astype(jnp.float32)) if self.num_classes else cls
