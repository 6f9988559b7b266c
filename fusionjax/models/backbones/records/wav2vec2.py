"""The Wav2Vec2 family; key map of transformers' names, for the bare model and checkpoints with a pretraining or CTC head."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from fusionjax.models.backbones.audio import NAMES, Wav2Vec2, build
from fusionjax.models.backbones.keys import KeyMap, Rule, linear_rules, norm_rules, same
from fusionjax.models.backbones.record import Family, Layer, LayerOrder, Reference

PREFIX = "wav2vec2."
HEADS = ("quantizer.", "project_q.", "project_hid.", "lm_head.", "projector.", "classifier.")
# Magnitude and direction of the weight norm, as named by torch < 2.1 and by later versions.
SPELLINGS = (
    ("weight_g", "weight_v"),
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
)

LINEAR = {
    "attention.q_proj": "q",
    "attention.k_proj": "k",
    "attention.v_proj": "v",
    "attention.out_proj": "out",
    "feed_forward.intermediate_dense": "fc1",
    "feed_forward.output_dense": "fc2",
}


def clean(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the tensors of the encoder, without the prefix and the heads of a full checkpoint."""
    return {key.removeprefix(PREFIX): value for key, value in tensors.items() if not key.startswith(HEADS)}


def conv1d(tensor: np.ndarray) -> np.ndarray:
    """torch's (D, C, k) → (k, C, D)."""
    return tensor.transpose(2, 1, 0)


def flat(tensor: np.ndarray) -> np.ndarray:
    """Magnitudes of the taps, (1, 1, k) → (k,)."""
    return tensor[0, 0]


def key_map(model: Wav2Vec2, tensors: Mapping[str, np.ndarray]) -> KeyMap:
    """The map for a model's settings.

    Args:
        model: determines the number of convolutions and layers.
        tensors: determine which of the two spellings of the weight norm applies.

    Returns:
        Reference name → Rule.
    """
    rules: KeyMap = {"masked_spec_embed": Rule(("params", "masked_embedding"), same)}
    for index in range(len(model.kernels)):
        source = f"feature_extractor.conv_layers.{index}.conv.weight"
        rules[source] = Rule(("params", f"conv_{index}"), conv1d)
    rules |= norm_rules("feature_extractor.conv_layers.0.layer_norm", "conv_norm")
    rules |= norm_rules("feature_projection.layer_norm", "feature_norm")
    rules |= linear_rules("feature_projection.projection", "feature_proj")
    source = "encoder.pos_conv_embed.conv"
    g, v = SPELLINGS[f"{source}.{SPELLINGS[0][0]}" not in tensors]
    rules[f"{source}.{g}"] = Rule(("params", "pos_conv", "g"), flat)
    rules[f"{source}.{v}"] = Rule(("params", "pos_conv", "v"), conv1d)
    rules[f"{source}.bias"] = Rule(("params", "pos_conv", "bias"), same)
    rules |= norm_rules("encoder.layer_norm", "norm")
    for layer in range(model.depth):
        source = f"encoder.layers.{layer}"
        rows = norm_rules(f"{source}.layer_norm", "layers", "norm1")
        rows |= norm_rules(f"{source}.final_layer_norm", "layers", "norm2")
        for name, target in LINEAR.items():
            rows |= linear_rules(f"{source}.{name}", "layers", target)
        rules |= {key: rule._replace(layer=layer) for key, rule in rows.items()}
    return rules


def reference(name: str, tensors: Mapping[str, np.ndarray]) -> Reference:
    """See `Family.reference`."""
    tensors, model = clean(tensors), build(name)
    return Reference(model, key_map(model, tensors), tensors)


def layers(module: Wav2Vec2) -> LayerOrder:
    """The convolutions and the positional convolution are the embedding; the layers follow."""
    embedding = r"conv_.*|feature_(norm|proj)/.*|masked_embedding|pos_conv/.*|norm/.*"
    return LayerOrder(module.depth, (Layer(embedding, 0), Layer(r"layers/.*", 1, stacked=True)))


def inputs(module: Wav2Vec2, size: tuple[int, int] | None = None) -> tuple[jax.ShapeDtypeStruct, ...]:
    """One second of audio."""
    return (jax.ShapeDtypeStruct((1, 16_000), jnp.float32),)


FAMILY = Family(
    name="wav2vec2",
    names=NAMES,
    module=Wav2Vec2,
    build=build,
    layers=layers,
    inputs=inputs,
    kind="audio",
    undecayed=("masked_embedding", "pos_conv/g"),
    weights={"wav2vec2_base": "hub:facebook/wav2vec2-base"},
    transformer=True,
    reference=reference,
    # Trained by masked pretraining; checkpoints for speech recognition lack it.
    unpublished=("masked_embedding",),
    optional=("masked_spec_embed",),
    capture=("attention",),
)
