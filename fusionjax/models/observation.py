"""Attention maps and tokens of a forward pass, whatever the model, and gradients with respect to the maps.

A module that attends asks `observer(self)` for a function and applies it to every map that it computes. It does nothing unless
the caller of `module.apply` asks for the maps, by making their collection mutable:

    (output, aux), seen = module.apply(variables, images, mutable=[MAPS, TOKENS])

`seen[MAPS]` then holds each map at the path of its module, stacked over the layers of a scan. What the collection `OFFSETS`
holds at the same path is added to the map before it weights the values: the gradient with respect to offsets of zero is the
gradient with respect to the map. Nothing of this exists when parameters are initialised or trained.

`streams` says what the axes of each map are; a module lists its own in a property `streams`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax

from fusionjax.types import Array

MAPS, OFFSETS, TOKENS = "observed_maps", "map_offsets", "observed_tokens"
"""Collections: attention maps, what is added to them, and tokens."""
LAYERED: Any = {MAPS: 0, OFFSETS: 0, TOKENS: 0}
"""For `variable_axes` of a scan over layers."""


@runtime_checkable
class See(Protocol):
    """Takes a map (B, H, N, M), and its name if it is not that of `observer`; returns the map to use in its place."""

    def __call__(self, weights: Array, name: str = ...) -> Array: ...


def observed(module: nn.Module) -> bool:
    """Whether the caller of `apply` asks for the maps."""
    return module.is_mutable_collection(MAPS) and not module.is_initializing()


def observer(module: nn.Module, name: str = "attention") -> See | None:
    """What a bound module applies to its attention map of this name; None if nobody asks for maps."""
    if not observed(module):
        return None

    def see(weights: Array, name: str = name) -> Array:
        _put(module, MAPS, name, weights)
        if module.has_variable(OFFSETS, name):
            weights = weights + module.get_variable(OFFSETS, name)
        return weights

    return see


def observe_tokens(module: nn.Module, tokens: Array) -> None:
    """Makes the tokens (B, N, D) that a bound module returns visible, if somebody asks for them."""
    if module.is_mutable_collection(TOKENS) and not module.is_initializing():
        _put(module, TOKENS, "tokens", tokens)


def stop_gradient(module: nn.Module, x: Array) -> Array:
    """The output x of a frozen network without a gradient in training; with it if the network's maps are observed."""
    return x if observed(module) else jax.lax.stop_gradient(x)


def _put(module: nn.Module, collection: str, name: str, value: Array) -> None:
    module.sow(collection, name, value, reduce_fn=lambda _, new: new, init_fn=lambda: None)


class Axis(NamedTuple):
    """The tokens of one axis of a map.

    Attributes:
        kind: "image", "text" or "audio"; "cls", a class token alone; "selected", the class token and the patches that GLCA
            selects; "pair", the tokens of an image and then those of its partner.
        grid: rows and columns of the patches; None for other tokens.
        prefix: number of tokens before the first patch, such as the class token.
        cls: whether the layers above read the first token alone, as the whole.
        branch: of a model with several sequences of tokens of one kind.
    """

    kind: str
    grid: tuple[int, int] | None = None
    prefix: int = 0
    cls: bool = False
    branch: str = ""


class Stream(NamedTuple):
    """The attention maps of layers that follow each other.

    Attributes:
        name: e.g. "sa" or "image_to_text"; with the prefix of its network, e.g. "text/sa".
        queries, keys: the axes of a map.
        parallel: whether cross-attention reads the tokens from before the streams beside it; else the streams follow each
            other.
        groups: names of the inputs of an example, where a network runs once for a batch in which they follow each other.
    """

    name: str
    queries: Axis
    keys: Axis
    groups: tuple[str, ...] = ()
    parallel: bool = False


Streams = Mapping[str, Stream]
"""Path of a map, its parts joined by "/" → its stream. Paths of one stream are in the order of its layers."""


def self_attention(path: str, axis: Axis, name: str = "sa") -> dict[str, Stream]:
    """The streams of a network whose only attention is between its own tokens."""
    return {path: Stream(name, axis, axis)}
