"""From a name to a module: unknown names and fields are refused, a family of named settings is built."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

import flax.linen as nn

from fusionjax.errors import UserError

Module = TypeVar("Module", bound=nn.Module)


def fields_of(*classes: type) -> set[str]:
    """The names of the fields of modules or dataclasses that a caller may set."""
    return {field.name for one in classes for field in dataclasses.fields(one)} - {"parent", "name"}


def check_fields(name: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raises a UserError that names the first field a model has not; `name` is the model's in the message."""
    for key in given:
        if key not in known:
            raise UserError(f"model {name} has no field {key!r}; it has {', '.join(sorted(known))}")


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
        fields = {**settings[name], **overrides}
        check_fields(name, fields, fields_of(module))
        return module(**fields)

    return build
