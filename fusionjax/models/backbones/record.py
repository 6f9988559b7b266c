"""A backbone family's record: all that the rest of the program knows of it, in one place.

A family is a network with named sizes. Its record says how to build them, how their weights were trained to see images, which
parameters are not decayed, in which order its layers stand, and where reference tensors go.
docs/extending.md shows a whole one.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import flax.linen as nn
import jax
import numpy as np

from fusionjax.models.backbones.keys import KeyMap

Grid = tuple[int, int]
T = TypeVar("T")

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


class Preprocessing(NamedTuple):
    """How images are prepared for published weights.

    Attributes:
        size: rows and columns of the input, in pixels.
        mean, std: of the pixels on the scale 0 … 1, a channel each.
        interpolation: "bilinear" or "bicubic".
        crop: share of the resized image's shorter side that the centre crop keeps.
        source: who publishes these numbers.
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bicubic"
    crop: float = 0.875
    source: str = "timm's pretrained_cfg"


@dataclasses.dataclass(frozen=True)
class Layer:
    """Where some parameters stand in the order of layers.

    Attributes:
        pattern: regular expression that matches their whole path, its parts joined by "/".
        index: 0 for the embedding, 1 … L for the blocks, L + 1 for what comes after them.
        stacked: the first axis of these parameters counts blocks, as `nn.scan` leaves them.
        step: from one entry of that axis to the next; 0 where all belong to one layer.
    """

    pattern: str
    index: int
    stacked: bool = False
    step: int = 1


class LayerOrder(NamedTuple):
    """The layers of a module from its input to its output; of a path's rules the first counts.

    Attributes:
        depth: L.
        rules: they cover every parameter of the module itself, without `parts` and `below` (`models.parameters`).
    """

    depth: int
    rules: tuple[Layer, ...]

    @property
    def length(self) -> int:
        """Steps from the output down to the input: L + 1, or L where there is no embedding."""
        return self.depth + any(rule.index <= 0 for rule in self.rules)


class Trunk(NamedTuple):
    """A convolutional network as a maker of feature maps.

    Attributes:
        module: images → (B, h, w, C).
        stride: pixels per cell of the last map.
        neck: the upper part where the network is cut in two, from the module's map to the last one; else None.
    """

    module: nn.Module
    stride: int
    neck: nn.Module | None = None


class Shown(NamedTuple):
    """A map over an image that explains a prediction, where the network has one of its own.

    Attributes:
        capture: what the module must capture for it.
        weights: (module, aux) → (B, N), a weight for each cell of the grid, row by row.
        grid: module → rows and columns.
        name, text: what it is, for the report.
    """

    capture: tuple[str, ...]
    weights: Callable[[Any, Mapping[str, Any]], jax.Array]
    grid: Callable[[Any], Grid]
    name: str
    text: str


class Reference(NamedTuple):
    """A reference implementation's tensors, understood.

    Attributes:
        module: with the sizes and the head that the tensors have.
        rules: where each tensor goes.
        tensors: without prefixes, buffers and heads of other tasks.
    """

    module: nn.Module
    rules: KeyMap
    tensors: Mapping[str, np.ndarray]


def _same(value: T) -> T:
    return value


def _own_grid(module: nn.Module) -> Grid | Sequence[Grid] | None:
    return getattr(module, "grid", None)


@dataclasses.dataclass(frozen=True)
class Family:
    """What the program knows of a family.

    Attributes:
        name: of the family.
        names: of its models, as `fusionjax.models.create` takes them: timm's or transformers' where they have the model.
        module: class of its network.
        build: (name, **fields of the module) → the module; raises a UserError for what cannot be.
        layers: module → the order of its layers.
        inputs: (module, size) → shapes and dtypes of one input; `size` is rows and columns of an image, for modules that
            take any.
        kind: what it reads.
        undecayed: patterns of whole paths that weight decay spares, beside biases and the scales of norms.
        heads: patterns of the names of its classifiers, parameters at the top.
        preprocessing: by name.
        weights: by name a source of published weights, as `config.pretrained.source` takes it.
        reference: (name, tensors of the reference implementation) → `Reference`.
        unpublished: patterns of parameters that no published weights have.
        published: name → the name of the model whose published weights it starts from.
        reads: fields of `config.model` that it reads.
        spared: fields that it does not read, and that may be set all the same.
        configure: (config of the run, image_shape=(rows, columns), channels=C) → fields of the module.
        headless: fields that leave its classifier out, where it can be an encoder of contrastive learning; else None.
        trunk: (name, features="", cut="", **fields) → `Trunk`, of a convolutional network.
        cuts: values of `cut` that `trunk` takes, as `config.model.train_trunk_from`.
        tokens: (name, image_size=…, features=…, dtype=…) → (module that gives (B, h, w, D), its grid), of a transformer.
        one_map: it has one grid of tokens.
        embeds: its CLS features can be those of re-identification (`methods.reid`).
        shown: the map that explains its predictions, beside those of the methods; None where it has none.
        grids: module → rows and columns of its position tables, or one pair a branch; None where it has none.
        counted: module → the same as `models.cards` counts its multiply-adds.
        capture: what `models.cards` asks for, so that attention is computed whole.
    """

    name: str
    names: tuple[str, ...]
    module: type[nn.Module]
    build: Callable[..., nn.Module]
    layers: Callable[[Any], LayerOrder]
    inputs: Callable[[Any, tuple[int, int] | None], tuple[jax.ShapeDtypeStruct, ...]]
    kind: Literal["image", "text", "audio", "image_text"] = "image"
    undecayed: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    preprocessing: Mapping[str, Preprocessing] = dataclasses.field(default_factory=dict)
    weights: Mapping[str, str] = dataclasses.field(default_factory=dict)
    reference: Callable[[str, Mapping[str, np.ndarray]], Reference] | None = None
    unpublished: tuple[str, ...] = ()
    published: Callable[[str], str] = _same
    reads: tuple[str, ...] = ()
    spared: tuple[str, ...] = ()
    configure: Callable[..., dict[str, Any]] | None = None
    headless: Mapping[str, Any] | None = None
    trunk: Callable[..., Trunk] | None = None
    cuts: tuple[str, ...] = ()
    tokens: Callable[..., tuple[nn.Module, Grid]] | None = None
    one_map: bool = True
    embeds: bool = False
    shown: Shown | None = None
    grids: Callable[[Any], Grid | Sequence[Grid] | None] = _own_grid
    counted: Callable[[Any], nn.Module] = _same
    capture: tuple[str, ...] = ()


def hub_timm(tags: Mapping[str, str]) -> dict[str, str]:
    """Sources of timm's weights on the hub: name → tag becomes name → "hub:timm/name.tag"."""
    return {name: f"hub:timm/{name}.{tag}" for name, tag in tags.items()}
