"""The ViT family: ViT, DeiT (not distilled), DINOv2 with and without registers, and the hybrid R50-ViT."""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from fusionjax.errors import UserError
from fusionjax.models import registry
from fusionjax.models.attention import attention
from fusionjax.models.backbones import naming
from fusionjax.models.backbones.keys import classes
from fusionjax.models.backbones.record import (
    HALF,
    Encoder,
    Family,
    Grid,
    Layer,
    LayerOrder,
    Preprocessing,
    Reference,
    hub_timm,
)
from fusionjax.models.backbones.records.vit_keys import clean, key_map, of_transformers
from fusionjax.models.backbones.vit import ViT
from fusionjax.models.backbones.vit_lower import LowerBlocks
from fusionjax.models.layers import FEED_FORWARD, DType

V = TypeVar("V", bound=ViT)

_SIZES = {
    "tiny": dict(width=192, depth=12, heads=3),
    "small": dict(width=384, depth=12, heads=6),
    "base": dict(width=768, depth=12, heads=12),
}
_DINOV2_SIZES: dict[str, dict[str, Any]] = {
    **{size: _SIZES[size] for size in ("small", "base")},
    "large": dict(width=1024, depth=24, heads=16),
    "giant": dict(width=1536, depth=40, heads=24, feed_forward="swiglu"),
}
_REGISTERS = {"": 0, "reg4_": 4}
_R50 = dict(**_SIZES["base"], patch=1, trunk="resnetv2_50_s16")

CONFIGS: dict[str, dict[str, Any]] = {
    **{
        f"{kind}_{size}_patch16_{pixels}": dict(**fields, patch=16, image_size=pixels)
        for kind in ("vit", "deit")
        for size, fields in _SIZES.items()
        for pixels in (224, 384)
    },
    "vit_base_patch32_224": dict(**_SIZES["base"], patch=32, image_size=224),
    # Layer scale starts at transformers' value; of the blocks the published weights replace it. Without registers, positions
    # are resampled without antialiasing, as by DINOv2's authors and transformers; with them, with it, as also by timm.
    **{
        f"vit_{size}_patch14_{kind}dinov2": dict(
            **fields, patch=14, image_size=518, layer_scale=1.0, registers=registers, antialias=registers > 0
        )
        for size, fields in _DINOV2_SIZES.items()
        for kind, registers in _REGISTERS.items()
    },
    "vit_base_r50_s16_224": dict(**_R50, image_size=224),
    "vit_base_r50_s16_384": dict(**_R50, image_size=384),
    # Not a published model: a shallow transformer for feature maps of a frozen trunk, and for tests.
    "vit_shallow": dict(width=256, depth=2, heads=8, patch=16, image_size=224, mlp_ratio=2.0),
}
"""By name, the fields of `ViT`; `trunk` by its name."""


def build(name: str, **overrides: Any) -> ViT:
    """Builds the ViT of a name, with fields overridden.

    Args:
        name: one of CONFIGS.
        **overrides: fields of `ViT`. `trunk` is the name of a convolutional trunk whose feature map becomes the token grid
            (then `patch` is 1 by default), and `trunk_features` selects the map, "" for the default one.
            `train_trunk_from="stride16"` (EfficientNet) splits the trunk after that map: the upper part is trained even if the
            lower part is frozen. `frozen_blocks=K` freezes the embedding and the lowest K blocks, which become the trunk.

    Raises:
        UserError: a field is unknown, or the combination of fields is invalid.
    """
    return make(name, ViT, CONFIGS[name], overrides)


