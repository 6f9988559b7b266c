"""The table of models: parameters, multiply-adds, input shape and source of weights, computed by tracing only."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.extend.core

from fusionjax.models import registry

# Published counts do not include image interpolation.
_NOT_COUNTED = ("resize_bicubic",)


class Card(NamedTuple):
    """One row of the table of models.

    Attributes:
        name: name of the model, as for `create`.
        parameters: number of parameters of the module with its default classes, without batch statistics.
        gmacs: multiply-adds of matrix products and convolutions for one input in evaluation mode, in units of 1e9.
        input: shape of one input.
        weights: source of published weights, as for `config.pretrained.source`; "none" if there are none.
    """

    name: str
    parameters: int
    gmacs: float
    input: tuple[int, ...]
    weights: str


def card(name: str) -> Card:
    """Returns the card of a model.

    Raises:
        UserError: the name is unknown.
    """
    family = registry.family(name)
    module, published = family.counted(registry.create(name)), family.preprocessing.get(name)
    # Full attention maps are counted, since chunked attention has padding.
    inputs = family.inputs(module, published.size if published else None)

    def start(key: jax.Array, *inputs: jax.Array) -> Any:
        return module.init_with_output(key, *inputs, capture=family.capture)

    traced, (_, variables) = jax.make_jaxpr(start, return_shape=True)(jax.random.key(0), *inputs)
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    shape, weights = inputs[0].shape[1:], family.weights.get(name, "none")
    return Card(name, parameters, macs(traced.jaxpr) / 1e9, shape, weights)


def macs(jaxpr: jax.extend.core.Jaxpr) -> int:
    """Counts the multiply-adds of matrix products and convolutions in a jaxpr; a scan's body counts once per iteration."""
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
            # Axes of the kernel: outputs, inputs of a group, spatial axes.
            _, *rest = parameters["dimension_numbers"].rhs_spec
            total += math.prod(outputs[0]) * math.prod(inputs[1][i] for i in rest)
        else:
            times = parameters["length"] if name == "scan" else 1
            total += times * sum(macs(inner) for inner in _inner(parameters.values()))
    return total


def table(cards: Iterable[Card]) -> str:
    """Formats cards as a text table, one row per card after a header."""
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
    """Returns the shapes of the variables that are arrays."""
    return [v.aval.shape for v in variables if isinstance(v.aval, jax.core.ShapedArray)]


def _inner(values: Iterable[Any]) -> Iterable[Any]:
    """Yields the jaxprs among the parameters of an equation."""
    for value in values:
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, jax.extend.core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, jax.extend.core.Jaxpr):
                yield item
