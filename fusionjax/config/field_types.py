"""The types of all fields, and of the elements of tuples, checked before any rule on values."""

import math

from ml_collections import ConfigDict

from fusionjax.config.rules import near, shown
from fusionjax.config.schema import default, examples
from fusionjax.errors import UserError

_LARGEST = 2**63 - 1  # an integer
_SMALLEST, _GREATEST = 2.0**-149, 2.0**128 - 2.0**104  # floats of 32 bits


def check(config: ConfigDict) -> None:
    """Refuses a config that lacks a field, has another one, or has a value that is not of its field's type.

    A field has the type of its default, the elements of a tuple those of its default's or of `schema.examples`; an integer
    stands for a float, and becomes one where it is the whole value. Integers have 64 bits. Floats are finite, also in the 32
    bits of the computation, in which none but 0 may become 0.

    Raises:
        UserError: the first such field, with what is allowed.
    """
    _check(config, default(), examples(), "")


def _check(config: ConfigDict, schema: ConfigDict, models: dict[str, tuple[object, ...]], path: str) -> None:
    for key, value in config.items():
        name = f"{path}{key}"
        if key not in schema:
            raise UserError(
                f"config.{name} is not known{near(str(key), schema)}; allowed: {', '.join(schema)}"
            )
        want = schema[key]
        if isinstance(want, ConfigDict):
            if not isinstance(value, ConfigDict):
                raise UserError(
                    f"config.{name}={shown(value)} must be a section with the fields {', '.join(want)}"
                )
            _check(value, want, models, f"{name}.")
            continue
        model = want or models.get(name) if isinstance(want, tuple) else want
        if isinstance(want, float) and type(value) is int and abs(value) <= _LARGEST:
            config[key] = value = float(value)
        if type(value) is not type(want):
            example = model if model is not None else want
            raise UserError(
                f"config.{name}={shown(value)} must be of type {type(want).__name__}, e.g. {example!r}"
            )
        fault = _fault(value, model)
        if fault:
            raise UserError(f"config.{name}={shown(value)} is not possible: {fault}")
    for key in schema:
        if key not in config:
            raise UserError(f"config.{path}{key} is missing; its default is {schema[key]!r}")


def _fault(value: object, model: object) -> str:
    """What is wrong with a value; "" where it is like `model`, or where there is no model of a tuple's elements."""
    if isinstance(value, tuple):
        if model is None:
            return ""
        for element in value:
            kinds = model if isinstance(model, tuple) else ()
            kind = next((k for k in kinds if _alike(element, k)), None)
            if kind is None:
                return f"{shown(element)} is no possible element, e.g. {model!r}"
            fault = _fault(element, kind)
            if fault:
                return fault
    if isinstance(value, int) and abs(value) > _LARGEST:
        return f"{shown(value)} does not fit into 64 bits"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not a finite number"
    if isinstance(value, float) and value and not _SMALLEST <= abs(value) <= _GREATEST:
        return f"{value} is no number of 32 bits, with which the run computes"
    if isinstance(value, str) and "\0" in value:
        return "a text cannot hold the character NUL"
    return ""


def _alike(value: object, model: object) -> bool:
    return type(value) is type(model) or (isinstance(model, float) and type(value) is int)
