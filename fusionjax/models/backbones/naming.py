"""From a name to a module, where a family is one class with named settings."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import flax.linen as nn

from fusionjax.errors import UserError

Module = TypeVar("Module", bound=nn.Module)


def builder(module: type[Module], settings: Mapping[str, Mapping[str, Any]]) -> Callable[..., Module]:
    """A family's `build`.

    Args:
        module: class of the network.
        settings: name → fields of the class.

    Returns:
        (name, **overrides) → the module with the fields of that name, overridden; raises a UserError for an unknown name.
    """

    def build(name: str, **overrides: Any) -> Module:
        if name not in settings:
            raise UserError(f"model {name!r} is not one of {', '.join(settings)}")
        return module(**{**settings[name], **overrides})

    return build
