"""Models by name. The names are timm's where timm has the model; `dcal_<vit name>` puts DCAL on a ViT."""

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from fusionjax.errors import UserError
from fusionjax.models.backbones import audio, clip, crossvit, efficientnet, resnet, text
from fusionjax.models.backbones.vit import ViT
from fusionjax.models.methods.dcal import DCAL

_SIZES = {
    "tiny": dict(width=192, depth=12, heads=3),
    "small": dict(width=384, depth=12, heads=6),
    "base": dict(width=768, depth=12, heads=12),
}

_VITS: dict[str, dict[str, Any]] = {
    f"{family}_{size}_patch16_{pixels}": dict(**dims, patch=16, image_size=pixels)
    for family in ("vit", "deit")
    for size, dims in _SIZES.items()
    for pixels in (224, 384)
}
_VITS["vit_base_patch32_224"] = dict(**_SIZES["base"], patch=32, image_size=224)
_VITS["vit_base_r50_s16_224"] = dict(**_SIZES["base"], patch=1, image_size=224, trunk="resnetv2_50_s16")
_VITS["vit_base_r50_s16_384"] = dict(**_SIZES["base"], patch=1, image_size=384, trunk="resnetv2_50_s16")
# No published model: a shallow transformer for feature maps of a frozen trunk, and for tests.
_VITS["vit_shallow"] = dict(width=256, depth=2, heads=8, patch=16, image_size=224, mlp_ratio=2.0)

_FAMILIES = {
    "efficientnet": efficientnet,
    "resnet": resnet,
    "crossvit": crossvit,
    "audio": audio,
    "text": text,
    "clip": clip,
}
_BUILDERS = {name: family.build for family in _FAMILIES.values() for name in family.NAMES}

TRUNKS: Mapping[str, int] = {
    "efficientnet_lite0": 32,
    "efficientnet_lite1": 32,
    "efficientnet_lite2": 32,
    "efficientnet_b0": 32,
    "efficientnet_b3": 32,
    "efficientnet_b5": 32,
    "resnet50": 32,
    "resnet101": 32,
    "resnetv2_50_s16": 16,
}
"""Convolutional trunk → pixels per cell of its feature map."""


