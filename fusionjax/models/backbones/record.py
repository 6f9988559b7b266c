"""The record of a backbone family: all that the rest of the package needs to know about it.

A family is a network with named sizes. Its record defines how to build them, the image preprocessing of their weights, the
parameters without weight decay, the order of the layers, and the mapping of reference tensors. docs/extending.md has an
example.
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
    """Image preprocessing of published weights.

    Attributes:
        size: rows and columns of the input, in pixels.
        mean, std: mean and standard deviation of each channel, for pixel values in 0 … 1.
        interpolation: "bilinear" or "bicubic".
        crop: fraction of the shorter side of the resized image that the centre crop keeps.
        source: where these numbers are published.
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bicubic"
    crop: float = 0.875
    source: str = "timm's pretrained_cfg"


@dataclasses.dataclass(frozen=True)
class Layer:
    """Position of some parameters in the order of layers.

    Attributes:
        pattern: regular expression that matches their whole path, its parts joined by "/".
        index: 0 for the embedding, 1 … L for the blocks, L + 1 for the layers after them.
        stacked: whether the first axis of these parameters is the layer axis of `nn.scan`.
        step: increment of the index along that axis; 0 if all entries belong to one layer.
    """

    pattern: str
    index: int
    stacked: bool = False
    step: int = 1


class LayerOrder(NamedTuple):
    """The layers of a module from input to output; the first rule that matches a path applies.

    Attributes:
        depth: L.
        rules: cover all parameters of the module itself, without `parts` and `below` (`models.parameters`).
    """

    depth: int
    rules: tuple[Layer, ...]

    @property
    def length(self) -> int:
        """Number of steps from output to input: L + 1, or L without an embedding."""
        return self.depth + any(rule.index <= 0 for rule in self.rules)


class Trunk(NamedTuple):
    """A convolutional network that returns feature maps.

    Attributes:
        module: images → (B, h, w, C).
        stride: pixels per cell of the last map.
        neck: if the network is split in two, its upper part, from the map of `module` to the last map; else None.
    """

    module: nn.Module
    stride: int
    neck: nn.Module | None = None


def mean_of_map(module: nn.Module, images: jax.Array, train: bool) -> jax.Array:
    """The mean over the feature map (B, h, w, D) that a network returns: (B, D)."""
    output, _ = module(images, train=train)
    return output.mean((1, 2))


def cells_of_map(module: nn.Module, images: jax.Array, train: bool) -> jax.Array:
    """The cells of the feature map (B, h, w, D) that a network returns: (B, h·w, D)."""
    output, _ = module(images, train=train)
    return output.reshape(len(output), -1, output.shape[-1])


class Encoder(NamedTuple):
    """How a network encodes images without its classifier, for contrastive learning.

    Attributes:
        fields: of the module, to omit the classifier.
        feature: (bound module, images, train) → one feature per image (B, D).
        tokens: (bound module, images, train) → tokens (B, N, D); None for a network with more than one grid of tokens.
    """

    fields: Mapping[str, Any]
    feature: Callable[[Any, jax.Array, bool], jax.Array] = mean_of_map
    tokens: Callable[[Any, jax.Array, bool], jax.Array] | None = cells_of_map


FEATURE_MAP = Encoder({"output": "tokens"})
"""Of a network that returns its feature map."""


class Shown(NamedTuple):
    """A map over the image that explains a prediction, for networks that provide one.

    Attributes:
        capture: names to pass as `capture` to the module.
        weights: (module, aux) → (B, N), one weight per cell of the grid, row by row.
        grid: module → rows and columns of the grid.
        name, text: name and explanation of the map in the report.
    """

    capture: tuple[str, ...]
    weights: Callable[[Any, Mapping[str, Any]], jax.Array]
    grid: Callable[[Any], Grid]
    name: str
    text: str


class Reference(NamedTuple):
    """The tensors of a reference implementation, with the matching module and key map.

    Attributes:
        module: module whose sizes and head match the tensors.
        rules: target parameter of each tensor.
        tensors: the tensors, without prefixes, buffers and heads of other tasks.
    """

    module: nn.Module
    rules: KeyMap
    tensors: Mapping[str, np.ndarray]


