"""Key map of CrossViT: timm's names; of the authors' files too, which write pos_embed.0 for pos_embed_0."""

from collections.abc import Mapping

import numpy as np

from fusionjax.models.backbones.crossvit import CrossViT
from fusionjax.pretrained.keys import KeyMap, Rule, conv, linear_rules, norm_rules, same
from fusionjax.pretrained.keys_vit import LINEAR, NORMS


def key_map(model: CrossViT, tensors: Mapping[str, np.ndarray]) -> KeyMap:
    """The map for a model's settings.

    Args:
        model: decides branches, stages, their depths and the stem.
        tensors: decide between the two spellings of tokens and positions.

    Returns:
        Reference name → Rule.
    """
    rules: KeyMap = {}
    for i in range(len(model.patch_size)):
        for part in ("cls_token", "pos_embed"):
            source = f"{part}.{i}" if f"{part}.{i}" in tensors else f"{part}_{i}"
            rules[source] = Rule(("params", f"{part}_{i}"), same)
        source, target = f"patch_embed.{i}.proj", f"patch_embed_{i}"
        if model.multi_conv:
            for layer in range(3):
                rules |= linear_rules(f"{source}.{2 * layer}", target, f"conv{layer}", turn=conv)
        else:
            rules |= linear_rules(source, target, turn=conv)
        rules |= norm_rules(f"norm.{i}", f"norm_{i}") | linear_rules(f"head.{i}", f"head_{i}")
        for stage, depth in enumerate(model.depth):
            rules |= _branch(stage, i, depth[i]) | _fusion(stage, i, depth[-1])
    return rules


def _branch(stage: int, i: int, depth: int) -> KeyMap:
    """A branch's blocks; one alone is not stacked."""
    rules: KeyMap = {}
    for layer in range(depth):
        source, target = f"blocks.{stage}.blocks.{i}.{layer}", f"stage_{stage}_branch_{i}"
        block: KeyMap = {}
        for name, path in LINEAR.items():
            block |= linear_rules(f"{source}.{name}", target, *path)
        for name in NORMS:
            block |= norm_rules(f"{source}.{name}", target, name)
        rules |= {key: rule._replace(layer=layer if depth > 1 else None) for key, rule in block.items()}
    return rules


def _fusion(stage: int, i: int, depth: int) -> KeyMap:
    source, target = f"blocks.{stage}", f"stage_{stage}_fusion_{i}"
    rules = norm_rules(f"{source}.projs.{i}.0", target, "proj_norm")
    rules |= linear_rules(f"{source}.projs.{i}.2", target, "proj")
    rules |= norm_rules(f"{source}.revert_projs.{i}.0", target, "revert_norm")
    rules |= linear_rules(f"{source}.revert_projs.{i}.2", target, "revert")
    for layer in range(max(1, depth)):
        block = f"{source}.fusion.{i}.{layer}" if depth else f"{source}.fusion.{i}"
        rules |= norm_rules(f"{block}.norm1", target, f"norm_{layer}")
        for name, path in (("wq", "q"), ("wk", "k"), ("wv", "v"), ("proj", "out")):
            rules |= linear_rules(f"{block}.attn.{name}", target, f"{path}_{layer}")
    return rules
