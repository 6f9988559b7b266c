"""What tasks on images share of building a model: networks by their name, and published weights."""

import re
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from fusionjax import models, pretrained
from fusionjax.config import impossible, naming_field
from fusionjax.data.image.transforms import channels, image_shape
from fusionjax.errors import UserError
from fusionjax.models import registry
from fusionjax.pretrained.merge import HEAD
from fusionjax.tasks.base.protocol import Say, silent
from fusionjax.types import PyTree


def image_model(config: ConfigDict, num_classes: int) -> nn.Module:
    """The module of `config.model`.

    Args:
        config: of the run, validated.
        num_classes: C of its heads.

    Raises:
        UserError: a name that is not known or not of an image model, or an impossible combination.
    """
    c = config.model
    family = registry.family(c.name)
    if family.configure is None:
        raise impossible(
            config, "model.name", "it has no image classes; python -m fusionjax.models lists the models"
        )
    own = family.configure(config, image_shape=image_shape(config.data), channels=channels(config.data))
    dtype = jnp.dtype(config.precision).type
    return models.create(c.name, **{"num_classes": num_classes, "dtype": dtype, **own})


def image_encoder(config: ConfigDict) -> tuple[nn.Module, tuple[int, int]]:
    """The image encoder of a model that is put together from several, `model.trunk`, and its grid (rows, columns).

    Returns:
        The module, images (B, h, w, 3) → tokens (B, rows, columns, D), and its grid.

    Raises:
        UserError: none is named, it has no tokens, or it does not take the size of the images.
    """
    c = config.model
    if not c.trunk:
        raise impossible(
            config, "model.trunk", "name the image encoder, e.g. resnet50 or vit_base_patch16_224"
        )
    dtype = jnp.dtype(config.precision).type
    return registry.tokens(
        c.trunk, image_size=image_shape(config.data), features=c.trunk_features, dtype=dtype
    )


def read_weights(config: ConfigDict, *, shapes_only: bool = False, log: Say = silent) -> PyTree | None:
    """The variables that `config.pretrained` names, on the host; None where it names none.

    Args:
        config: of the run, validated.
        shapes_only: read no values: see `pretrained.read`.
        log: takes a line for what is chosen or left out.

    Raises:
        UserError: weights that cannot be read, or are not of that model.
    """
    c = config.pretrained
    if not c.source:
        return None
    name = c.name or (config.model.trunk if c.into == "trunk" else registry.backbone(config.model.name))
    with naming_field("pretrained.source"):
        return pretrained.load(c.source, name, shapes_only=shapes_only, log=log)


def put_weights(
    config: ConfigDict,
    module: nn.Module,
    variables: PyTree,
    weights: PyTree | None,
    log: Say,
    *,
    new: Sequence[str] = (),
) -> PyTree:
    """`variables` with pretrained weights put in; unchanged where there are none.

    Args:
        config: of the run, validated.
        module: of `image_model`.
        variables: its, freshly initialised.
        weights: of `read_weights`.
        log: takes a line for every adaptation.
        new: patterns of parameters that no published weights have.

    Raises:
        UserError: weights that do not fit.
    """
    c = config.pretrained
    if weights is None:
        return variables
    if c.into:
        return _merge_trunk(config, module, variables, weights, log)
    family = registry.family(config.model.name)
    new = (*new, *family.unpublished)
    weights = _fitting(weights, variables, (*new, *registry.unpublished()), log)
    if not any(HEAD.fullmatch("/".join(path)) for path in flatten_dict(weights["params"])):
        log("the weights have no head: the model's stays initialised")
        new = (*new, HEAD.pattern)
    network = of_family(module)
    tables: dict[str, Any] = dict(grid=family.grids(network), antialias=family.antialias(network))
    weights = family.arrange(network, weights)
    return pretrained.merge(variables, weights, skip=c.skip, new=new, log=log, **tables)


def of_family(module: nn.Module) -> nn.Module:
    """The network that the record of its family describes: the module, or the part whose parameters keep their names in it."""
    parts: tuple[tuple[str, nn.Module], ...] = getattr(module, "parts", ())
    return next((part for prefix, part in parts if not prefix), module)


def _fitting(weights: PyTree, variables: PyTree, patterns: Sequence[str], log: Say) -> PyTree:
    """The weights without those that no published weights have and that do not fit: an exported run's GLCA in a plain ViT, or
    with other classes."""
    target, left = flatten_dict(variables), []
    kept = {}
    for path, value in flatten_dict(weights).items():
        name = "/".join(path[1:])
        fits = path in target and target[path].shape == value.shape
        if not fits and any(re.fullmatch(pattern, name) for pattern in patterns):
            left.append(name)
        else:
            kept[path] = value
    if left:
        log(f"{', '.join(sorted(left))} of the weights do not fit and are left out")
    return unflatten_dict(kept)


def _merge_trunk(
    config: ConfigDict, module: nn.Module, variables: PyTree, weights: PyTree, log: Say
) -> PyTree:
    """An image network's weights into the model's trunk, and into its neck where that is its upper part.

    Layers above the feature map that `model.trunk_features` names are left out.
    """
    trunk, skip, earlier = getattr(module, "trunk", None), config.pretrained.skip, config.model.trunk_features
    family = None if trunk is None else registry.family_of(trunk)
    tables: dict[str, Any] = (
        {} if family is None else dict(grid=family.grids(trunk), antialias=family.antialias(trunk))
    )
    new = () if family is None else family.unpublished
    parts = [part for part in ("trunk", "neck") if part in variables["params"]]
    owned = {part: set(variables["params"][part]) for part in parts}
    # The classifier, and the last convolution where an earlier map is the token grid, have no place here; all else has.
    lost = set(weights["params"]) - set().union(*owned.values()) - {"head", "head_conv"}
    if lost and earlier:
        log(f"{', '.join(sorted(lost))} of the weights lie above the map {earlier!r} and are left out")
    elif lost:
        raise UserError(f"the weights' {', '.join(sorted(lost))} have no place in the trunk")
    inside = {part: {name: {k: v for k, v in tree.items() if k in owned[part]} for name, tree in weights.items()}
              for part in parts}  # fmt: skip
    for part, own in inside.items():
        others = [leaf for other in parts if other != part for leaf in _paths(inside[other])]
        # A pattern that is met in the other part need not be met in this one.
        mine = [p for p in skip if _meets(p, _paths(own)) or not _meets(p, others)]
        variables = pretrained.merge(variables, own, skip=mine, new=new, into=part, log=log, **tables)
    return variables


def _paths(tree: PyTree) -> list[str]:
    return ["/".join(path[1:]) for path in flatten_dict(tree)]


def _meets(pattern: str, paths: Sequence[str]) -> bool:
    try:
        return any(re.fullmatch(pattern, path) for path in paths)
    except re.error:
        return False  # merge says what is wrong with it