def _same(value: T) -> T:
    return value


def _as_they_are(module: nn.Module, weights: Mapping[str, Any]) -> Mapping[str, Any]:
    return weights


def _own_antialias(module: nn.Module) -> bool:
    return getattr(module, "antialias", True)


def _own_grid(module: nn.Module) -> Grid | Sequence[Grid] | None:
    return getattr(module, "grid", None)


@dataclasses.dataclass(frozen=True)
class Family:
    """The record of a backbone family.

    Attributes:
        name: name of the family.
        names: names of its models for `fusionjax.models.create`; those of timm or transformers if they have the model.
        module: class of the network.
        build: (name, **fields of the module) → the module; raises a UserError for invalid fields.
        layers: module → order of its layers.
        inputs: (module, size) → shapes and dtypes of one input; `size` is (rows, columns) for modules that accept any size.
        kind: modality of the input.
        undecayed: patterns of full parameter paths without weight decay, besides biases and the scales of norms.
        heads: patterns of the names of its classifiers, at the top level of the parameters.
        preprocessing: name → preprocessing of its published weights.
        weights: name → source of its published weights, as for `config.pretrained.source`: what configs start from.
        deviating: source → preprocessing, for other published weights of these names that were trained with another one.
        transformer: whether it needs published weights or very many images: without either, the run and its report say so.
        reference: (name, tensors of the reference implementation) → `Reference`.
        unpublished: patterns of parameters that published weights do not have.
        optional: names of reference tensors that published weights may lack; their parameters then stay initialised.
        former: version of fusionjax → name that it used → the name of that network now.
        published: name → name of the model whose published weights it starts from.
        reads: fields of `config.model` that the family uses.
        spared: fields that it does not use but that may be set.
        configure: (config of the run, image_shape=(rows, columns), channels=C) → fields of the module.
        encoder: how it encodes images without its classifier, if it can be an encoder for contrastive learning; else None.
        trunk: (name, features="", cut="", **fields) → `Trunk`, for a convolutional network.
        cuts: values of `cut` that `trunk` accepts, as for `config.model.train_trunk_from`.
        tokens: (name, image_size=…, features=…, dtype=…) → (module that returns (B, h, w, D), its grid), for a transformer.
        embeds: whether its CLS features can be used for re-identification (`methods.reid`).
        shown: a map that explains its predictions, in addition to those of the methods; None if there is none.
        grids: module → rows and columns of its position embeddings, or one pair per branch; None without such embeddings.
        antialias: module → whether its position embeddings are resampled with antialiasing (`pretrained.merge`).
        arrange: (module, variables of the whole network of its name) → the same as this module holds them, if it divides the
            network into parts.
        counted: module → an equivalent module whose multiply-adds `models.cards` counts.
        capture: names that `models.cards` captures, so that attention maps are computed in full.
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
    deviating: Mapping[str, Preprocessing] = dataclasses.field(default_factory=dict)
    transformer: bool = False
    reference: Callable[[str, Mapping[str, np.ndarray]], Reference] | None = None
    unpublished: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    former: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    published: Callable[[str], str] = _same
    reads: tuple[str, ...] = ()
    spared: tuple[str, ...] = ()
    configure: Callable[..., dict[str, Any]] | None = None
    encoder: Encoder | None = None
    trunk: Callable[..., Trunk] | None = None
    cuts: tuple[str, ...] = ()
    tokens: Callable[..., tuple[nn.Module, Grid]] | None = None
    embeds: bool = False
    shown: Shown | None = None
    grids: Callable[[Any], Grid | Sequence[Grid] | None] = _own_grid
    antialias: Callable[[Any], bool] = _own_antialias
    arrange: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]] = _as_they_are
    counted: Callable[[Any], nn.Module] = _same
    capture: tuple[str, ...] = ()


def hub_timm(tags: Mapping[str, str]) -> dict[str, str]:
    """Returns the sources of timm's weights on the hub: name → tag becomes name → "hub:timm/name.tag"."""
    return {name: f"hub:timm/{name}.{tag}" for name, tag in tags.items()}