def tokens(
    name: str, *, image_size: int | tuple[int, int], features: str = "", dtype: Any = jnp.float32
) -> tuple[nn.Module, tuple[int, int]]:
    """An image model as an encoder of tokens: images → (B, h, w, C), and its grid (h, w).

    Args:
        name: of `TRUNKS`, or a ViT.
        image_size: of the images, (height, width) or a side.
        features: an EfficientNet's map, as `trunk_features` of `create`.
        dtype: of the computation.

    Raises:
        UserError: a name that is neither, or sizes that do not fit.
    """
    sides = (image_size,) * 2 if isinstance(image_size, int) else tuple(image_size)
    if family(name) == "vit":
        if features:
            raise UserError(f"model.trunk_features={features!r}: {name} has one map; leave it empty")
        module = create(name, num_classes=0, output="tokens", image_size=sides, dtype=dtype)
        return module, module.grid
    if name not in TRUNKS:
        raise UserError(f"model.trunk={name!r} is not known; allowed: {', '.join(TRUNKS)}, and every ViT")
    fields = {"output": "tokens", "dtype": dtype} | ({"features": features} if features else {})
    stride = 16 if features == "stride16" else TRUNKS[name]
    return _construct(name, _BUILDERS[name], fields), tuple(-(-side // stride) for side in sides)


def names() -> tuple[str, ...]:
    """Every name that `create` knows, sorted."""
    return tuple(sorted([*_VITS, *(f"dcal_{name}" for name in _VITS), *_BUILDERS]))


def family(name: str) -> str:
    """The kind of model: vit, dcal, crossvit, resnet, efficientnet, audio, text, clip; "" for an unknown name."""
    if backbone(name) in _VITS:
        return "vit" if backbone(name) == name else "dcal"
    return next((kind for kind, module in _FAMILIES.items() if name in module.NAMES), "")


def backbone(name: str) -> str:
    """The plain model below a DCAL name: whose weights it starts from."""
    return name.removeprefix("dcal_")


def create(name: str, **overrides: Any) -> nn.Module:
    """Builds a model.

    Args:
        name: one of `names()`.
        **overrides: fields of the module, e.g. `num_classes=200, image_size=448, drop_path=0.1`. `trunk` is the name of a
            convolutional trunk whose feature map becomes the token grid (then `patch` is 1 unless given), `trunk_features`
            which of its maps: "head", "stride32" or "stride16"; `train_trunk_from="stride16"` (EfficientNet) makes what
            follows that map a part of its own, which trains while the rest may be frozen.

    Returns:
        linen module; `(output, aux) = module.apply(variables, images)`, images (B, h, w, 3) float32, normalised.

    Raises:
        UserError: unknown name or field, or a combination that cannot be.
    """
    if name in _BUILDERS:
        return _construct(name, _BUILDERS[name], overrides)
    if backbone(name) not in _VITS:
        raise UserError(
            f"model {name!r} is not known; python -m fusionjax.models lists them all. {_near(name)}".rstrip()
        )
    fields = {**_VITS[backbone(name)], **overrides}
    if isinstance(fields.get("trunk"), str) and fields["trunk"]:
        trunk = fields["trunk"]
        if trunk not in TRUNKS:
            raise UserError(f"model.trunk={trunk!r} is not known; allowed: {', '.join(TRUNKS)}")
        which, cut = fields.pop("trunk_features", ""), fields.pop("train_trunk_from", "")
        common = {"output": "tokens", "dtype": fields.get("dtype", jnp.float32)}
        how = common | ({"features": which} if which else {})
        stride = 16 if which == "stride16" else TRUNKS[trunk]
        if cut:
            if not trunk.startswith("efficientnet") or stride == 16 or cut != "stride16":
                raise UserError(
                    f"model.train_trunk_from={cut!r}: allowed is stride16, of an efficientnet with a later map"
                )
            fields["neck"] = _construct(trunk, _BUILDERS[trunk], {**how, "entry": cut, "chunked": False})
            how = common | {"features": cut}
        # Patches of a feature map are its cells; a trunk in front of a patch-16 model replaces its patches.
        fields.update(
            trunk=_construct(trunk, _BUILDERS[trunk], how),
            trunk_stride=stride,
            patch=overrides.get("patch", 1),
        )
    elif not fields.get("trunk"):
        fields["trunk"] = None
    module = _construct(name, DCAL if name.startswith("dcal_") else ViT, fields)
    _check(name, module)
    return module


def _construct(name: str, make: Callable[..., nn.Module], fields: Mapping[str, Any]) -> nn.Module:
    known = _fields(make)
    for key in fields:
        if known is not None and key not in known:
            raise UserError(f"model {name} has no field {key!r}; it has {', '.join(sorted(known))}")
    try:
        return make(**fields) if known is not None else make(name, **fields)
    except TypeError as e:
        raise UserError(f"model {name}: {e}") from None


def _fields(make: Callable[..., nn.Module]) -> set[str] | None:
    if not dataclasses.is_dataclass(make):
        return None
    return {f.name for f in dataclasses.fields(make)} - {"parent", "name"}


def _check(name: str, module: ViT) -> None:
    """What cannot be, said before anything is allocated."""
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
    if module.trunk_norm and module.trunk is None:
        raise UserError(f"model {name}: trunk_norm=True needs a trunk")
    if not 0 <= module.drop_path < 1:
        raise UserError(f"model {name}: drop_path={module.drop_path} must be in [0, 1)")
    if not 0 <= module.dropout < 1:
        raise UserError(f"model {name}: dropout={module.dropout} must be in [0, 1)")
    if isinstance(module, DCAL):
        if not 0 < module.ratio <= 1:
            raise UserError(f"model {name}: ratio={module.ratio} (R) must be in (0, 1]")
        if module.glca_input not in ("last", "penultimate"):
            raise UserError(f"model {name}: glca_input={module.glca_input!r}: allowed are last, penultimate")
        if module.partner_stream not in ("pwca", "sa"):
            raise UserError(f"model {name}: partner_stream={module.partner_stream!r}: allowed are pwca, sa")
        if "sa" not in module.branches or not set(module.branches) <= {"sa", "glca", "pwca"}:
            raise UserError(f"model {name}: branches={module.branches!r}: sa, and any of glca, pwca")


def _near(name: str) -> str:
    close = difflib.get_close_matches(name, names(), 3)
    return f"Did you mean {' or '.join(close)}?" if close else ""
