"""Turns a reference implementation's tensors into variables, by the explicit key maps of the families' records."""

import functools
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from fusionjax.errors import UserError
from fusionjax.models import registry
from fusionjax.models.backbones.keys import KeyMap, Rule
from fusionjax.models.backbones.record import Reference
from fusionjax.pretrained import parts
from fusionjax.pretrained.positions import POSITIONS
from fusionjax.pretrained.report import refuse
from fusionjax.pretrained.tensors import FLOATS, hollow
from fusionjax.types import PyTree

logger = logging.getLogger(__name__)


def convert(
    name: str,
    tensors: Mapping[str, np.ndarray],
    template: PyTree | None = None,
    *,
    shapes_only: bool = False,
    log: parts.Log = logger.info,
) -> dict[str, Any]:
    """Variables of a model from the tensors of its reference implementation.

    Every tensor must find its place and every place its tensor, with equal shapes; only BatchNorm's
    `num_batches_tracked` is dropped, and what the family's record leaves out (heads of other tasks, buffers). A prefix that
    all names share, such as "module.", is removed. Without a template, position embeddings keep their own number of cells,
    which `merge` resamples, and tensors that published weights may lack (`Family.optional`) leave their parameters out.

    Args:
        name: of the model, as `fusionjax.models.create` takes it; `dcal_` before a ViT's name changes
          nothing.
        tensors: reference name → array: timm's names; for EfficientNet also those of the PyPI packages; for
          ViT and DeiT also transformers'; for text models, CLIP and Wav2Vec2 transformers'.
        template: variables, or their shapes from `jax.eval_shape`, that the result must match; by default the
          model's own, with as many classes as the tensors have and at the image size of its name.
        shapes_only: the tensors have no values (`tensors.hollow`), and neither has the result.
        log: receives a line for a prefix that is removed, and for a parameter that is left out.

    Returns:
        {"params": …, "batch_stats": …} (the second where the model has one), nested dicts of float32 arrays.

    Raises:
        UserError: the name is unknown, or tensors are missing, left over, of a wrong shape, of another dtype than
          floating-point numbers, or not finite; the message names the first eight of each and counts them.
    """
    base = registry.backbone(name)
    family = registry.family(base)
    if family.reference is None:
        raise UserError(f"no key map is known for model {name!r}")
    module, rules, tensors = fitting(functools.partial(family.reference, base), tensors, log)
    shapes, without = abstract(module) if template is None else template, set[str]()
    if template is None:
        shapes = _with_positions(_plain(shapes), rules, tensors) if family.kind == "image" else shapes
        without = {key for key in family.optional if key in rules and key not in tensors}
        shapes = _without(_plain(shapes), {rules[key].path for key in without})
    for key in sorted(without):
        log(f"the weights have no {key}: {'/'.join(rules[key].path[1:])} stays initialised")
    rules = {key: rule for key, rule in rules.items() if key not in without}
    return place(name, rules, tensors, shapes, shapes_only=shapes_only)


def fitting(
    reference: Callable[[Mapping[str, np.ndarray]], Reference],
    tensors: Mapping[str, np.ndarray],
    log: parts.Log,
) -> Reference:
    """The reference's module and key map for tensors, without a prefix that all their names share if they fit better so.

    Args:
        reference: tensors → module, key map and cleaned tensors.
        tensors: as they are in the file.
        log: receives a line where a prefix is removed.
    """
    found, prefix = reference(tensors), parts.shared_prefix(tensors)
    if not prefix:
        return found
    bare = reference(parts.without(prefix, tensors))
    if _fits(bare) <= _fits(found):
        return found
    inside = [name for name in tensors if name.startswith(prefix)]
    log(f"the prefix {prefix} is removed from {len(inside)} of {len(tensors)} names")
    # What stands beside the backbone is a head; one that the model does not know is of another task.
    beside = set(bare.tensors) - {name.removeprefix(prefix) for name in inside} - set(bare.rules)
    if beside:
        log(f"{len(beside)} tensors beside it are ignored: {', '.join(sorted(beside)[:4])}")
    return bare._replace(tensors={name: t for name, t in bare.tensors.items() if name not in beside})


def _fits(found: Reference) -> int:
    return sum(key in found.tensors for key in found.rules)


def _with_positions(
    shapes: dict[str, Any], rules: KeyMap, tensors: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """The shapes, with as many cells in tables of position embeddings as the tensors have."""
    flat = flatten_dict(shapes)
    for key, rule in rules.items():
        if key in tensors and rule.path in flat and POSITIONS.fullmatch("/".join(rule.path[1:])):
            turned, old = _turn(rule, tensors[key]), flat[rule.path].shape
            if turned is not None and turned.ndim == len(old) and turned.shape[::2] == old[::2]:
                flat[rule.path] = hollow(turned.shape)
    return unflatten_dict(flat)


def _without(shapes: dict[str, Any], paths: set[tuple[str, ...]]) -> dict[str, Any]:
    return unflatten_dict({path: leaf for path, leaf in flatten_dict(shapes).items() if path not in paths})


def place(
    name: str,
    rules: KeyMap,
    tensors: Mapping[str, np.ndarray],
    template: PyTree,
    *,
    shapes_only: bool = False,
) -> dict[str, Any]:
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
    wrong, dtypes, broken = [], [], []
    for key, expected in places.items():
        if key not in tensors:
            continue
        rule, tensor = rules[key], np.asarray(tensors[key])
        shape = shapes[rule.path]
        turned = _turn(rule, tensor)
        if turned is None or turned.shape != expected:
            wrong.append(f"{key} {tensor.shape} for {'/'.join(rule.path)} {expected}")
        elif tensor.dtype not in FLOATS:
            dtypes.append(f"{key} {tensor.dtype}")
        elif shapes_only:
            leaves[rule.path] = hollow(shape)
        else:
            # Copied into a leaf of its own, so that the variables do not keep the file's bytes alive.
            leaf = leaves.setdefault(rule.path, np.zeros(shape, np.float32))
            with np.errstate(over="ignore"):
                leaf[rule.region(shape)] = turned
            if not np.isfinite(leaf[rule.region(shape)]).all():
                broken.append(key)
    strange = not any(key in tensors for key in places)
    refuse(
        f"the tensors do not fit {name}",
        {**problems, "of a wrong shape": wrong, "of no floating-point dtype": dtypes, "not finite": broken},
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
