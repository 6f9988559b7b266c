"""What each named model is: parameters, multiply-adds, input and where its weights come from; nothing is computed."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.extend.core

from fusionjax.models import registry

# The published counts leave the interpolation of an image out.
_NOT_COUNTED = ("resize_bicubic",)


class Card(NamedTuple):
    """One model.

    Attributes:
        name: as `create` takes it.
        parameters: of the module as it is created by name, with its classes; batch statistics are none.
        gmacs: 1e9 multiply-adds of matrix products and convolutions for one input, in evaluation.
        input: shape of one input.
        weights: a source of published ones, as `config.pretrained.source` takes it; "none" where there are none.
    """

    name: str
    parameters: int
    gmacs: float
    input: tuple[int, ...]
    weights: str


def card(name: str) -> Card:
    """The card of a named model.

    Raises:
        UserError: the name is unknown.
    """
    family = registry.family(name)
    module, published = family.counted(registry.create(name)), family.preprocessing.get(name)
    # Attention counts as the whole map: chunks are padded.
    inputs = family.inputs(module, published.size if published else None)

    def start(key: jax.Array, *inputs: jax.Array) -> Any:
        return module.init_with_output(key, *inputs, capture=family.capture)

    traced, (_, variables) = jax.make_jaxpr(start, return_shape=True)(jax.random.key(0), *inputs)
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    shape, weights = inputs[0].shape[1:], family.weights.get(name, "none")
    return Card(name, parameters, macs(traced.jaxpr) / 1e9, shape, weights)


def macs(jaxpr: jax.extend.core.Jaxpr) -> int:
    """Multiply-adds of the matrix products and convolutions of a program; loops count as often as they run."""
    total = 0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if parameters.get("name") in _NOT_COUNTED:
            continue
        inputs, outputs = _shapes(equation.invars), _shapes(equation.outvars)
        if name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            total += math.prod(outputs[0]) * math.prod(inputs[0][i] for i in contracted)
        elif name == "conv_general_dilated":
            # The kernel's axes: outputs, inputs of a group, space.
            _, *rest = parameters["dimension_numbers"].rhs_spec
            total += math.prod(outputs[0]) * math.prod(inputs[1][i] for i in rest)
        else:
            times = parameters["length"] if name == "scan" else 1
            total += times * sum(macs(inner) for inner in _inner(parameters.values()))
    return total


def table(cards: Iterable[Card]) -> str:
    """Text with one row a card, under a row of titles."""
    rows = [("name", "parameters", "GMACs", "input", "weights")]
    rows += [
        (c.name, f"{c.parameters:,}", f"{c.gmacs:.2f}", "×".join(map(str, c.input)), c.weights) for c in cards
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if 0 < index < 4 else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _shapes(variables: Iterable[Any]) -> list[tuple[int, ...]]:
    """Shapes of those variables of an equation that are arrays."""
    return [v.aval.shape for v in variables if isinstance(v.aval, jax.core.ShapedArray)]


def _inner(values: Iterable[Any]) -> Iterable[Any]:
    """The programs among an equation's parameters."""
    for value in values:
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, jax.extend.core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, jax.extend.core.Jaxpr):
                yield item
