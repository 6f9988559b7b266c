"""What tasks on images share: first weights, a frozen trunk's features, normalised inputs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fusionjax.data.image.transforms import channels, image_shape
from fusionjax.data.loading.auxiliary import Extra
from fusionjax.data.loading.stream import Example
from fusionjax.data.source import Source
from fusionjax.evaluation.probe import Baseline
from fusionjax.interpret import maps
from fusionjax.models import parameters
from fusionjax.models.parameters import Parameters
from fusionjax.tasks.base import model_factory, multispectral_inputs
from fusionjax.tasks.base.rgb_inputs import normalise

Array = jax.Array
PyTree = Any
Batch = dict[str, Array]
Outputs = Mapping[str, np.ndarray]


class ImageTask:
    """Builds the model and says how it learns, predicts and is scored. A task fills in `loss`, `predict`, `evaluate`,
    `scalars`, `report` and the attributes.

    Args:
        config: of the whole run, validated.
        class_names: one a class of the training data.
        module: the linen module, with `trunk`, `run_trunk` and `pool_trunk` where a trunk's features are cached.

    Attributes:
        shown: scores of the progress line.
        lower_is_better: scores of which the best is the lowest.
        score_names: names that `scalars` gives, without their split.
        new_parameters: patterns of parameters that no published weights have.
        keep: prefixes of the outputs that `evaluate` needs.
        example_keep: prefixes of `explain`'s outputs that the report's examples need.
        closed_set: test images are of the training classes.
        norms: name → how the names of parameters begin whose gradient's norm is logged by that name.
    """

    shown: tuple[str, ...] = ()
    lower_is_better: tuple[str, ...] = ()
    score_names: tuple[str, ...] = ()
    new_parameters: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    example_keep: tuple[str, ...] = ("rollout", "selected")
    closed_set: bool = True
    norms: Mapping[str, str] = MappingProxyType({})

    def __init__(self, config: ConfigDict, class_names: Sequence[str], module: nn.Module):
        self.config, self.class_names, self.module = config, tuple(class_names), module

    def init(self, key: Array) -> dict[str, PyTree]:
        """Fresh variables; pure, so it can be jitted or given to `eval_shape`."""
        data = self.config.data
        images = jnp.zeros((1, *image_shape(data), channels(data)), jnp.float32)
        extra = {"camera": jnp.zeros((1,), jnp.int32)} if self.config.model.cameras else {}
        variables = self.module.init({"params": key}, images, **extra)
        if data.modalities:
            variables[multispectral_inputs.COLLECTION] = jax.tree.map(
                jnp.asarray, multispectral_inputs.unknown(channels(data))
            )
        return variables

    def measured(
        self,
        variables: dict[str, PyTree],
        source: Source,
        *,
        steps: int,
        folder: Path,
        say: Callable[[str], None] = lambda text: None,
    ) -> dict[str, PyTree]:
        """`variables` with what the training data and the length of the run decide: the range, mean and deviation of channels.

        Args:
            variables: freshly initialised, with pretrained weights.
            source: the training split.
            steps: of the whole run.
            folder: of what is computed once.
            say: takes a line of progress.
        """
        if not self.config.data.modalities:
            return variables
        return {
            **variables,
            multispectral_inputs.COLLECTION: multispectral_inputs.measure(
                self.config, source, folder=folder, say=say
            ),
        }

    def load_pretrained(
        self, variables: dict[str, PyTree], weights: PyTree | None = None, log=lambda text: None
    ) -> dict[str, PyTree]:
        """`variables` with the weights that the config names put in; unchanged where it names none.

        Args:
            variables: freshly initialised.
            weights: of `building.read_weights`; None to read them now.
            log: takes a line for every adaptation.
        """
        if weights is None:
            weights = model_factory.read_weights(self.config)
        model = {name: tree for name, tree in variables.items() if name != multispectral_inputs.COLLECTION}
        filled = model_factory.put_weights(
            self.config, self.module, model, weights, log, new=self.new_parameters
        )
        return {**variables, **filled}

    def encode(self, variables: dict[str, PyTree], batch: Batch) -> Array:
        """The frozen trunk's feature map of a batch of images, (B, h, w, C): what a cache holds."""
        images = self.inputs(batch, variables)["images"]
        return self.module.apply(variables, images, method="run_trunk")

    def pool(self, variables: dict[str, PyTree], features: Array) -> Array:
        """A row a feature map, (B, C): the convolutional network's mean over the grid, for a reference."""
        return self.module.apply(variables, features.astype(self.module.dtype), method="pool_trunk")

    def inputs(
        self, batch: Batch, variables: Mapping[str, PyTree] = MappingProxyType({})
    ) -> dict[str, Array]:
        """What the module takes, from what the host sends; `variables` where images are not RGB."""
        carried = {"camera": batch["camera"]} if self.config.model.cameras else {}
        if "features" in batch:
            return {"features": batch["features"].astype(self.module.dtype), **carried}
        if multispectral_inputs.COLLECTION in variables:
            known = variables[multispectral_inputs.COLLECTION]
            return {
                "images": multispectral_inputs.normalise(
                    known, multispectral_inputs.unit(known, batch["image"])
                ),
                **carried,
            }
        return {"images": normalise(batch["image"], self.config.data.mean, self.config.data.std), **carried}

    def padding(self, sources: Mapping[str, Source]) -> Example:
        """What `extras` adds to the row of an example that is none: names, shapes and dtypes. Args as for `check`."""
        return {}

    def extras(
        self,
        sources: Mapping[str, Source],
        variables: dict[str, PyTree],
        *,
        folder: Path | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> dict[str, Extra]:
        """What travels beside the images of each split; empty where there is nothing.

        Args:
            sources: by name; the one called "train" is drawn from, the others are read as they are.
            variables: the weights that the run begins with; frozen encoders run once, here.
            folder: of what is computed once; None to compute it anew.
            say: takes a line of progress.
        """
        return {}

    def start(
        self,
        variables: dict[str, PyTree],
        feed: Any,
        *,
        folder: Path | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> dict[str, PyTree]:
        """The weights that a run begins with, where they follow from its data; not called when a run goes on.

        Args:
            variables: with pretrained weights, on the host.
            feed: what the run reads, see `feeds`.
            folder, say: as for `extras`.

        Returns:
            Of the same shapes and dtypes as `init` gives, which must be known without the data.
        """
        return variables

    def tables(self, variables: dict[str, PyTree]) -> list[tuple[str, Sequence[str], list[list[Any]]]]:
        """Tables of the report that tell of the weights; see `interpret.report.ReportContent`."""
        return []

    def given(
        self,
        texts: Sequence[str] | None,
        variables: dict[str, PyTree],
        sounds: Sequence[str | Path | None] | None = None,
    ) -> Extra | None:
        """What travels beside images at hand: a text and a sound each; None for a task without any of examples.

        Args:
            texts: one an image, where the task reads one.
            variables: of the model.
            sounds: a file an image, None or "" for no sound; None where there is none at all.

        Raises:
            UserError: a sound that cannot be read.
        """
        return None

    @property
    def reads_text(self) -> bool:
        """Whether an example has a text of its own."""
        return False

    @property
    def reads_sound(self) -> bool:
        """Whether an example may have a sound."""
        return False

    def facts(self) -> dict[str, Any]:
        """What else a run must find unchanged when it goes on; stored beside its config. Called after `check`."""
        return {}

    def warnings(self) -> list[str]:
        """Lines that come before every score."""
        return []

    def explain(self, variables: dict[str, PyTree], batch: Batch) -> dict[str, Array]:
        """As `predict`, with what is shown of a few examples only."""
        return self.predict(variables, batch)

    def explanations(
        self, source: Source, shown: Sequence[tuple[maps.Example, int, Outputs]]
    ) -> dict[str, Any]:
        """Further fields of the report, of the examples that it shows.

        Args:
            source: the split that they are of.
            shown: of each the example, its index in `source`, and its row of `explain`, as far as `example_keep` names it.
        """
        return {}

    def check(self, sources: Mapping[str, Source]) -> None:
        """Raises a UserError where the data cannot be scored.

        Args:
            sources: by split, the training split's under "train".
        """
        multispectral_inputs.check(self.config, sources)

    def references(
        self,
        weights: PyTree | None,
        variables: dict[str, PyTree],
        batches: Callable[[str], Iterable[Any]],
        sources: Mapping[str, Source],
        mesh: Mesh,
    ) -> list[Baseline]:
        """What published weights reach by themselves, measured beside the result where `evaluation.probe` asks for it and no
        trunk's features are cached.

        Args:
            weights: of `building.read_weights`.
            variables: that the run began with.
            batches: split → its batches.
            sources: by split.
            mesh: of the devices.
        """
        return []

    def leave(
        self,
        folder: Path,
        variables: dict[str, PyTree],
        outputs: Mapping[str, Outputs],
        sources: Mapping[str, Source],
    ) -> None:
        """Writes further files of a finished run into its workdir: `folder`. The rest as in `evaluate`."""

    @property
    def frozen(self) -> tuple[str, ...]:
        """Patterns of parameters that must not move, weight decay included."""
        return ("^trunk/",) if self.config.model.freeze_trunk and self.config.model.trunk else ()

    @property
    def parameters(self) -> Parameters:
        """What the records of the model's families tell an optimiser: see `models.parameters`."""
        return parameters.of(self.module)

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the map that `predict` calls "rollout"; None for a model without one."""
        return getattr(self.module, "grid", None)


def average(values: Array, valid: Array) -> clu_metrics.Average:
    """Of the rows whose `valid` is 1."""
    return clu_metrics.Average(
        total=jnp.where(valid > 0, values, 0).sum(dtype=jnp.float32), count=valid.sum()
    )