def make(name: str, module: type[V], settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> V:
    """As `build`, for `ViT` or a subclass; `settings` are the fields of the name, and `name` is the name in messages."""
    fields = {**settings, **overrides}
    which, cut = fields.pop("trunk_features", ""), fields.pop("train_trunk_from", "")
    if isinstance(fields.get("trunk"), str) and fields["trunk"]:
        trunk = registry.trunk(
            fields["trunk"], features=which, cut=cut, dtype=fields.get("dtype", jnp.float32)
        )
        # Patches of a feature map are its cells; a trunk in front of a patch-16 model replaces its patches.
        fields.update(trunk=trunk.module, trunk_stride=trunk.stride, patch=overrides.get("patch", 1))
        if trunk.neck is not None:
            fields["neck"] = trunk.neck
    elif which or cut:
        raise UserError(f"model {name}: trunk_features and train_trunk_from are of a trunk: name one")
    elif not fields.get("trunk"):
        fields["trunk"] = None
    naming.check_fields(name, fields, naming.fields_of(module))
    made = module(**fields)
    check(name, made)
    return made.clone(trunk=lower(made), freeze_trunk=True) if made.frozen_blocks else made


def lower(module: ViT) -> LowerBlocks:
    """The embedding and the lowest blocks of a model with `frozen_blocks`."""
    shared = (
        "image_size",
        "patch",
        "stride",
        "width",
        "heads",
        "mlp_ratio",
        "registers",
        "layer_scale",
        "feed_forward",
        "dtype",
    )
    fields = {key: getattr(module, key) for key in shared}
    return LowerBlocks(**fields, depth=module.frozen_blocks, num_classes=0, rollout=module.rolls_out)


def check(name: str, module: ViT) -> None:
    """Raises a UserError if the combination of fields is invalid, before anything is allocated."""
    if module.width % module.heads:
        raise UserError(f"model {name}: heads={module.heads} must divide width={module.width}")
    sides = (module.image_size,) * 2 if isinstance(module.image_size, int) else module.image_size
    if len(sides) != 2:
        raise UserError(f"model {name}: image_size={module.image_size!r} must be a number or (height, width)")
    for side in sides:
        cells = -(-side // module.trunk_stride)
        if not module.stride <= module.patch:
            raise UserError(f"model {name}: stride={module.stride} must be at most patch={module.patch}")
        overlap = module.stride not in (0, module.patch)
        if (cells % module.patch and not overlap) or not cells // module.patch:
            unit = module.patch * module.trunk_stride
            raise UserError(
                f"model {name}: image_size={module.image_size} must be a multiple of the patch size {unit}"
            )
    if module.feed_forward not in FEED_FORWARD:
        raise UserError(
            f"model {name}: feed_forward={module.feed_forward!r} is not one of {', '.join(FEED_FORWARD)}"
        )
    if module.frozen_blocks:
        if not 0 < module.frozen_blocks < module.depth:
            raise UserError(
                f"model {name}: frozen_blocks={module.frozen_blocks} must be less than depth={module.depth}, or 0"
            )
        for field, found in (("trunk", module.trunk), ("cameras", module.cameras)):
            if found:
                raise UserError(f"model {name}: frozen_blocks does not go with {field}: set one of them")
    if module.trunk_norm and module.trunk is None:
        raise UserError(f"model {name}: trunk_norm=True needs a trunk")
    for rate in ("drop_path", "dropout"):
        if not 0 <= getattr(module, rate) < 1:
            raise UserError(f"model {name}: {rate}={getattr(module, rate)} must be in [0, 1)")


def reference(name: str, tensors: Mapping[str, np.ndarray]) -> Reference:
    """See `Family.reference`."""
    tensors = clean(tensors)
    head = "classifier.weight" if of_transformers(tensors) else "head.weight"
    model = build(name, num_classes=classes(tensors, head))
    return Reference(model, key_map(model, tensors), tensors)


def layers(module: ViT) -> LayerOrder:
    """Embedding, blocks, and norm with head: the order of BEiT (Bao et al., ICLR 2022)."""
    depth = module.depth - module.frozen_blocks
    embedding = (Layer(r"(cls_token|reg_token|pos_embed|camera_embed|patch_embed/.*)", 0),)
    above = (Layer(r"blocks/.*", 1, stacked=True), Layer(r"(norm|head)/.*", depth + 1))
    return LayerOrder(depth, above if module.frozen_blocks else (*embedding, *above))


def arrange(module: ViT, weights: Mapping[str, Any]) -> Mapping[str, Any]:
    """See `Family.arrange`: with `frozen_blocks` the lower part belongs to the trunk."""
    cut = module.frozen_blocks
    if not cut:
        return weights
    params = dict(weights["params"])
    below = {
        key: params.pop(key)
        for key in ("cls_token", "reg_token", "pos_embed", "patch_embed")
        if key in params
    }
    blocks = params["blocks"]
    below["blocks"] = jax.tree.map(lambda leaf: leaf[:cut], blocks)
    params["blocks"] = jax.tree.map(lambda leaf: leaf[cut:], blocks)
    return {**weights, "params": {**params, "trunk": below}}


def inputs(module: ViT, size: tuple[int, int] | None = None) -> tuple[jax.ShapeDtypeStruct, ...]:
    """One image of the module's size."""
    own = module.image_size
    sides = (own, own) if isinstance(own, int) else tuple(own)
    return (jax.ShapeDtypeStruct((1, *sides, 3), jnp.float32),)


def configure(config: ConfigDict, *, image_shape: tuple[int, int], channels: int) -> dict[str, Any]:
    """See `Family.configure`; a width or depth of 0 is that of the name."""
    c = config.model
    always = (
        "drop_path",
        "dropout",
        "remat",
        "freeze_trunk",
        "frozen_blocks",
        "trunk_norm",
        "stride",
        "cameras",
        "camera_scale",
    )
    fields = {key: c[key] for key in ("width", "depth", "heads", "patch", "mlp_ratio") if c[key]}
    fields |= {"image_size": image_shape} | {key: c[key] for key in always}
    if c.trunk:
        fields |= {key: c[key] for key in ("trunk", "trunk_features", "train_trunk_from") if c[key]}
    return fields


def tokens(
    name: str, *, image_size: tuple[int, int], features: str = "", dtype: DType = jnp.float32
) -> tuple[nn.Module, Grid]:
    """See `Family.tokens`."""
    if features:
        raise UserError(f"model.trunk_features={features!r}: {name} has one map; leave it empty")
    module = build(name, num_classes=0, output="tokens", image_size=image_size, dtype=dtype)
    return module, module.grid


_AUGREG = "augreg_in21k_ft_in1k"
TAGS = {
    **{name: _AUGREG for name in CONFIGS if name.startswith("vit_") and "patch" in name},
    "vit_base_patch16_224": "augreg_in21k",  # as the paper of DCAL starts: ImageNet-21k, not fine-tuned
    "vit_base_r50_s16_224": "orig_in21k",
    "vit_base_r50_s16_384": "orig_in21k_ft_in1k",
    **{f"deit_{size}_patch16_224": "fb_in1k" for size in _SIZES},
    "deit_base_patch16_384": "fb_in1k",
    **{name: "lvd142m" for name in CONFIGS if name.endswith("dinov2")},
}


def _preprocessing(name: str) -> Preprocessing:
    side = CONFIGS[name]["image_size"]
    found = Preprocessing((side, side), crop=0.9 if side == 224 else 1.0)
    # AugReg's and Google's ViTs were trained with mean = std = 0.5, DeiT and DINOv2 with the values of ImageNet.
    imagenet = name.startswith("deit") or name.endswith("dinov2")
    return found if imagenet else found._replace(mean=HALF, std=HALF)


def _tokens(module: ViT, images: jax.Array, train: bool) -> jax.Array:
    """All tokens after the last normalisation, CLS first, then registers: (B, prefix + N, D)."""
    x = module.embed(images, None, train=train)
    x, _ = module.encode(x, attend=attention, train=train)
    return module.norm(x)


# Trained without labels, on images normalised with the values of ImageNet.
_SELF_SUPERVISED = {
    "hub:timm/vit_small_patch16_224.dino": Preprocessing((224, 224), crop=0.9),
    "hub:timm/vit_base_patch16_224.dino": Preprocessing((224, 224), crop=0.9),
    "hub:timm/vit_base_patch16_224.mae": Preprocessing((224, 224), crop=0.9),
}


FAMILY = Family(
    name="vit",
    names=tuple(CONFIGS),
    module=ViT,
    build=build,
    layers=layers,
    inputs=inputs,
    undecayed=("cls_token", "reg_token", "pos_embed", "camera_embed"),
    heads=("head",),
    preprocessing={name: _preprocessing(name) for name in CONFIGS if name != "vit_shallow"},
    # Published at 224 pixels only; the position embeddings are resampled.
    weights=hub_timm(TAGS)
    | {f"deit_{size}_patch16_384": f"hub:timm/deit_{size}_patch16_224.fb_in1k" for size in ("tiny", "small")},
    deviating=_SELF_SUPERVISED,
    transformer=True,
    reference=reference,
    unpublished=("camera_embed",),
    reads=("width", "depth", "heads", "patch", "mlp_ratio", "drop_path", "dropout", "remat", "freeze_trunk", "frozen_blocks",
           "trunk_norm", "stride", "cameras", "camera_scale", "trunk", "trunk_features", "train_trunk_from"),
    # Changing only the name of a DCAL config to a ViT must work, so fields that only DCAL uses may be set.
    spared=("ratio", "glca_input", "partner_stream"),
    configure=configure,
    encoder=Encoder(
        {"num_classes": 0},
        feature=lambda module, images, train: _tokens(module, images, train)[:, 0],
        tokens=lambda module, images, train: _tokens(module, images, train)[:, module.prefix :],
    ),
    tokens=tokens,
    arrange=arrange,
    embeds=True,
    capture=("attention",),
)  # fmt: skip
