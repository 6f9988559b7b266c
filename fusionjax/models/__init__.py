"""Linen modules; `(output, aux) = module.apply(variables, inputs, train=…, capture=(…))`."""

from fusionjax.models.registry import create, names

__all__ = ["create", "names"]
