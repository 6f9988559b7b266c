"""The model of a task on images: its module, initial weights, and the variables that the module does not create itself."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from fusionjax import pretrained
from fusionjax.config import naming_field
from fusionjax.data.image.transforms import channels, image_shape
from fusionjax.data.source import Source
from fusionjax.tasks.base import model_factory
from fusionjax.tasks.base.image_inputs import ImageInputs
from fusionjax.tasks.base.multispectral_inputs import PixelStatistics
from fusionjax.tasks.base.protocol import Batch, Say, TrainingData, Variables, silent
from fusionjax.types import PyTree


class Collection(Protocol):
    """A collection of variables that the module does not create.

    Attributes:
        name: of the collection.
    """

    @property
    def name(self) -> str: ...

    def fresh(self) -> PyTree:
        """Placeholder values; the shapes and dtypes are final."""
        ...

    def from_params(self, params: PyTree) -> PyTree | None:
        """The values computed from pretrained parameters; None where they do not depend on them."""
        ...

    def from_data(self, source: Source, *, steps: int, folder: Path, say: Say) -> PyTree | None:
        """The values computed from the training split and the length of the run; None where they do not depend on them."""
        ...


M = TypeVar("M", bound=nn.Module)


class ReadWeights(Protocol):
    """Reads published weights."""

    def __call__(self, *, shapes_only: bool = False, log: Say = silent) -> PyTree | None:
        """The weights on the host; with `shapes_only` arrays without values (`pretrained.tensors.hollow`); None where none are
        named."""
        ...


PutWeights = Callable[[Variables, PyTree | None, Say], Variables]
"""(fresh variables, weights that were read, log) → variables with these weights in their places."""
Start = Callable[..., Variables]
"""See `TaskModel.start`."""


class Encoder(NamedTuple):
    """Where the published parameters of an encoder come from.

    Attributes:
        field: name of the config field that names them.
        read: gives the parameters, on the host; None where none are named.
        new: patterns of parameters that published weights may lack.
    """

    field: str
    read: ReadWeights
    new: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class ImageModel(Generic[M]):
    """See `protocol.TaskModel`.

    Attributes:
        config: of the whole run, validated.
        module: with `run_trunk` and `pool_trunk` where a trunk's features are cached.
        inputs: of the images.
        arguments: () → arguments of `module.init` other than images and cameras.
        read_weights: reads the weights that `put_weights` puts in; None for those of `config.pretrained`.
        put_weights: puts them in; None for `model_factory.put_weights`.
        encoders: name of a part of the parameters → where its published parameters come from.
        outside: encoders that the run reads but that are no part of the parameters.
        collections: that the module does not create, beside the statistics of multispectral images.
        new_parameters: patterns of parameters that no published weights have.
        frozen, fitted, gradient_norms, grid: see `protocol.TaskModel`.
        starts: computes initial weights from the training data; None where they do not depend on it.
    """

    config: ConfigDict
    module: M
    inputs: ImageInputs
    arguments: Callable[[], dict[str, Any]] = dict
    read_weights: ReadWeights | None = None
    put_weights: PutWeights | None = None
    encoders: Mapping[str, Encoder] = dataclasses.field(default_factory=dict)
    outside: tuple[Encoder, ...] = ()
    collections: tuple[Collection, ...] = ()
    new_parameters: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    fitted: tuple[str, ...] = ()
    gradient_norms: Mapping[str, str] = dataclasses.field(default_factory=dict)
    grid: tuple[int, int] | None = None
    starts: Start | None = None

    @functools.cached_property
    def own_collections(self) -> tuple[Collection, ...]:
        """All that the module does not create."""
        if self.config.data.modalities:
            return (PixelStatistics(self.config), *self.collections)
        return self.collections

    def init_module(self, key: jax.Array) -> Variables:
        """See `TaskModel.init_module`."""
        data = self.config.data
        images = jnp.zeros((1, *image_shape(data), channels(data)), jnp.float32)
        arguments: dict[str, Any] = {**self.inputs.example_arguments(), **self.arguments()}
        return dict(self.module.init({"params": key}, images, **arguments))

    def init(self, key: jax.Array) -> Variables:
        """See `TaskModel.init`."""
        variables = self.init_module(key)
        return {**variables, **{c.name: jax.tree.map(jnp.asarray, c.fresh()) for c in self.own_collections}}

    @property
    def weight_fields(self) -> dict[str, str]:
        """See `TaskModel`."""
        return {name: encoder.field for name, encoder in self.encoders.items()}

    def put_pretrained(
        self,
        variables: Variables,
        weights: PyTree | None = None,
        log: Say = silent,
        *,
        shapes_only: bool = False,
    ) -> Variables:
        """See `TaskModel.put_pretrained`."""
        if weights is None:
            read = self.read_weights or functools.partial(model_factory.read_weights, self.config)
            weights = read(shapes_only=shapes_only, log=log)
        put = self.put_weights or self._put_weights
        found = {**variables, **put(self.of_module(variables), weights, log)}
        for name, encoder in self.encoders.items():
            with naming_field(encoder.field):
                params = encoder.read(shapes_only=shapes_only, log=log)
                if params is not None:
                    old, own = {"params": found["params"]}, {"params": params}
                    merged = pretrained.merge(old, own, into=name, new=encoder.new, log=log)
                    found["params"] = merged["params"]
        for encoder in self.outside if shapes_only else ():
            with naming_field(encoder.field):
                encoder.read(shapes_only=True)
        return found

    def load_pretrained(
        self, variables: Variables, weights: PyTree | None = None, log: Say = silent
    ) -> Variables:
        """See `TaskModel.load_pretrained`."""
        found = self.put_pretrained(variables, weights, log)
        made = {c.name: c.from_params(found["params"]) for c in self.own_collections}
        return found | {name: tree for name, tree in made.items() if tree is not None}

    def fit_to_data(
        self, variables: Variables, source: Source, *, steps: int, folder: Path, say: Say = silent
    ) -> Variables:
        """See `TaskModel.fit_to_data`."""
        made = {
            c.name: c.from_data(source, steps=steps, folder=folder, say=say) for c in self.own_collections
        }
        return {**variables, **{name: tree for name, tree in made.items() if tree is not None}}

    def start(
        self, variables: Variables, data: TrainingData, *, folder: Path | None = None, say: Say = silent
    ) -> Variables:
        """See `TaskModel.start`."""
        return variables if self.starts is None else self.starts(variables, data, folder=folder, say=say)

    def encode(self, variables: Variables, batch: Batch) -> jax.Array:
        """See `TaskModel.encode`."""
        images = self.inputs.arguments(batch, variables)["images"]
        return self._apply(variables, images, method="run_trunk")

    def pool(self, variables: Variables, features: jax.Array) -> jax.Array:
        """See `TaskModel.pool`."""
        return self._apply(variables, features.astype(self.module.dtype), method="pool_trunk")

    def of_module(self, variables: Variables) -> Variables:
        """The collections that the module created."""
        own = {c.name for c in self.own_collections}
        return {name: tree for name, tree in variables.items() if name not in own}

    def train(self, variables: Variables, key: jax.Array, **arguments: Any) -> tuple[Any, Variables]:
        """A forward pass in training mode: ((output, aux), updated collections).

        Args:
            variables: of the run.
            key: of dropout and stochastic depth.
            **arguments: of the module.
        """
        known = self.of_module(variables)
        mutable = [name for name in known if name != "params"]
        return self._apply(known, **arguments, train=True, rngs={"dropout": key}, mutable=mutable)

    def infer(self, variables: Variables, **arguments: Any) -> Any:
        """A forward pass in evaluation mode: (output, aux)."""
        return self._apply(self.of_module(variables), **arguments)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """`module.apply`, whose declared result is a union that depends on its arguments."""
        return self.module.apply(*args, **kwargs)

    def _put_weights(self, variables: Variables, weights: PyTree | None, log: Say) -> Variables:
        return model_factory.put_weights(
            self.config, self.module, variables, weights, log, new=self.new_parameters
        )


def frozen_trunk(config: ConfigDict) -> tuple[str, ...]:
    """Patterns of a trunk, or of lower blocks, that `config.model` freezes."""
    c = config.model
    return ("^trunk/",) if c.frozen_blocks or (c.freeze_trunk and c.trunk) else ()
