"""Models by name: look-ups over the records of the families (`register.backbones`)."""

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
    """Every name that `create` knows, sorted."""
    return tuple(sorted(name for family in _families() for name in family.names))


def find(name: str) -> Family | None:
    """The family of a name; None for an unknown one."""
    return next((family for family in _families() if name in family.names), None)


def family(name: str) -> Family:
    """The family of a name.

    Raises:
        UserError: no family has it; the message names the nearest.
    """
    found = find(name)
    if found is None:
        close = difflib.get_close_matches(name, names(), 3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise UserError(f"model {name!r} is not known; python -m fusionjax.models lists them all.{hint}")
    return found


def family_of(module: nn.Module) -> Family | None:
    """The family whose network a module is; None for a module that is of none. Of a class and its subclass the nearer."""
    found = {family.module: family for family in _families()}
    return next((found[kind] for kind in type(module).__mro__ if kind in found), None)


def backbone(name: str) -> str:
    """The model whose published weights a named one starts from: the plain ViT below a DCAL, else the model itself."""
    found = find(name)
    return found.published(name) if found else name


def preprocessing(name: str) -> Preprocessing:
    """How images are prepared for the published weights of a name.

    Raises:
        UserError: an unknown name, or a model that has no published weights for images.
    """
    found = family(name).preprocessing.get(name)
    if found is None:
        raise UserError(f"model {name!r} has no published preprocessing: set data.mean and data.std")
    return found


def create(name: str, **overrides: Any) -> nn.Module:
    """Builds a model.

    Args:
        name: one of `names()`.
        **overrides: fields of the module, e.g. `num_classes=200, image_size=448, drop_path=0.1`; a family's `build` may know
            more, as a ViT's knows `trunk` (`models.backbones.families`).

    Returns:
        linen module; of an image model `(output, aux) = module.apply(variables, images)`, images (B, h, w, 3) float32,
        normalised as `preprocessing` says.

    Raises:
        UserError: unknown name or field, or a combination that cannot be.
    """
    build = family(name).build
    try:
        return build(name, **overrides)
    except TypeError as e:
        raise UserError(f"model {name}: {e}") from None


def trunk(name: str, *, features: str = "", cut: str = "", **fields: Any) -> Trunk:
    """A convolutional network as a maker of feature maps; see `Family.trunk`.

    Raises:
        UserError: a name that is of none.
    """
    found = find(name)
    if found is None or found.trunk is None:
        raise UserError(f"model.trunk={name!r} is not known; allowed: {', '.join(_where('trunk'))}")
    return found.trunk(name, features=features, cut=cut, **fields)


def tokens(
    name: str, *, image_size: int | tuple[int, int], features: str = "", dtype: DType = jnp.float32
) -> tuple[nn.Module, tuple[int, int]]:
    """An image model as an encoder of tokens: images → (B, h, w, C), and its grid (h, w).

    Args:
        name: of a convolutional network or a transformer.
        image_size: of the images, (height, width) or a side.
        features: a convolutional network's map, as `trunk` takes it.
        dtype: of the computation.

    Raises:
        UserError: a name that is neither, or sizes that do not fit.
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
    """Names of the families whose record has it."""
    return sorted(
        name for record in _families() if getattr(record, what) is not None for name in record.names
    )
