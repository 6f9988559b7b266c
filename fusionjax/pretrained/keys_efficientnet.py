"""Key maps of the EfficientNet family: timm's names, and the lukemelas line's (the packages of Lite)."""

from collections.abc import Container

from fusionjax.models.backbones.efficientnet import EfficientNet
from fusionjax.pretrained.keys import KeyMap, flat_conv, linear_rules, unit_rules


def key_map(model: EfficientNet, names: Container[str]) -> KeyMap:
    """The map for a model's settings.

    Args:
        model: decides the blocks.
        names: the checkpoint's names; one that holds "_conv_stem.weight" is of the lukemelas line, any other
          timm's.

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
