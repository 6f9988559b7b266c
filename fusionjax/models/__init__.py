"""Linen modules; `(output, aux) = module.apply(variables, inputs, train=…, capture=(…))`.

`create` and `names` are those of `fusionjax.models.registry`, imported when they are first asked for: the list of commands
needs this package, not JAX.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusionjax.models.registry import create, names

__all__ = ["create", "names"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'fusionjax.models' has no attribute {name!r}")
    from fusionjax.models import registry

    return getattr(registry, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
