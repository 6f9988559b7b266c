"""Turns a reference implementation's tensors into variables, by the explicit key maps of the families' records."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from fusionjax.errors import UserError
from fusionjax.models import registry
from fusionjax.models.backbones.keys import KeyMap, Rule
from fusionjax.pretrained.report import refuse
from fusionjax.types import PyTree


def convert(name: str, tensors: Mapping[str, np.ndarray], template: PyTree | None = None) -> dict[str, Any]:
    """Variables of a model from the tensors of its reference implementation.

    Every tensor must find its place and every place its tensor, with equal shapes; only BatchNorm's
    `num_batches_tracked` is dropped, and what the family's record leaves out (heads of other tasks, buffers).

    Args:
        name: of the model, as `fusionjax.models.create` takes it; `dcal_` before a ViT's name changes
          nothing.
        tensors: reference name → array: timm's names; for EfficientNet also those of the PyPI packages; for
          ViT and DeiT also transformers'; for text models, CLIP and Wav2Vec2 transformers'.
        template: variables, or their shapes from `jax.eval_shape`, that the result must match; by default the
          model's own, with as many classes as the tensors have and at the image size of its name.

    Returns:
        {"params": …, "batch_stats": …} (the second where the model has one), nested dicts of float32 arrays.

    Raises:
        UserError: the name is unknown, or tensors are missing, left over or of a wrong shape; the message
          names the first eight of each and counts them.
    """
    base = registry.backbone(name)
    family = registry.family(base)
    if family.reference is None:
        raise UserError(f"no key map is known for model {name!r}")
    module, rules, tensors = family.reference(base, tensors)
    return place(name, rules, tensors, abstract(module) if template is None else template)


def place(name: str, rules: KeyMap, tensors: Mapping[str, np.ndarray], template: PyTree) -> dict[str, Any]:
    """`convert`, from a key map and the shapes to meet; `name` is what a message calls the model."""
    shapes = {path: tuple(leaf.shape) for path, leaf in flatten_dict(_plain(template)).items()}
    tensors = {key: value for key, value in tensors.items() if not key.endswith("num_batches_tracked")}
    places = {key: place for key, rule in rules.items() if (place := _place(rule, shapes)) is not None}
    covered: Counter[tuple[str, ...]] = Counter()
    for key, expected in places.items():
        covered[rules[key].path] += math.prod(expected)
    problems = {
        "missing": [key for key in places if key not in tensors],
        "left over": [key for key in tensors if key not in places],
        "without a rule": [
            "/".join(path) for path, shape in shapes.items() if covered[path] != math.prod(shape)
        ],
    }
    leaves: dict[tuple[str, ...], np.ndarray] = {}
    wrong = []
    for key, expected in places.items():
        if key not in tensors:
            continue
        rule = rules[key]
        shape = shapes[rule.path]
        turned = _turn(rule, np.asarray(tensors[key]))
        if turned is None or turned.shape != expected:
            wrong.append(f"{key} {np.shape(tensors[key])} for {'/'.join(rule.path)} {expected}")
        else:
            # Copied into a leaf of its own, so that the variables do not keep the file's bytes alive.
            leaf = leaves.setdefault(rule.path, np.zeros(shape, np.float32))
            leaf[rule.region(shape)] = turned
    strange = not any(key in tensors for key in places)
    refuse(
        f"the tensors do not fit {name}",
        {**problems, "of a wrong shape": wrong},
        "not one name is this model's: the weights are of another" if strange else "",
    )
    return unflatten_dict(leaves)


def _place(rule: Rule, shapes: Mapping[tuple[str, ...], tuple[int, ...]]) -> tuple[int, ...] | None:
    """The shape of the rule's place in its leaf; None where the model has no such leaf or layer."""
    if rule.path not in shapes:
        return None
    shape = shapes[rule.path]
    if rule.layer is not None and not rule.layer < shape[0]:
        return None
    # A view of one number: nothing is allocated.
    return np.shape(np.broadcast_to(np.float32(0), shape)[rule.region(shape)])


def _turn(rule: Rule, tensor: np.ndarray) -> np.ndarray | None:
    """The turned tensor, or None where it has too few or too many axes to turn."""
    try:
        return rule.turn(tensor)
    except (ValueError, IndexError):
        return None


def _plain(tree: PyTree) -> dict[str, Any]:
    """Nested plain dicts, whatever mapping the template is made of."""
    return {key: _plain(value) if isinstance(value, Mapping) else value for key, value in tree.items()}


def abstract(module: nn.Module, size: int | None = None) -> PyTree:
    """Shapes of the variables of a family's module; nothing is computed. `size`: a side of its images, where it takes any."""
    family = registry.family_of(module)
    if family is None:
        raise TypeError(f"no backbone family has the module {type(module).__name__}")
    inputs = family.inputs(module, None if size is None else (size, size))
    return jax.eval_shape(module.init, jax.random.key(0), *inputs)
