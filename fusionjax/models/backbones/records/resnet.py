"""The ResNet family; key maps of the names that torchvision and timm share, and of timm's names for the hybrid trunk."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fusionjax.errors import UserError
from fusionjax.models.backbones.keys import KeyMap, headed, linear_rules, unit_rules
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
from fusionjax.models.backbones.records.efficientnet import configure, image_inputs
from fusionjax.models.backbones.resnet import NAMES, ResNet, build


def key_map(model: ResNet, prefix: str = "", into: tuple[str, ...] = ()) -> KeyMap:
    """The map for a model's settings.

    Args:
        model: determines the blocks and, by `standardise`, the reference.
        prefix: prefix of all reference names ("patch_embed.backbone." in a hybrid ViT).
        into: path of the trunk in a larger model.

    Returns:
        Reference name → Rule.
    """
    return (_hybrid if model.standardise else _torchvision)(model, prefix, into)


def _torchvision(model: ResNet, prefix: str, into: tuple[str, ...]) -> KeyMap:
    rules = unit_rules(f"{prefix}conv1", f"{prefix}bn1", *into, "stem")
    for stage, depth in enumerate(model.layers):
        for block in range(depth):
            source, target = f"{prefix}layer{stage + 1}.{block}", (*into, f"stage_{stage}_block_{block}")
            for part in (1, 2, 3):
                rules |= unit_rules(f"{source}.conv{part}", f"{source}.bn{part}", *target, f"conv{part}")
            if block == 0:
                rules |= unit_rules(f"{source}.downsample.0", f"{source}.downsample.1", *target, "downsample")
    return rules | linear_rules(f"{prefix}fc", *into, "head")


def _hybrid(model: ResNet, prefix: str, into: tuple[str, ...]) -> KeyMap:
    def unit(source: str, convolution: str, norm: str, *target: str) -> KeyMap:
        return unit_rules(f"{source}.{convolution}", f"{source}.{norm}", *target, statistics=False)

    rules = unit(f"{prefix}stem", "conv", "norm", *into, "stem")
    for stage, depth in enumerate(model.layers):
        for block in range(depth):
            source, target = f"{prefix}stages.{stage}.blocks.{block}", (*into, f"stage_{stage}_block_{block}")
            for part in (1, 2, 3):
                rules |= unit(source, f"conv{part}", f"norm{part}", *target, f"conv{part}")
            if block == 0:
                rules |= unit(f"{source}.downsample", "conv", "norm", *target, "downsample")
    return rules


def reference(name: str, tensors: Mapping[str, np.ndarray]) -> Reference:
    """See `Family.reference`."""
    model = build(name, **headed(tensors, "fc.weight"))
    return Reference(model, key_map(model), tensors)


def layers(module: ResNet) -> LayerOrder:
    """Stem, blocks and classifier, as in timm's `group_matcher`."""
    stages = module.layers[:3] if module.features == "stride16" else module.layers
    blocks = [
        f"stage_{stage}_block_{block}/.*" for stage, depth in enumerate(stages) for block in range(depth)
    ]
    rules = [Layer(block, index) for index, block in enumerate(blocks, 1)]
    return LayerOrder(len(blocks), (Layer("stem/.*", 0), *rules, Layer("head/.*", len(blocks) + 1)))


def trunk(name: str, *, features: str = "", cut: str = "", **fields: Any) -> Trunk:
    """See `Family.trunk`; `features` is "stride16" or "" for the last map."""
    if cut:
        raise UserError(
            f"model.train_trunk_from={cut!r}: allowed is stride16, of an efficientnet with a later map"
        )
    module = build(name, output="tokens", **({"features": features} if features else {}), **fields)
    return Trunk(module, 16 if features == "stride16" or len(module.layers) == 3 else 32)


FAMILY = Family(
    name="resnet",
    names=NAMES,
    module=ResNet,
    build=build,
    layers=layers,
    inputs=image_inputs,
    heads=("head",),
    preprocessing={
        **{name: Preprocessing((224, 224), crop=0.95) for name in ("resnet50", "resnet101")},
        "resnetv2_50_s16": Preprocessing((224, 224), HALF, HALF, crop=0.9),
    },
    # The trunk of the hybrid is published only as part of vit_base_r50_s16_224.
    weights=hub_timm({"resnet50": "a1_in1k", "resnet101": "a1h_in1k"}),
    deviating={
        f"hub:timm/{name}.tv_in1k": Preprocessing((224, 224), interpolation="bilinear", crop=0.875)
        for name in ("resnet50", "resnet101")
    },
    reference=reference,
    reads=("drop_path", "dropout", "remat"),
    configure=configure,
    encoder=FEATURE_MAP,
    trunk=trunk,
)
