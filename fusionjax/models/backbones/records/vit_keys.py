"""Key maps of the ViT family: the names of timm, of DINOv2's authors, and of transformers (ViT, DeiT, Dinov2 and
Dinov2WithRegisters).

The layers are stacked along a leading axis here. Queries, keys and values are the thirds of one matrix, each heads × d wide,
as in timm's qkv; transformers has three matrices, which are concatenated. The first layer of SwiGLU is one matrix too.
"""

import re
from collections.abc import Container, Mapping

import numpy as np

from fusionjax.errors import UserError
from fusionjax.models.backbones.keys import KeyMap, Rule, conv, linear_rules, norm_rules, same
from fusionjax.models.backbones.records import resnet as resnet_family
from fusionjax.models.backbones.resnet import ResNet
from fusionjax.models.backbones.vit import ViT

# timm's name inside a block → the path here; linear layers, then norms, then layer scales.
LINEAR = {
    "attn.qkv": ("qkv",),
    "attn.proj": ("proj",),
    "mlp.fc1": ("mlp", "fc1"),
    "mlp.fc2": ("mlp", "fc2"),
}
NORMS = ("norm1", "norm2")
SCALES = ("ls1", "ls2")

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
HF_NORMS = ("layernorm_before", "layernorm_after")
HF_SCALES = ("layer_scale1", "layer_scale2")
PREFIXES = ("vit.", "deit.", "dinov2.", "dinov2_with_registers.")
CLS, POSITIONS = "embeddings.cls_token", "embeddings.position_embeddings"
# Tensors of masked pretraining, and of the pooler of ViTModel, which was never trained.
UNUSED = ("mask_token", "embeddings.mask_token", "pooler.dense.weight", "pooler.dense.bias")
DISTILLED = ("dist_token", "embeddings.distillation_token")
# The table of positions in an exported graph, which resamples it: CLS, then the grid.
SPLIT_POSITIONS = re.compile(r"embeddings\.(Concat|Reshape)(_\d+)?")
# Names of DINOv2's authors → timm's.
AUTHORS = {".mlp.w12.": ".mlp.fc1.", ".mlp.w3.": ".mlp.fc2."}


def of_transformers(names: Container[str]) -> bool:
    """Returns whether cleaned names are those of transformers; otherwise they are those of timm."""
    return CLS in names


