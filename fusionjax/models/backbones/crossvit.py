"""CrossViT: branches with different patch sizes, whose CLS tokens attend to the patches of another branch.

Chen, Fan & Panda, ICCV 2021, arXiv 2103.14899. Names and settings are those of timm. There are two or more branches.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from fusionjax.errors import UserError
from fusionjax.models.attention import attention
from fusionjax.models.backbones.crossvit_fusion import Fusion
from fusionjax.models.backbones.multi_conv import LAYERS, MultiConv
from fusionjax.models.backbones.vit import Block
from fusionjax.models.layers import (
    Dense,
    DType,
    LayerNorm,
    PatchEmbed,
    over_layers,
    trunc_normal,
)  # fmt: skip
from fusionjax.models.observation import Axis, Stream
from fusionjax.models.resize import resize_bicubic
from fusionjax.types import Array

CAPTURE = ("attention", "features", "fusion", "tokens")


class CrossViT(nn.Module):
    """Cross-attention multi-scale vision transformer.

    Branch i attends to branch i + 1, the last branch to the first, as in the code of the authors: two branches attend to each
    other. All fusions of a stage use the tokens from before them.

    Attributes:
        img_size: input size of each branch in pixels, a number or (rows, columns) per branch, or one number for all. The first
            is the size of the images; the inputs of the other branches are resized from them.
        patch_size: side of a patch of each branch.
        in_channels: channels of the images.
        num_classes: C; 0 for no heads (the output is then the features).
        embed_dim: D of each branch.
        depth: per stage, the number of self-attention blocks of each branch, then of cross-attention blocks (0 means 1).
        num_heads: H of each branch; a fusion has the heads of the branch that it attends to.
        mlp_ratio: hidden width / D of each branch; an additional last entry, as in timm, is not used.
        qkv_bias, qk_scale: bias of queries, keys and values; factor of q kᵀ, None for 1 / √d.
        drop_rate: dropout rate after the embedding, attention projections and MLP layers.
        attn_drop_rate: dropout rate of attention maps.
        drop_path_rate: stochastic depth rate of the last block; the rate grows linearly from 0.
        norm_layer: constructor of all norms, called with `dtype` and `name`.
        multi_conv: embed patches with three convolutions; for patch sizes 12 and 16.
        remat: recompute blocks in the backward pass, which saves memory and takes longer.
        dtype: dtype of the computation; parameters are float32.

    Raises:
        UserError: lists have different lengths, or a size is not a multiple of another.
    """

    img_size: int | Sequence[Any] = (240, 224)
    patch_size: Sequence[int] = (12, 16)
    in_channels: int = 3
    num_classes: int = 1000
    embed_dim: Sequence[int] = (192, 384)
    depth: Sequence[Sequence[int]] = ((1, 5, 0), (1, 5, 0), (1, 5, 0))
    num_heads: Sequence[int] = (6, 6)
    mlp_ratio: Sequence[float] = (3, 3, 1)
    qkv_bias: bool = True
    qk_scale: float | None = None
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    norm_layer: Callable[..., nn.Module] = LayerNorm
    multi_conv: bool = False
    remat: bool = False
    dtype: DType = jnp.float32

    def __post_init__(self) -> None:
        _check(self)
        super().__post_init__()

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of the input of each branch."""
        listed = [self.img_size] * len(self.patch_size) if isinstance(self.img_size, int) else self.img_size
        return tuple((side, side) if isinstance(side, int) else tuple(side) for side in listed)

    @property
    def streams(self) -> dict[str, Stream]:
        """See `models.observation`."""
        each = enumerate(zip(self.sizes, self.patch_size, strict=True))
        axes = [Axis("image", (s[0] // patch, s[1] // patch), 1, True, f"{i}") for i, (s, patch) in each]
        found: dict[str, Stream] = {}
        for s, depth in enumerate(self.depth):
            for i, own in enumerate(axes):
                found[f"stage_{s}_branch_{i}/attention"] = Stream(f"stage_{s}/branch_{i}", own, own)
            for i in range(len(axes)):  # a fusion reads what the blocks of all branches return
                fusion = Stream(
                    f"stage_{s}/fusion_{i}", Axis("cls", cls=True, branch=f"{i}"), axes[(i + 1) % len(axes)]
                )
                found |= {f"stage_{s}_fusion_{i}/attention_{k}": fusion for k in range(max(1, depth[-1]))}
        return found

    def __call__(
        self, images: Array, *, train: bool = False, capture: Sequence[str] = ()
    ) -> tuple[Array, dict[str, Any]]:
        """Returns class logits, the mean over the heads of the branches.

        Args:
            images: (B, h, w, in_channels) normalised, of the first branch's size.
            train: dropout and stochastic depth on; needs the PRNG collection "dropout".
            capture: any of "attention", "fusion" and "tokens"; "features" are always returned.

        Returns:
            Logits (B, C) float32 (the features if num_classes is 0), and aux: "features" (B, ΣD), the concatenated CLS tokens
            of the branches after their norms; "attention", a dict with "stage_s/branch_i" (L, B, H, N, N) and
            "stage_s/fusion_i" (L, B, H, 1, N_j), the attention of CLS of branch i over the tokens of branch j; "fusion", only
            the latter; "tokens", a tuple of the tokens of each branch after the norm, (B, N, D).

        Raises:
            UserError: an unknown name in `capture`.
            ValueError: the images have the wrong size or number of channels.
        """
        for name in capture:
            if name not in CAPTURE:
                raise UserError(f"capture {name!r} is not one of {', '.join(CAPTURE)}")
        if images.shape[1:] != (*self.sizes[0], self.in_channels):
            raise ValueError(
                f"images are {images.shape[1:]}, the model was built for {(*self.sizes[0], self.in_channels)}"
            )
        return self._run(images, train, tuple(capture))

    @nn.compact
    def _run(self, images: Array, train: bool, capture: tuple[str, ...]) -> tuple[Array, dict[str, Any]]:
        branches = range(len(self.patch_size))
        xs = [self._embed(images, branch, train) for branch in branches]
        maps: dict[str, Array] = {}
        for stage, rates in enumerate(self._rates()):
            xs = [self._blocks(xs[i], stage, i, rates, train, capture, maps) for i in branches]
            xs = [self._fuse(xs, stage, i, float(rates[-1]), train, capture, maps) for i in branches]
        if "tokens" not in capture:
            xs = [x[:, :1] for x in xs]
        xs = [self.norm_layer(dtype=self.dtype, name=f"norm_{i}")(x) for i, x in enumerate(xs)]
        aux: dict[str, Any] = {"features": jnp.concatenate([x[:, 0] for x in xs], -1)}
        if "attention" in capture:
            aux["attention"] = maps
        if "fusion" in capture:
            aux["fusion"] = {name: value for name, value in maps.items() if "/fusion_" in name}
        if "tokens" in capture:
            aux["tokens"] = tuple(xs)
        if not self.num_classes:
            return aux["features"], aux
        heads = [
            Dense(self.num_classes, name=f"head_{i}")(x[:, 0].astype(jnp.float32)) for i, x in enumerate(xs)
        ]
        return jnp.asarray(sum(heads) / len(heads)), aux

    def _embed(self, images: Array, i: int, train: bool) -> Array:
        width = self.embed_dim[i]
        stem = MultiConv if self.multi_conv else PatchEmbed
        embed = stem(width, self.patch_size[i], dtype=self.dtype, name=f"patch_embed_{i}")
        x = embed(resize_bicubic(images, self.sizes[i]))
        x = x.reshape(x.shape[0], -1, width)
        cls = self.param(f"cls_token_{i}", trunc_normal, (1, 1, width), jnp.float32)
        pos = self.param(f"pos_embed_{i}", trunc_normal, (1, x.shape[1] + 1, width), jnp.float32)
        cls = jnp.broadcast_to(cls.astype(x.dtype), (x.shape[0], 1, width))
        x = jnp.concatenate([cls, x], 1) + pos.astype(x.dtype)
        return nn.Dropout(self.drop_rate, deterministic=not train)(x)

    def _rates(self) -> list[np.ndarray]:
        """Stochastic depth rates of the blocks of each stage; the last entry is that of the fusion."""
        depths = [max(1, max(stage[:-1]) + stage[-1]) for stage in self.depth]
        rates = np.linspace(0, self.drop_path_rate, sum(depths), dtype=np.float32)
        return np.split(rates, np.cumsum(depths)[:-1])

    @property
    def _shared(self) -> dict[str, Any]:
        return dict(
            dropout=self.drop_rate,
            dtype=self.dtype,
            qkv_bias=self.qkv_bias,
            qk_scale=self.qk_scale,
            attention_dropout=self.attn_drop_rate,
            norm=self.norm_layer,
        )

    def _blocks(
        self,
        x: Array,
        stage: int,
        i: int,
        rates: np.ndarray,
        train: bool,
        capture: tuple[str, ...],
        maps: dict[str, Array],
    ) -> Array:
        depth = self.depth[stage][i]
        if not depth:
            return x
        wanted = ("attention",) if "attention" in capture else ()

        def body(block: Block, x: Array, rate: Array) -> tuple[Array, dict[str, Array]]:
            used = rate if self.drop_path_rate else None
            return block(x, used, attend=attention, train=train, capture=wanted)

        if self.remat:
            body = nn.remat(body, prevent_cse=depth == 1)
        hidden = int(self.embed_dim[i] * self.mlp_ratio[i])
        block = Block(self.num_heads[i], hidden, **self._shared, name=f"stage_{stage}_branch_{i}")
        if depth == 1:
            x, seen = body(block, x, jnp.asarray(rates[0]))
            seen = {name: value[None] for name, value in seen.items()}
        else:
            x, seen = over_layers(body, depth)(block, x, jnp.asarray(rates[:depth]))
        if wanted:
            maps[f"stage_{stage}/branch_{i}"] = seen["attention"]
        return x

    def _fuse(
        self,
        xs: list[Array],
        stage: int,
        i: int,
        rate: float,
        train: bool,
        capture: tuple[str, ...],
        maps: dict[str, Array],
    ) -> Array:
        j = (i + 1) % len(xs)
        fusion = Fusion(
            self.num_heads[j], max(1, self.depth[stage][-1]), **self._shared, name=f"stage_{stage}_fusion_{i}"
        )
        cls, seen = fusion(xs[i][:, :1], xs[j][:, 1:], rate, train=train, capture=capture)
        if seen:
            maps[f"stage_{stage}/fusion_{i}"] = jnp.stack(seen)
        return jnp.concatenate([cls, xs[i][:, 1:]], 1)


def _check(m: CrossViT) -> None:
    """Raises a UserError if the combination of fields is invalid, before anything is allocated."""
    count = len(m.patch_size)
    if count < 2:
        raise UserError(f"patch_size={tuple(m.patch_size)}: CrossViT needs two or more branches")
    lengths = {"embed_dim": len(m.embed_dim), "num_heads": len(m.num_heads)}
    if not isinstance(m.img_size, int):
        lengths["img_size"] = len(m.img_size)
    if len(m.mlp_ratio) != count + 1:
        lengths["mlp_ratio"] = len(m.mlp_ratio)
    for name, length in lengths.items():
        if length != count:
            raise UserError(
                f"{name} has {length} entries and patch_size has {count}: they must be equally long"
            )
    for index, stage in enumerate(m.depth):
        if len(stage) != count + 1:
            raise UserError(
                f"depth[{index}] has {len(stage)} entries and patch_size has {count}: it must have {count + 1},"
                " the branches' and the fusion's"
            )
    for size, patch, width, heads in zip(m.sizes, m.patch_size, m.embed_dim, m.num_heads, strict=True):
        if len(size) != 2 or any(side < patch or side % patch for side in size):
            raise UserError(f"img_size={size} must be a multiple of its branch's patch_size={patch}")
        if width % heads:
            raise UserError(f"num_heads={heads} must divide embed_dim={width}")
        if m.multi_conv and patch not in LAYERS:
            raise UserError(f"patch_size={patch}: multi_conv is defined for {', '.join(map(str, LAYERS))}")
    for name in ("drop_rate", "attn_drop_rate", "drop_path_rate"):
        if not 0 <= getattr(m, name) < 1:
            raise UserError(f"{name}={getattr(m, name)} must be in [0, 1)")


def _settings(
    width: int,
    depth: int,
    heads: int,
    ratio: int,
    sizes: tuple[int, int] = (240, 224),
    multi_conv: bool = False,
) -> dict[str, Any]:
    return dict(
        img_size=sizes,
        embed_dim=(width, 2 * width),
        depth=((1, depth, 0),) * 3,
        num_heads=(heads, heads),
        mlp_ratio=(ratio, ratio, 1),
        multi_conv=multi_conv,
    )


CONFIGS: dict[str, dict[str, Any]] = {
    "crossvit_tiny_240": _settings(96, 4, 3, 4),
    "crossvit_small_240": _settings(192, 4, 6, 4),
    "crossvit_base_240": _settings(384, 4, 12, 4),
    "crossvit_9_240": _settings(128, 3, 4, 3),
    "crossvit_15_240": _settings(192, 5, 6, 3),
    "crossvit_18_240": _settings(224, 6, 7, 3),
    "crossvit_9_dagger_240": _settings(128, 3, 4, 3, multi_conv=True),
    "crossvit_15_dagger_240": _settings(192, 5, 6, 3, multi_conv=True),
    "crossvit_18_dagger_240": _settings(224, 6, 7, 3, multi_conv=True),
    "crossvit_15_dagger_408": _settings(192, 5, 6, 3, (408, 384), multi_conv=True),
    "crossvit_18_dagger_408": _settings(224, 6, 7, 3, (408, 384), multi_conv=True),
}

NAMES: tuple[str, ...] = tuple(sorted(CONFIGS))


def build(name: str, **overrides: Any) -> CrossViT:
    """Builds the CrossViT of a name, with fields overridden.

    Args:
        name: one of NAMES.
        **overrides: fields of CrossViT. `drop_path` and `dropout`, the names in the other models, set `drop_path_rate` and
            `drop_rate`. `image_size` sets the size of the first branch; the sizes of the others keep their ratio to it,
            rounded to the nearest multiple of their patch size.

    Raises:
        UserError: the name is unknown, or the combination of fields is invalid.
    """
    if name not in CONFIGS:
        raise UserError(f"model {name!r} is not one of {', '.join(NAMES)}")
    fields = dict(CONFIGS[name])
    for alias, field in (("drop_path", "drop_path_rate"), ("dropout", "drop_rate")):
        if alias in overrides:
            overrides[field] = overrides.pop(alias)
    if "image_size" in overrides:
        side, sizes = overrides.pop("image_size"), fields["img_size"]
        sides = (side, side) if isinstance(side, int) else tuple(side)
        patches = overrides.get("patch_size", CrossViT.patch_size)
        if len(patches) != len(sizes):
            raise UserError(
                f"patch_size={tuple(patches)}: {name} has {len(sizes)} branches; for another number give img_size, "
                "embed_dim, depth, num_heads and mlp_ratio too"
            )
        others = [
            tuple(round(side * size / sizes[0] / patch) * patch for side in sides)
            for size, patch in zip(sizes[1:], patches[1:], strict=True)
        ]
        fields["img_size"] = (sides, *others)
    return CrossViT(**{**fields, **overrides})
