"""Key map of the ViT family: timm's names of ViT, DeiT (not distilled) and the hybrid R50-ViT.

The blocks' layers are stacked along a leading axis here. timm's qkv is three thirds of the width, queries,
keys, values, each heads × d, which is the order here too.
"""

from fusionjax.models.resnet import ResNet
from fusionjax.models.vit import ViT
from fusionjax.pretrained import keys_resnet
from fusionjax.pretrained.keys import KeyMap, Rule, conv, linear, linear_rules, norm_rules, same

# timm's name inside a block → the path here; linear layers, then norms.
LINEAR = {
    "attn.qkv": ("qkv",),
    "attn.proj": ("proj",),
    "mlp.fc1": ("mlp", "fc1"),
    "mlp.fc2": ("mlp", "fc2"),
}
NORMS = ("norm1", "norm2")


def key_map(model: ViT) -> KeyMap:
    """The map for a model's settings.

    Args:
        model: decides the number of layers and whether a ResNet trunk stands before the patches.

    Returns:
        Reference name → Rule.
    """
    rules: KeyMap = {
        "cls_token": Rule(("params", "cls_token"), same),
        "pos_embed": Rule(("params", "pos_embed"), same),
        "patch_embed.proj.weight": Rule(("params", "patch_embed", "kernel"), conv),
        "patch_embed.proj.bias": Rule(("params", "patch_embed", "bias"), same),
    }
    for layer in range(model.depth):
        for source, target in LINEAR.items():
            name, path = f"blocks.{layer}.{source}", ("params", "blocks", *target)
            rules[f"{name}.weight"] = Rule((*path, "kernel"), linear, layer)
            rules[f"{name}.bias"] = Rule((*path, "bias"), same, layer)
        for norm in NORMS:
            rules[f"blocks.{layer}.{norm}.weight"] = Rule(("params", "blocks", norm, "scale"), same, layer)
            rules[f"blocks.{layer}.{norm}.bias"] = Rule(("params", "blocks", norm, "bias"), same, layer)
    rules |= norm_rules("norm", "norm") | linear_rules("head", "head")
    if isinstance(model.trunk, ResNet):
        rules |= keys_resnet.key_map(model.trunk, "patch_embed.backbone.", ("trunk",))
    return rules
