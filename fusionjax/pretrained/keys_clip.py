"""Key map of CLIP: transformers' names."""

from collections.abc import Mapping

import numpy as np

from fusionjax.models.backbones.clip import CLIP
from fusionjax.pretrained.keys import KeyMap, Rule, conv, linear, norm_rules, same
from fusionjax.pretrained.keys_text import stack_rules

# Not weights: numbers 0, 1, 2, … that older versions stored.
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
    """The tensors without what is no weight."""
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
    # The misspelling is transformers'.
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
