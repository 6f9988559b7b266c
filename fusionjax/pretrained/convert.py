"""Turns a reference implementation's tensors into variables, by one explicit key map a family."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from fusionjax.errors import UserError
from fusionjax.models import audio, clip, crossvit, efficientnet, resnet, text
from fusionjax.models.registry import backbone, create
from fusionjax.models.vit import ViT
from fusionjax.pretrained import (
    keys_clip,
    keys_crossvit,
    keys_efficientnet,
    keys_resnet,
    keys_text,
    keys_vit,
    keys_wav2vec2,
)
from fusionjax.pretrained.keys import KeyMap, Rule
from fusionjax.pretrained.report import refuse
from fusionjax.types import PyTree


def convert(name: str, tensors: Mapping[str, np.ndarray], template: PyTree | None = None) -> dict[str, Any]:
    """Variables of a model from the tensors of its reference implementation.

    Every tensor must find its place and every place its tensor, with equal shapes; only BatchNorm's
    `num_batches_tracked` is dropped, and what `keys_text.clean` and `keys_clip.clean` name.

    Args:
        name: of the model, as `fusionjax.models.create` takes it; "dcal_" before a ViT's name changes
          nothing.
        tensors: reference name → array (timm's names; for EfficientNet also those of the PyPI packages; for
          text models and CLIP transformers').
        template: variables, or their shapes from `jax.eval_shape`, that the result must match; by default the
          model's own, with as many classes as the tensors have and at the image size of its name.

    Returns:
        {"params": …, "batch_stats": …} (the second where the model has one), nested dicts of float32 arrays.

    Raises:
        UserError: the name is unknown, or tensors are missing, left over or of a wrong shape; the message
          names the first eight of each and counts them.
    """
    if name in text.NAMES or name in clip.NAMES:
        tensors = (keys_text if name in text.NAMES else keys_clip).clean(tensors)
    if name in audio.NAMES:
        tensors = keys_wav2vec2.clean(tensors)
    rules, template = _family(name, tensors, template)
    return place(name, rules, tensors, template)


def place(name: str, rules: KeyMap, tensors: Mapping[str, np.ndarray], template: PyTree) -> dict[str, Any]:
    """`convert`, from a key map and the shapes to meet; `name` is what a message calls the model."""
    shapes = {path: tuple(leaf.shape) for path, leaf in flatten_dict(_plain(template)).items()}
    tensors = {key: value for key, value in tensors.items() if not key.endswith("num_batches_tracked")}
    rules = {key: rule for key, rule in rules.items() if rule.path in shapes}
    mapped = {rule.path for rule in rules.values()}
    problems = {
        "missing": [key for key in rules if key not in tensors],
        "left over": [key for key in tensors if key not in rules],
        "without a rule": ["/".join(path) for path in shapes if path not in mapped],
    }
    leaves: dict[tuple[str, ...], np.ndarray] = {}
    wrong = []
    for key, rule in rules.items():
        if key not in tensors:
            continue
        shape = shapes[rule.path]
        expected = shape if rule.layer is None else shape[1:]
        turned = _turn(rule, np.asarray(tensors[key]))
        if turned is None or turned.shape != expected:
            wrong.append(f"{key} {np.shape(tensors[key])} for {'/'.join(rule.path)} {expected}")
        elif rule.layer is None:
            # A copy, so that the variables do not keep the file's bytes alive.
            leaves[rule.path] = np.array(turned, dtype=np.float32, order="C")
        else:
            leaves.setdefault(rule.path, np.zeros(shape, np.float32))[rule.layer] = turned
    refuse(f"the tensors do not fit {name}", {**problems, "of a wrong shape": wrong})
    return unflatten_dict(leaves)


def _turn(rule: Rule, tensor: np.ndarray) -> np.ndarray | None:
    """The turned tensor, or None where it has too few or too many axes to turn."""
    try:
        return rule.turn(tensor)
    except (ValueError, IndexError):
        return None


def _plain(tree: PyTree) -> dict[str, Any]:
    """Nested plain dicts, whatever mapping the template is made of."""
    return {key: _plain(value) if isinstance(value, Mapping) else value for key, value in tree.items()}


def _classes(tensors: Mapping[str, np.ndarray], head: str) -> dict[str, Any]:
    """The head that the tensors have: its number of classes, or none."""
    return {"num_classes": np.shape(tensors[head])[0]} if head in tensors else {"output": "pooled"}


def _family(name: str, tensors: Mapping[str, np.ndarray], template: PyTree | None) -> tuple[KeyMap, PyTree]:
    """The family's key map, and the shapes to meet."""
    size = 64
    if name in text.NAMES:
        model = text.build(name, pooler="pooler.dense.weight" in tensors)
        rules = keys_text.key_map(model, tensors)
    elif name in clip.NAMES:
        model = clip.build(name)
        rules = keys_clip.key_map(model)
    elif name in efficientnet.NAMES:
        head = "_fc.weight" if "_fc.weight" in tensors else "classifier.weight"
        model = efficientnet.build(name, **_classes(tensors, head))
        rules = keys_efficientnet.key_map(model, tensors)
    elif name in resnet.NAMES:
        model = resnet.build(name, **_classes(tensors, "fc.weight"))
        rules = keys_resnet.key_map(model)
    elif name in audio.NAMES:
        model = audio.build(name)
        rules = keys_wav2vec2.key_map(model, tensors)
    elif name in crossvit.NAMES:
        model = crossvit.build(name, num_classes=_classes(tensors, "head.0.weight").get("num_classes", 0))
        rules, size = keys_crossvit.key_map(model, tensors), model.sizes[0][0]
    else:
        model = create(backbone(name), num_classes=_classes(tensors, "head.weight").get("num_classes", 0))
        if not isinstance(model, ViT):
            raise UserError(f"no key map is known for model {name!r}")
        rules, size = keys_vit.key_map(model), model.image_size
    return rules, abstract(model, size) if template is None else template


def abstract(module: Any, size: int = 64) -> PyTree:
    """Shapes of a module's variables for (1, size, size, 3) images, or for texts; nothing is computed."""
    words = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    if isinstance(module, text.TextEncoder):
        return jax.eval_shape(module.init, jax.random.key(0), words)
    if isinstance(module, clip.CLIP):
        image = jax.ShapeDtypeStruct((1, module.image_size, module.image_size, 3), jnp.float32)
        return jax.eval_shape(module.init, jax.random.key(0), image, words)
    if isinstance(module, audio.Wav2Vec2):
        return jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 16_000), jnp.float32))
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), image)
