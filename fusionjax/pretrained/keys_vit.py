"""Key maps of the ViT family: timm's names of ViT, DeiT (not distilled) and the hybrid R50-ViT; transformers' of ViT and DeiT.

The blocks' layers are stacked along a leading axis here. Queries, keys and values are three thirds of one matrix, each
heads × d wide, as in timm's qkv; transformers keeps three, which land side by side.
"""

from collections.abc import Container, Mapping

import numpy as np

from fusionjax.errors import UserError
from fusionjax.models.backbones.resnet import ResNet
from fusionjax.models.backbones.vit import ViT
from fusionjax.pretrained import keys_resnet
from fusionjax.pretrained.keys import KeyMap, Rule, conv, linear_rules, norm_rules, same

# timm's name inside a block → the path here; linear layers, then norms.
LINEAR = {
    "attn.qkv": ("qkv",),
    "attn.proj": ("proj",),
    "mlp.fc1": ("mlp", "fc1"),
    "mlp.fc2": ("mlp", "fc2"),
}
NORMS = ("norm1", "norm2")

# transformers' names: of a file, and of a state dict in memory from version 5 on. Layers; queries, keys and values; the rest.
FILE, MEMORY = "encoder.layer", "layers"
QKV = {
    FILE: tuple(f"attention.attention.{part}" for part in ("query", "key", "value")),
    MEMORY: tuple(f"attention.{part}_proj" for part in "qkv"),
}
DENSE = {
    FILE: {
        "attention.output.dense": ("proj",),
        "intermediate.dense": ("mlp", "fc1"),
        "output.dense": ("mlp", "fc2"),
    },
    MEMORY: {"attention.o_proj": ("proj",), "mlp.fc1": ("mlp", "fc1"), "mlp.fc2": ("mlp", "fc2")},
}
PREFIXES = ("vit.", "deit.")
CLS = "embeddings.cls_token"
# Of masked pretraining, and of ViTModel, whose pooler was never trained.
UNUSED = ("embeddings.mask_token", "pooler.dense.weight", "pooler.dense.bias")
DISTILLED = ("dist_token", "embeddings.distillation_token")


def of_transformers(names: Container[str]) -> bool:
    """Whether the names, cleaned, are transformers'; otherwise they are timm's."""
    return CLS in names


def clean(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors; transformers' without the prefix that a model with a head has, and without what the ViT here has not.

    Raises:
        UserError: a distilled DeiT's: its second token has no place here.
    """
    prefix = next((prefix for prefix in PREFIXES if f"{prefix}{CLS}" in tensors), "")
    cleaned = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    for token in DISTILLED:
        if token in cleaned:
            raise UserError(
                f"{prefix}{token}: a distilled DeiT, whose second token has no place here; "
                "take the plain one (deit_*_patch16_* without distilled in its name)"
            )
    if of_transformers(cleaned):
        cleaned = {key: tensor for key, tensor in cleaned.items() if key not in UNUSED}
    return cleaned


def key_map(model: ViT, names: Container[str] = ()) -> KeyMap:
    """The map for a model's settings.

    Args:
        model: decides the number of layers and whether a ResNet trunk stands before the patches.
        names: the checkpoint's, cleaned; they decide between timm's spelling (the default) and transformers'.

    Returns:
        Reference name → Rule.
    """
    return _transformers(model, names) if of_transformers(names) else _timm(model)


def _timm(model: ViT) -> KeyMap:
    rules: KeyMap = {
        "cls_token": Rule(("params", "cls_token"), same),
        "pos_embed": Rule(("params", "pos_embed"), same),
    }
    rules |= linear_rules("patch_embed.proj", "patch_embed", turn=conv)
    for layer in range(model.depth):
        for source, path in LINEAR.items():
            rules |= _layer(linear_rules(f"blocks.{layer}.{source}", "blocks", *path), layer)
        for norm in NORMS:
            rules |= _layer(norm_rules(f"blocks.{layer}.{norm}", "blocks", norm), layer)
    rules |= norm_rules("norm", "norm") | linear_rules("head", "head")
    if isinstance(model.trunk, ResNet):
        rules |= keys_resnet.key_map(model.trunk, "patch_embed.backbone.", ("trunk",))
    return rules


def _transformers(model: ViT, names: Container[str]) -> KeyMap:
    rules: KeyMap = {
        CLS: Rule(("params", "cls_token"), same),
        "embeddings.position_embeddings": Rule(("params", "pos_embed"), same),
    }
    rules |= linear_rules("embeddings.patch_embeddings.projection", "patch_embed", turn=conv)
    stack = MEMORY if f"{MEMORY}.0.layernorm_before.weight" in names else FILE
    for layer in range(model.depth):
        source = f"{stack}.{layer}"
        for third, name in enumerate(QKV[stack]):
            rules |= _layer(linear_rules(f"{source}.{name}", "blocks", "qkv"), layer, (third, 3))
        for name, path in DENSE[stack].items():
            rules |= _layer(linear_rules(f"{source}.{name}", "blocks", *path), layer)
        for name, norm in zip(("layernorm_before", "layernorm_after"), NORMS, strict=True):
            rules |= _layer(norm_rules(f"{source}.{name}", "blocks", norm), layer)
    return rules | norm_rules("layernorm", "norm") | linear_rules("classifier", "head")


def _layer(rules: KeyMap, layer: int, part: tuple[int, int] | None = None) -> KeyMap:
    return {key: rule._replace(layer=layer, part=part) for key, rule in rules.items()}