def clean(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the tensors without the prefix of transformers' models with a head, and without tensors unknown to `ViT`; names
    of DINOv2's authors are timm's, and tables of positions include CLS.

    Raises:
        UserError: the tensors are of a distilled DeiT, whose second token is not supported.
    """
    prefix = next((prefix for prefix in PREFIXES if f"{prefix}{CLS}" in tensors), "")
    cleaned = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    for token in DISTILLED:
        if token in cleaned:
            raise UserError(
                f"{prefix}{token}: a distilled DeiT, whose second token is not supported; "
                "use the plain model (deit_*_patch16_* without distilled in its name)"
            )
    if of_transformers(cleaned) or "mask_token" in cleaned:
        cleaned = {key: tensor for key, tensor in cleaned.items() if key not in UNUSED}
    if of_transformers(cleaned) and POSITIONS not in cleaned:
        split = sorted(
            (len(t[0]), key)
            for key, t in cleaned.items()
            if SPLIT_POSITIONS.fullmatch(key) and np.ndim(t) == 3
        )
        if len(split) == 2:
            cleaned[POSITIONS] = np.concatenate([cleaned.pop(key) for _, key in split], axis=1)
    # timm adds the position of CLS to the token itself where there are registers, and stores only those of the patches.
    if {"reg_token", "pos_embed"} <= set(cleaned) and np.ndim(cleaned["pos_embed"]) == 3:
        table = cleaned["pos_embed"]
        cleaned["pos_embed"] = np.concatenate([np.zeros_like(table[:, :1]), table], axis=1)
    if "register_tokens" in cleaned:
        cleaned["reg_token"] = cleaned.pop("register_tokens")
    for theirs, timms in AUTHORS.items():
        cleaned = {key.replace(theirs, timms): tensor for key, tensor in cleaned.items()}
    return cleaned


def key_map(model: ViT, names: Container[str] = ()) -> KeyMap:
    """The map for a model's settings.

    Args:
        model: determines the number of layers, whether there is a ResNet trunk, registers, layer scale and SwiGLU.
        names: names of the cleaned tensors; they determine whether timm's names (the default) or transformers' apply.

    Returns:
        Reference name → Rule.
    """
    if not of_transformers(names):
        return _timm(model)
    return (_dinov2 if model.layer_scale else _transformers)(model, names)


def _timm(model: ViT) -> KeyMap:
    rules: KeyMap = {
        "cls_token": Rule(("params", "cls_token"), same),
        "pos_embed": Rule(("params", "pos_embed"), same),
    }
    if model.registers:
        rules["reg_token"] = Rule(("params", "reg_token"), same)
    rules |= linear_rules("patch_embed.proj", "patch_embed", turn=conv)
    for layer in range(model.depth):
        for source, path in LINEAR.items():
            rules |= _layer(linear_rules(f"blocks.{layer}.{source}", "blocks", *path), layer)
        for norm in NORMS:
            rules |= _layer(norm_rules(f"blocks.{layer}.{norm}", "blocks", norm), layer)
        rules |= _scales(model, [f"blocks.{layer}.{name}.gamma" for name in SCALES], layer)
    rules |= norm_rules("norm", "norm") | linear_rules("head", "head")
    if isinstance(model.trunk, ResNet):
        rules |= resnet_family.key_map(model.trunk, "patch_embed.backbone.", ("trunk",))
    return rules


def _transformers(model: ViT, names: Container[str]) -> KeyMap:
    rules = _embeddings()
    stack = MEMORY if f"{MEMORY}.0.layernorm_before.weight" in names else FILE
    for layer in range(model.depth):
        source = f"{stack}.{layer}"
        rules |= _qkv(source, stack, layer)
        for name, path in DENSE[stack].items():
            rules |= _layer(linear_rules(f"{source}.{name}", "blocks", *path), layer)
        for name, norm in zip(HF_NORMS, NORMS, strict=True):
            rules |= _layer(norm_rules(f"{source}.{name}", "blocks", norm), layer)
    return rules | norm_rules("layernorm", "norm") | linear_rules("classifier", "head")


def _dinov2(model: ViT, names: Container[str]) -> KeyMap:
    rules = _embeddings()
    if model.registers:
        rules["embeddings.register_tokens"] = Rule(("params", "reg_token"), same)
    kind = MEMORY if "encoder.layer.0.attention.q_proj.weight" in names else FILE
    out = "attention.o_proj" if kind == MEMORY else "attention.output.dense"
    for layer in range(model.depth):
        source = f"{FILE}.{layer}"
        rules |= _qkv(source, kind, layer)
        rules |= _layer(linear_rules(f"{source}.{out}", "blocks", "proj"), layer)
        rules |= _layer(_dinov2_mlp(f"{source}.mlp", model, names), layer)
        for norm in NORMS:
            rules |= _layer(norm_rules(f"{source}.{norm}", "blocks", norm), layer)
        rules |= _scales(model, [f"{source}.{name}.lambda1" for name in HF_SCALES], layer)
    return rules | norm_rules("layernorm", "norm")


def _dinov2_mlp(source: str, model: ViT, names: Container[str]) -> KeyMap:
    fc1, fc2 = ("blocks", "mlp", "fc1"), ("blocks", "mlp", "fc2")
    if model.feed_forward == "gelu":
        return linear_rules(f"{source}.fc1", *fc1) | linear_rules(f"{source}.fc2", *fc2)
    if f"{source}.gate_proj.weight" not in names:
        return linear_rules(f"{source}.weights_in", *fc1) | linear_rules(f"{source}.weights_out", *fc2)
    rules = linear_rules(f"{source}.down_proj", *fc2)
    for half, name in enumerate(("gate_proj", "up_proj")):
        rules |= _part(linear_rules(f"{source}.{name}", *fc1), half, 2)
    return rules


def _embeddings() -> KeyMap:
    rules: KeyMap = {
        CLS: Rule(("params", "cls_token"), same),
        POSITIONS: Rule(("params", "pos_embed"), same),
    }
    return rules | linear_rules("embeddings.patch_embeddings.projection", "patch_embed", turn=conv)


def _qkv(source: str, kind: str, layer: int) -> KeyMap:
    rules: KeyMap = {}
    for third, name in enumerate(QKV[kind]):
        rules |= _layer(_part(linear_rules(f"{source}.{name}", "blocks", "qkv"), third, 3), layer)
    return rules


def _scales(model: ViT, names: list[str], layer: int) -> KeyMap:
    pairs = zip(names, SCALES, strict=True) if model.layer_scale else ()
    return {name: Rule(("params", "blocks", scale, "scale"), same, layer) for name, scale in pairs}


def _layer(rules: KeyMap, layer: int) -> KeyMap:
    return {key: rule._replace(layer=layer) for key, rule in rules.items()}


def _part(rules: KeyMap, index: int, parts: int) -> KeyMap:
    return {key: rule._replace(part=(index, parts)) for key, rule in rules.items()}
