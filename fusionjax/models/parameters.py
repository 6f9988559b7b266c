"""What optimisers must know of a model's parameters: which are not decayed, which are stacked, and how far from the output.

It comes from the records of the families and, for modules that put several networks together, from three properties of theirs:

- `parts`: (prefix, module) of networks whose output is the module's, or is read by new layers alone: image and text encoders;
- `below`: (prefix, module) of networks that feed the module's own embedding, from the output down: neck, then trunk;
- `undecayed` and `stacked`: patterns of the module's own parameters.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from fusionjax.models import registry
from fusionjax.models.backbones.record import LayerOrder

NEVER_DECAYED = r"(.*/)?(bias|scale)"
"""Biases and the scales of norms, wherever they are: as timm and DeiT, not decayed."""


class Place(NamedTuple):
    """Where parameters stand in a whole model.

    Attributes:
        pattern: matches their whole path.
        distance: layers from the output: 0 for heads and new layers. Of stacked ones that of the first.
        stacked: the first axis counts blocks.
        step: distance between one block of that axis and the next.
    """

    pattern: re.Pattern[str]
    distance: int
    stacked: bool = False
    step: int = 1


@dataclasses.dataclass(frozen=True)
class Parameters:
    """See the module's text; made by `of`.

    Attributes:
        undecayed: patterns that match the whole path of a parameter.
        places: of a path's the first counts; a path that none matches is a new layer's.
    """

    undecayed: tuple[re.Pattern[str], ...] = ()
    places: tuple[Place, ...] = ()

    def decays(self, name: str) -> bool:
        """Whether weight decay applies to a parameter."""
        return not any(pattern.fullmatch(name) for pattern in self.undecayed)

    def is_stacked(self, name: str) -> bool:
        """Whether the first axis of a parameter counts blocks."""
        place = self._place(name)
        return place is not None and place.stacked

    def distance(self, name: str, shape: tuple[int, ...]) -> int | np.ndarray:
        """Layers from the output, 0 for the head's; of a stack an array that broadcasts against it."""
        place = self._place(name)
        if place is None or not place.stacked:
            return 0 if place is None else place.distance
        return place.distance - place.step * np.arange(shape[0]).reshape(-1, *(1,) * (len(shape) - 1))

    def _place(self, name: str) -> Place | None:
        return next((place for place in self.places if place.pattern.fullmatch(name)), None)


NOTHING_KNOWN = Parameters()
"""Everything decays, nothing is stacked, and there is no order of layers."""


def of(module: nn.Module) -> Parameters:
    """What the records say of a whole model's parameters."""
    undecayed, places = [re.compile(NEVER_DECAYED)], []
    for prefix, one, distance in _walk(module, "", 0):
        start, found = re.escape(prefix), registry.family_of(one)
        patterns = (*(found.undecayed if found else ()), *getattr(one, "undecayed", ()))
        undecayed += [re.compile(f"{start}({pattern})") for pattern in patterns]
        for pattern in getattr(one, "stacked", ()):
            places.append(Place(re.compile(f"{start}({pattern})"), 0, stacked=True, step=0))
        for rule in _order(one).rules:
            down = distance + _order(one).depth + 1 - rule.index
            places.append(Place(re.compile(f"{start}({rule.pattern})"), down, rule.stacked, rule.step))
    return Parameters(tuple(undecayed), tuple(places))


def networks(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(prefix of its parameters' names, module) of a module and of every network that it puts together."""
    for prefix, one, _ in _walk(module, "", 0):
        yield prefix, one


def _walk(module: nn.Module, prefix: str, distance: int) -> Iterator[tuple[str, Any, int]]:
    """(prefix, module, distance of its output from the model's) of a module and all that it is made of."""
    yield prefix, module, distance
    for name, part in getattr(module, "parts", ()):
        if part is not None:
            yield from _walk(part, f"{prefix}{name}/" if name else prefix, distance)
    below = distance + _order(module).length
    for name, part in getattr(module, "below", ()):
        yield from _walk(part, f"{prefix}{name}/" if name else prefix, below)
        below += _order(part).length


def _order(module: nn.Module) -> LayerOrder:
    found = registry.family_of(module)
    return found.layers(module) if found else LayerOrder(0, ())
