"""Looks up models by name in the records of the backbone families (`register.backbones`)."""

import difflib
from collections.abc import Iterator
from typing import Any, cast

import flax.linen as nn
import jax.numpy as jnp

from fusionjax import register
from fusionjax.errors import UserError
from fusionjax.models.backbones.record import Family, Preprocessing, Trunk
from fusionjax.models.layers import DType


def names() -> tuple[str, ...]:
    """Returns all names that `create` accepts, sorted."""
    return tuple(sorted(name for family in _families() for name in family.names))


def find(name: str) -> Family | None:
    """Returns the family of a model name; None if the name is unknown."""
    return next((family for family in _families() if name in family.names), None)


def family(name: str) -> Family:
    """Returns the family of a model name.

    Raises:
        UserError: the name is unknown; the message suggests similar names.
    """
    found = find(name)
    if found is None:
        close = difflib.get_close_matches(name, names(), 3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise UserError(f"model {name!r} is not known; python -m fusionjax.models lists them all.{hint}")
    return found


def family_of(module: nn.Module) -> Family | None:
    """Returns the family of a module, or of its nearest base class that has one; None if there is none."""
    found = {family.module: family for family in _families()}
    return next((found[kind] for kind in type(module).__mro__ if kind in found), None)


def backbone(name: str) -> str:
    """Returns the name of the model whose published weights a model starts from: the plain ViT for DCAL, else itself."""
    found = find(name)
    return found.published(name) if found else name


def unpublished() -> tuple[str, ...]:
    """Returns the patterns of the parameters that published weights do not have, of all families."""
    return tuple(dict.fromkeys(pattern for family in _families() for pattern in family.unpublished))


def renamed(name: str, version: str) -> str:
    """What a model that an earlier version of fusionjax called `name` is called now.

    Args:
        name: of a model, or "".
        version: major.minor of the earlier version, e.g. "0.1".
    """
    found = find(name)
    return found.former.get(version, {}).get(name, name) if found else name


def weights(name: str) -> str:
    """Returns the source of the published weights of a model, as for `config.pretrained.source`.

    Raises:
        UserError: the name is unknown, or the model has no published weights.
    """
    found = family(name).weights.get(name)
    if found is None:
        raise UserError(
            f"model {name!r} has no published weights: name a file of them, or start from scratch with weights=none"
        )
    return found


def preprocessing(name: str, source: str = "") -> Preprocessing:
    """Returns the image preprocessing of published weights of a model.

    Args:
        name: name of the model.
        source: source of the weights; a source that the record does not know has the preprocessing of the name.

    Raises:
        UserError: the name is unknown, or the model has no published weights for images.
    """
    record = family(name)
    found = record.deviating.get(source.split("@")[0], record.preprocessing.get(name))
    if found is None:
        raise UserError(f"model {name!r} has no published preprocessing: set data.mean and data.std")
    return found


def create(name: str, **overrides: Any) -> nn.Module:
    """Builds a model.

    Args:
        name: one of `names()`.
        **overrides: fields of the module, e.g. `num_classes=200, image_size=448, drop_path=0.1`. The `build` of a family may
            accept more, such as the name of a `trunk` for a ViT (`models.backbones.records`).

    Returns:
        A linen module. For an image model, `(output, aux) = module.apply(variables, images)` with images (B, h, w, 3)
        float32, normalised according to `preprocessing`.

    Raises:
        UserError: the name or a field is unknown, or a combination of fields is invalid.
    """
    build = family(name).build
    try:
        return build(name, **overrides)
    except TypeError as e:
        raise UserError(f"model {name}: {e}") from None


def trunk(name: str, *, features: str = "", cut: str = "", **fields: Any) -> Trunk:
    """Builds a convolutional network that returns feature maps; see `Family.trunk`.

    Raises:
        UserError: the name is not that of a convolutional network.
    """
    found = find(name)
    if found is None or found.trunk is None:
        raise UserError(f"model.trunk={name!r} is not known; allowed: {', '.join(_where('trunk'))}")
    return found.trunk(name, features=features, cut=cut, **fields)


def tokens(
    name: str, *, image_size: int | tuple[int, int], features: str = "", dtype: DType = jnp.float32
) -> tuple[nn.Module, tuple[int, int]]:
    """Builds an image model that returns tokens.

    Args:
        name: name of a convolutional network or a transformer.
        image_size: (height, width) of the images, or one number for a square.
        features: feature map of a convolutional network, as for `trunk`.
        dtype: dtype of the computation.

    Returns:
        The module, images → (B, h, w, C), and its grid (h, w).

    Raises:
        UserError: the model cannot return tokens, or does not accept the image size.
    """
    sides = (image_size,) * 2 if isinstance(image_size, int) else tuple(image_size)
    found = find(name)
    if found is not None and found.tokens is not None:
        return found.tokens(name, image_size=sides, features=features, dtype=dtype)
    if found is None or found.trunk is None:
        raise UserError(
            f"model.trunk={name!r} is not known; allowed: {', '.join([*_where('trunk'), *_where('tokens')])}"
        )
    module, stride, _ = found.trunk(name, features=features, dtype=dtype)
    rows, columns = (-(-side // stride) for side in sides)
    return module, (rows, columns)


def _families() -> Iterator[Family]:
    """All records; `register` knows only a part of their type, since it must not import jax."""
    return (cast(Family, record) for _, record in register.backbones.records())


def _where(what: str) -> list[str]:
    """Returns the model names of the families whose record has a value for the field."""
    return sorted(
        name for record in _families() if getattr(record, what) is not None for name in record.names
    )
