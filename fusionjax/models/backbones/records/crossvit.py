"""The CrossViT family; key maps of timm's names and of the files of the authors, which have pos_embed.0 for pos_embed_0."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fusionjax.config import impossible
from fusionjax.models.backbones.crossvit import NAMES, CrossViT, build
from fusionjax.models.backbones.keys import KeyMap, Rule, classes, conv, linear_rules, norm_rules, same
from fusionjax.models.backbones.record import (
    Encoder,
    Family,
    Grid,
    Layer,
    LayerOrder,
    Preprocessing,
    Reference,
    Shown,
    hub_timm,
)
from fusionjax.models.backbones.records.vit_keys import LINEAR, NORMS


def key_map(model: CrossViT, tensors: Mapping[str, np.ndarray]) -> KeyMap:
    """The map for a model's settings.

    Args:
        model: determines branches, stages, their depths and the stem.
        tensors: determine which of the two spellings of tokens and positions applies.

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
    """The blocks of a branch; a single block is not stacked."""
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


def reference(name: str, tensors: Mapping[str, np.ndarray]) -> Reference:
    """See `Family.reference`."""
    model = build(name, num_classes=classes(tensors, "head.0.weight"))
    return Reference(model, key_map(model, tensors), tensors)


def layers(module: CrossViT) -> LayerOrder:
    """A stage, with all its branches and fusions, is one layer, as in timm's `group_matcher`.

    The last norms belong to the layer of the heads, as in BEiT.
    """
    rules = [Layer(r"(cls_token|pos_embed)_\d+|patch_embed_\d+/.*", 0)]
    for stage, depths in enumerate(module.depth):
        for branch, depth in enumerate(depths[:-1]):
            rules.append(Layer(f"stage_{stage}_branch_{branch}/.*", stage + 1, stacked=depth > 1, step=0))
        rules.append(Layer(rf"stage_{stage}_fusion_\d+/.*", stage + 1))
    rules.append(Layer(r"(norm|head)_\d+/.*", len(module.depth) + 1))
    return LayerOrder(len(module.depth), tuple(rules))


def inputs(module: CrossViT, size: tuple[int, int] | None = None) -> tuple[jax.ShapeDtypeStruct, ...]:
    """One image of the first branch's size."""
    return (jax.ShapeDtypeStruct((1, *module.sizes[0], module.in_channels), jnp.float32),)


def configure(config: ConfigDict, *, image_shape: tuple[int, int], channels: int) -> dict[str, Any]:
    """See `Family.configure`.

    Raises:
        UserError: the first entry of `model.crossvit.img_size` is not the size of the images.
    """
    c = config.model
    fields = {"in_channels": channels, **{key: c[key] for key in ("drop_path", "dropout", "remat")}}
    fields |= {key: value for key, value in c.crossvit.items() if value}
    if not c.crossvit.img_size:
        return fields | {"image_size": image_shape}
    first = c.crossvit.img_size[0]
    if ((first, first) if isinstance(first, int) else tuple(first)) != tuple(image_shape):
        raise impossible(config, "model.crossvit.img_size", f"the first must be the images' {image_shape}")
    return fields


def grids(module: CrossViT) -> tuple[Grid, ...]:
    """Rows and columns of the position embeddings of each branch."""
    return tuple(
        (rows // patch, columns // patch)
        for (rows, columns), patch in zip(module.sizes, module.patch_size, strict=True)
    )


def _last_fusion(module: CrossViT, aux: Mapping[str, Any]) -> jax.Array:
    """Attention of the first CLS token over the second branch's patches in the last fusion, mean over heads: (B, N_1 − 1)."""
    last = aux["fusion"][f"stage_{len(module.depth) - 1}/fusion_0"]
    return last[-1, :, :, 0, 1:].mean(1)


FAMILY = Family(
    name="crossvit",
    names=NAMES,
    module=CrossViT,
    build=build,
    layers=layers,
    inputs=inputs,
    undecayed=(r"(cls_token|pos_embed)_\d+",),
    heads=(r"head_\d+",),
    preprocessing={
        name: Preprocessing((408, 408), crop=1.0) if name.endswith("408") else Preprocessing((240, 240))
        for name in NAMES
    },
    weights=hub_timm(dict.fromkeys(NAMES, "in1k")),
    transformer=True,
    reference=reference,
    reads=("drop_path", "dropout", "remat", "crossvit"),
    configure=configure,
    encoder=Encoder(
        {"num_classes": 0}, feature=lambda module, images, train: module(images, train=train)[0], tokens=None
    ),
    shown=Shown(
        capture=("fusion",),
        weights=_last_fusion,
        grid=lambda module: grids(module)[1],
        name="cross-attention of the last fusion",
        text="attention of the first branch's class token over the patches of the second, mean over heads",
    ),
    grids=grids,
    capture=("attention",),
)
