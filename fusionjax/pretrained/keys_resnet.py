"""Key maps of the ResNet family: torchvision's names, which timm shares, and those of timm's hybrid trunk."""

from fusionjax.models.backbones.resnet import ResNet
from fusionjax.pretrained.keys import KeyMap, linear_rules, unit_rules


def key_map(model: ResNet, prefix: str = "", into: tuple[str, ...] = ()) -> KeyMap:
    """The map for a model's settings.

    Args:
        model: decides the blocks, and by `standardise` whose names they are.
        prefix: stands before every reference name ("patch_embed.backbone." inside a hybrid ViT).
        into: path of the trunk inside a larger model.

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
