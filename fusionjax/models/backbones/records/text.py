"""The BERT family, DistilBERT included; key maps of transformers' names, for any checkpoint that has the encoder."""

from collections.abc import Container, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from fusionjax.models.backbones.keys import KeyMap, Rule, linear, linear_rules, norm_rules, same
from fusionjax.models.backbones.record import Family, Layer, LayerOrder, Reference
from fusionjax.models.backbones.text import NAMES, TextEncoder, build

# Prefixes of the encoder's names in a checkpoint with a head.
PREFIXES = ("bert.", "distilbert.")
# Not weights: indices 0, 1, 2, … that older versions stored.
BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
# Heads of the tasks that the checkpoints were trained on.
HEADS = (
    "cls.",
    "vocab_transform.",
    "vocab_layer_norm.",
    "vocab_projector.",
    "classifier.",
    "pre_classifier.",
    "qa_outputs.",
)
# TensorFlow's names of a norm's parameters, as the original BERT checkpoints have them.
RENAMED = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}

# transformers' name inside a layer → the path here; linear layers, then norms.
BERT_LINEAR = {
    "attention.self.query": ("attention", "query"),
    "attention.self.key": ("attention", "key"),
    "attention.self.value": ("attention", "value"),
    "attention.output.dense": ("attention", "out"),
    "intermediate.dense": ("fc1",),
    "output.dense": ("fc2",),
}
BERT_NORMS = {"attention.output.LayerNorm": "norm1", "output.LayerNorm": "norm2"}
DISTILBERT_LINEAR = {
    "attention.q_lin": ("attention", "query"),
    "attention.k_lin": ("attention", "key"),
    "attention.v_lin": ("attention", "value"),
    "attention.out_lin": ("attention", "out"),
    "ffn.lin1": ("fc1",),
    "ffn.lin2": ("fc2",),
}
DISTILBERT_NORMS = {"sa_layer_norm": "norm1", "output_layer_norm": "norm2"}


def clean(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the tensors of the encoder, without prefixes, buffers and heads of other tasks."""
    cleaned = {}
    for key, tensor in tensors.items():
        for prefix in PREFIXES:
            key = key.removeprefix(prefix)
        for old, new in RENAMED.items():
            if key.endswith(old):
                key = key.removesuffix(old) + new
        if key not in BUFFERS and not key.startswith(HEADS):
            cleaned[key] = tensor
    return cleaned


def key_map(model: TextEncoder, names: Container[str]) -> KeyMap:
    """The map for a model's settings.

    Args:
        model: determines the number of layers, and whether there are token types and a pooler.
        names: names of the cleaned tensors; DistilBERT if "transformer.layer.0.ffn.lin1.weight" is among them.

    Returns:
        Reference name → Rule.
    """
    distilled = "transformer.layer.0.ffn.lin1.weight" in names
    rules: KeyMap = {
        "embeddings.word_embeddings.weight": Rule(("params", "words"), same),
        "embeddings.position_embeddings.weight": Rule(("params", "positions"), same),
    }
    if model.config.types:
        rules["embeddings.token_type_embeddings.weight"] = Rule(("params", "types"), same)
    rules |= norm_rules("embeddings.LayerNorm", "norm")
    source = "transformer.layer" if distilled else "encoder.layer"
    rules |= stack_rules(
        source,
        ("params", "layers"),
        model.config.layers,
        DISTILBERT_LINEAR if distilled else BERT_LINEAR,
        DISTILBERT_NORMS if distilled else BERT_NORMS,
    )
    return rules | (linear_rules("pooler.dense", "pooler") if model.config.pooler else {})


def stack_rules(
    source: str,
    into: tuple[str, ...],
    layers: int,
    linears: Mapping[str, tuple[str, ...]],
    norms: Mapping[str, str],
) -> KeyMap:
    """Maps source.0, source.1, … to one stack of layers at `into`; `linears` and `norms` map the names inside a layer."""
    rules: KeyMap = {}
    for layer in range(layers):
        for name, path in linears.items():
            rules[f"{source}.{layer}.{name}.weight"] = Rule((*into, *path, "kernel"), linear, layer)
            rules[f"{source}.{layer}.{name}.bias"] = Rule((*into, *path, "bias"), same, layer)
        for name, norm in norms.items():
            rules[f"{source}.{layer}.{name}.weight"] = Rule((*into, norm, "scale"), same, layer)
            rules[f"{source}.{layer}.{name}.bias"] = Rule((*into, norm, "bias"), same, layer)
    return rules


def reference(name: str, tensors: Mapping[str, np.ndarray]) -> Reference:
    """See `Family.reference`."""
    tensors = clean(tensors)
    model = build(name, pooler="pooler.dense.weight" in tensors)
    return Reference(model, key_map(model, tensors), tensors)


def layers(module: TextEncoder) -> LayerOrder:
    """Embeddings with their norm, layers, and the pooler."""
    depth = module.config.layers
    return LayerOrder(
        depth,
        (
            Layer(r"words|positions|types|norm/.*", 0),
            Layer(r"layers/.*", 1, stacked=True),
            Layer(r"pooler/.*", depth + 1),
        ),
    )


def inputs(module: TextEncoder, size: tuple[int, int] | None = None) -> tuple[jax.ShapeDtypeStruct, ...]:
    """A text of 128 tokens, or of the largest length if that is smaller."""
    return (jax.ShapeDtypeStruct((1, min(128, module.config.positions)), jnp.int32),)


FAMILY = Family(
    name="text",
    names=NAMES,
    module=TextEncoder,
    build=build,
    layers=layers,
    inputs=inputs,
    kind="text",
    undecayed=("positions",),
    weights={
        "bert_base_uncased": "hub:google-bert/bert-base-uncased",
        "distilbert_base_uncased": "hub:distilbert/distilbert-base-uncased",
        "all_minilm_l6_v2": "package:all-minilm-l6-v2",
    },
    transformer=True,
    reference=reference,
    capture=("attention",),
)
