"""The CLIP family; key map of transformers' names."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from fusionjax.models.backbones.clip import CLIP, NAMES, build
from fusionjax.models.backbones.keys import KeyMap, Rule, conv, linear, norm_rules, same
from fusionjax.models.backbones.record import Family, Layer, LayerOrder, Preprocessing, Reference
from fusionjax.models.backbones.records.text import stack_rules

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

# Not weights: position indices 0, 1, 2, … that older versions stored.
BUFFERS = ("vision_model.embeddings.position_ids", "text_model.embeddings.position_ids")

# transformers' name inside a layer → the path here; linear layers, then norms.
LINEAR = {
    "self_attn.q_proj": ("attention", "query"),
    "self_attn.k_proj": ("attention", "key"),
    "self_attn.v_proj": ("attention", "value"),
    "self_attn.out_proj": ("attention", "out"),
    "mlp.fc1": ("fc1",),
    "mlp.fc2": ("fc2",),
}
NORMS = {"layer_norm1": "norm1", "layer_norm2": "norm2"}


def clean(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the tensors without those that are not weights."""
    return {key: tensor for key, tensor in tensors.items() if key not in BUFFERS}


def key_map(model: CLIP) -> KeyMap:
    """The map for a model's settings.

    Args:
        model: decides the number of layers of each tower.

    Returns:
        Reference name → Rule.
    """
    image, text = ("params", "image_tower"), ("params", "text_tower")
    vision = "vision_model.embeddings"
    rules: KeyMap = {
        f"{vision}.class_embedding": Rule((*image, "cls_token"), _cls),
        f"{vision}.patch_embedding.weight": Rule((*image, "patch_embed", "kernel"), _patches),
        f"{vision}.position_embedding.weight": Rule((*image, "pos_embed"), _batched),
        "text_model.embeddings.token_embedding.weight": Rule((*text, "words"), same),
        "text_model.embeddings.position_embedding.weight": Rule((*text, "positions"), same),
        "visual_projection.weight": Rule(("params", "image_projection", "kernel"), linear),
        "text_projection.weight": Rule(("params", "text_projection", "kernel"), linear),
        "logit_scale": Rule(("params", "logit_scale"), _scalar),
    }
    # The misspelling is that of transformers.
    rules |= norm_rules("vision_model.pre_layrnorm", "image_tower", "norm_before")
    rules |= norm_rules("vision_model.post_layernorm", "image_tower", "norm")
    rules |= norm_rules("text_model.final_layer_norm", "text_tower", "norm")
    rules |= stack_rules("vision_model.encoder.layers", (*image, "layers"), model.image.layers, LINEAR, NORMS)
    return rules | stack_rules(
        "text_model.encoder.layers", (*text, "layers"), model.text.layers, LINEAR, NORMS
    )


def _cls(tensor: np.ndarray) -> np.ndarray:
    """(D,) → (1, 1, D)."""
    return tensor[None, None]


def _batched(tensor: np.ndarray) -> np.ndarray:
    """(N, D) → (1, N, D)."""
    return tensor[None]


def _patches(tensor: np.ndarray) -> np.ndarray:
    """A convolution's (D, 3, p, p) → a linear layer's (p·p·3, D)."""
    return conv(tensor).reshape(-1, tensor.shape[0])


def _scalar(tensor: np.ndarray) -> np.ndarray:
    """() or (1,), as some exports have it → ()."""
    return tensor.reshape(())


def reference(name: str, tensors: Mapping[str, np.ndarray]) -> Reference:
    """See `Family.reference`."""
    model = build(name)
    return Reference(model, key_map(model), clean(tensors))


def layers(module: CLIP) -> LayerOrder:
    """Both towers, aligned at their last blocks; the last norms and the projections come after them."""
    depth = max(module.image.layers, module.text.layers)
    rules = []
    for tower, count in (("image_tower", module.image.layers), ("text_tower", module.text.layers)):
        below = depth - count
        rules += [
            Layer(f"{tower}/layers/.*", below + 1, stacked=True),
            Layer(f"{tower}/norm/.*", depth + 1),
            Layer(f"{tower}/(cls_token|pos_embed|patch_embed/.*|norm_before/.*|words|positions)", below),
        ]
    return LayerOrder(depth, (*rules, Layer(r"(image|text)_projection/.*|logit_scale", depth + 1)))


def inputs(module: CLIP, size: tuple[int, int] | None = None) -> tuple[jax.ShapeDtypeStruct, ...]:
    """An image and a text."""
    image = jax.ShapeDtypeStruct((1, module.image_size, module.image_size, 3), jnp.float32)
    return image, jax.ShapeDtypeStruct((1, module.positions), jnp.int32)


FAMILY = Family(
    name="clip",
    names=NAMES,
    module=CLIP,
    build=build,
    layers=layers,
    inputs=inputs,
    kind="image_text",
    undecayed=("image_tower/(cls_token|pos_embed)", "text_tower/positions", "logit_scale"),
    preprocessing={
        name: Preprocessing((224, 224), MEAN, STD, crop=1.0, source="OpenAI's preprocessor_config.json")
        for name in NAMES
    },
    weights={name: f"hub:openai/{name.replace('_', '-').replace('patch-', 'patch')}" for name in NAMES},
    transformer=True,
    reference=reference,
)
