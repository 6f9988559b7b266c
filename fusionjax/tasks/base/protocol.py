"""What a task is: five parts, composed once from the config and the facts of the data, and immutable afterwards.

The rest of the program (`fusionjax.experiment`) asks for no more than what stands here. Parts that tasks share are in this
package; a task picks them, or brings its own with the same methods.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import flax.linen as nn
import jax
import numpy as np
from clu import metrics as clu_metrics
from ml_collections import ConfigDict

from fusionjax.data.feature_cache.store import CachedFeatures
from fusionjax.data.loading.auxiliary import Auxiliary
from fusionjax.data.loading.stream import Example
from fusionjax.data.source import Source
from fusionjax.evaluation.probe import Baseline
from fusionjax.interpret import maps
from fusionjax.tasks.base.baselines import PooledFeatures, Untrained
from fusionjax.types import PyTree

Variables = dict[str, PyTree]
"""Collection → tree: "params", "batch_stats" and what else a model has."""
Batch = dict[str, jax.Array]
"""On the device; `fusionjax.types` lists the keys."""
Outputs = Mapping[str, np.ndarray]
"""Name → (N, …) over a whole split, with "label", "valid" and "index"."""
Results = Mapping[str, Any]
"""Split, as it is reported → the task's result of it."""
ReportFields = dict[str, Any]
"""Fields of `interpret.report.ReportContent`; the lists of several sections are joined."""
LossOutput = tuple[jax.Array, tuple[dict[str, clu_metrics.Average], Variables]]
"""What an `Objective` returns: loss, (metrics by name, updated collections)."""
Say = Callable[[str], None]
"""Takes a line of progress."""
Shown = tuple[maps.Example, int, Outputs]
"""An example of the report, its index in the source, and its row of the outputs that `Explanation.outputs` names."""


def silent(text: str) -> None:
    """A `Say` that says nothing."""


@dataclasses.dataclass(frozen=True, eq=False)
class Facts:
    """The data that a task is built for.

    Attributes:
        class_names: one name per class; its position is the label.
        train: the training split; None where a trained run is opened for inference.
        evaluation: source by split; empty at inference.
    """

    class_names: tuple[str, ...]
    train: Source | None = None
    evaluation: Mapping[str, Source] = dataclasses.field(default_factory=dict)

    @property
    def splits(self) -> dict[str, Source]:
        """Every split by the name that it has among the inputs of a run: "train", and "eval/<split>"."""
        train = {} if self.train is None else {"train": self.train}
        return train | {f"eval/{name}": source for name, source in self.evaluation.items()}

    def training(self) -> Source:
        """The training split; a ValueError where the task was built for inference."""
        if self.train is None:
            raise ValueError("this task was built for inference: it has no training split")
        return self.train


class TrainingData(Protocol):
    """The training data from which some models compute their initial weights; see `experiment.input_pipeline`.

    Attributes:
        cached: features of a frozen trunk by split ("train", "eval/<split>"); empty where images are read.
    """

    @property
    def cached(self) -> Mapping[str, CachedFeatures]: ...


class TaskModel(Protocol):
    """The module and its weights, before training.

    Attributes:
        module: linen; `(output, aux) = module.apply(variables, …, train=…, capture=(…))`.
        frozen: patterns of parameters that must not move, weight decay included. They need pretrained weights.
        fitted: patterns of frozen parameters that `start` computes from the training data, so that they need none.
        weight_fields: name of a part of the parameters → config field of its weights; pretrained.source for all others.
        gradient_norms: name → prefix of parameter names whose gradient's norm is logged under that name.
        grid: rows and columns of the map that the predictions call "rollout"; None for a model without one.
    """

    @property
    def module(self) -> nn.Module: ...

    @property
    def frozen(self) -> tuple[str, ...]: ...

    @property
    def fitted(self) -> tuple[str, ...]: ...

    @property
    def weight_fields(self) -> Mapping[str, str]: ...

    @property
    def gradient_norms(self) -> Mapping[str, str]: ...

    @property
    def grid(self) -> tuple[int, int] | None: ...

    def init_module(self, key: jax.Array) -> Variables:
        """Fresh variables of the module alone, which need neither data nor texts. Pure, as `init`."""
        ...

    def init(self, key: jax.Array) -> Variables:
        """Fresh variables. Pure, so it can be jitted or given to `jax.eval_shape`."""
        ...

    def put_pretrained(
        self,
        variables: Variables,
        weights: PyTree | None = None,
        log: Say = silent,
        *,
        shapes_only: bool = False,
    ) -> Variables:
        """`variables` with the published weights that the config names put in, without collections that depend on them.

        Args:
            variables: freshly initialised, on the host, or their shapes; leaves without weights stay the same objects.
            weights: of `model_factory.read_weights`; None to read them now.
            log: takes a line for every adaptation.
            shapes_only: read only shapes and dtypes, of every weight that a run reads; the result has no values.

        Raises:
            UserError: weights that cannot be read or do not fit.
        """
        ...

    def load_pretrained(
        self, variables: Variables, weights: PyTree | None = None, log: Say = silent
    ) -> Variables:
        """As `put_pretrained`, with the collections that are computed from pretrained parameters."""
        ...

    def fit_to_data(
        self, variables: Variables, source: Source, *, steps: int, folder: Path, say: Say = silent
    ) -> Variables:
        """`variables` with the collections that depend on the training data or the length of the run, e.g. channel statistics.

        Args:
            variables: with pretrained weights.
            source: the training split.
            steps: of the whole run.
            folder: cache folder.
            say: takes a line of progress.
        """
        ...

    def start(
        self, variables: Variables, data: TrainingData, *, folder: Path | None = None, say: Say = silent
    ) -> Variables:
        """The initial weights, where they are computed from the training data, with the shapes and dtypes of `init`.

        Not called when a run resumes.
        """
        ...

    def encode(self, variables: Variables, batch: Batch) -> jax.Array:
        """The frozen trunk's feature map of a batch of images, (B, h, w, C): what a feature cache holds."""
        ...

    def pool(self, variables: Variables, features: jax.Array) -> jax.Array:
        """One row per feature map, (B, C): the trunk's own pooled feature, for a reference."""
        ...


class Inputs(Protocol):
    """The auxiliary inputs beside the images, on the host, and the module's arguments, on the device.

    Attributes:
        reads_text: whether each example has its own text.
        reads_sound: whether the model has an audio input.
    """

    @property
    def reads_text(self) -> bool: ...

    @property
    def reads_sound(self) -> bool: ...

    def padding_example(self) -> Example:
        """What `prepare` adds to a padding example: names, shapes and dtypes."""
        ...

    def prepare(
        self,
        split: str,
        source: Source,
        variables: Variables,
        *,
        folder: Path | None = None,
        say: Say = silent,
    ) -> Auxiliary | None:
        """The auxiliary inputs of a split; None where the model reads images alone.

        Args:
            split: its name among `Facts.splits`, or any other.
            source: the split.
            variables: the initial weights; frozen encoders run once, here.
            folder: cache folder; None to compute without a cache.
            say: takes a line of progress.
        """
        ...

    def from_user(
        self,
        variables: Variables,
        *,
        texts: Sequence[str] | None = None,
        sounds: Sequence[str | Path | None] | None = None,
    ) -> Auxiliary | None:
        """The auxiliary inputs of a user's images at inference; None where the model reads images alone.

        Args:
            variables: of the model.
            texts: one per image, where the task reads one.
            sounds: one file per image, None or "" for no sound; None where there is none at all.

        Raises:
            UserError: a sound that cannot be read.
        """
        ...

    def arguments(self, batch: Batch, variables: Variables) -> dict[str, Any]:
        """The module's arguments from a batch on the device. Pure."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """What else must be unchanged when a run resumes; stored beside its config."""
        ...

    def warnings(self) -> list[str]:
        """Warnings that are shown before the scores."""
        ...


class Objective(Protocol):
    """The loss."""

    def __call__(self, variables: Variables, batch: Batch, key: jax.Array, *, groups: int) -> LossOutput:
        """Loss, metrics and updated collections of one (micro-)batch. Pure.

        Args:
            variables: of the model.
            batch: with "label" and "valid".
            key: for dropout, stochastic depth, pairing and augmentation.
            groups: of the batch, within which images may be paired or mixed: a device's share each.
        """
        ...


class Scorer(Protocol):
    """Predictions and their evaluation.

    Attributes:
        shown: scores of the progress line.
        lower_is_better: scores of which the best is the lowest.
        score_names: names that `scalars` gives, without their split.
        output_names: prefixes of the predictions that `evaluate` needs.
        closed_set: test images are of the training classes.
        reads_training: `evaluate` compares with a baseline of the training split, which re-evaluation then opens too.
    """

    @property
    def shown(self) -> tuple[str, ...]: ...

    @property
    def lower_is_better(self) -> tuple[str, ...]: ...

    @property
    def score_names(self) -> tuple[str, ...]: ...

    @property
    def output_names(self) -> tuple[str, ...]: ...

    @property
    def closed_set(self) -> bool: ...

    @property
    def reads_training(self) -> bool: ...

    def predict(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """The predictions of a batch by name; leading axis B. Pure."""
        ...

    def evaluate(self, outputs: Mapping[str, Outputs], sources: Mapping[str, Source]) -> Results:
        """Results by split.

        Args:
            outputs: by split, the predictions of all of it.
            sources: by split.
        """
        ...

    def scalars(self, results: Results) -> dict[str, float]:
        """Flat names, e.g. test/accuracy; fractions."""
        ...

    def per_example(
        self, results: Results, outputs: Mapping[str, Outputs], sources: Mapping[str, Source]
    ) -> dict[str, np.ndarray]:
        """The result of each example of the split "test", or else of the last: see `evaluation.per_example`."""
        ...

    def probe(self, features: PooledFeatures) -> list[Baseline]:
        """The scores of the pretrained network's pooled features, without training the network."""
        ...

    def references(self, start: Untrained) -> list[Baseline]:
        """The scores of the published weights by the same evaluation, where `evaluation.probe` is set and no features are
        cached."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluated:
    """The evaluation of a finished run, the input of a report section.

    Attributes:
        results: of `Scorer.evaluate`.
        outputs, sources: by split.
        variables: the weights that are reported.
    """

    results: Results
    outputs: Mapping[str, Outputs]
    sources: Mapping[str, Source]
    variables: Variables


ReportSection = Callable[[Evaluated], ReportFields]
"""A part of the report page."""
Exporter = Callable[[Path, Evaluated], None]
"""Writes further files of a finished run below its workdir."""


class Explanation(Protocol):
    """The figures of a few correct and incorrect examples in the report.

    Attributes:
        outputs: prefixes of the outputs of `explain` that `figures` reads.
    """

    @property
    def outputs(self) -> tuple[str, ...]: ...

    def explain(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """As `Scorer.predict`, with outputs that are shown for a few examples only, such as attention maps. Pure."""
        ...

    def figures(self, source: Source, shown: Sequence[Shown]) -> ReportFields:
        """Further fields of the report about those examples."""
        ...


def nothing(*args: object) -> None:
    """The `Exporter` of a task without further files, and the check of one whose examples are independent of each other."""


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A task.

    Attributes:
        config: of the whole run, validated.
        class_names: one name per class.
        model, inputs, objective, scorer: see their protocols.
        sections: of the report, in order.
        explanation: None for a task of which no single example is explained.
        export: writes further files.
        check_devices: (devices that the batch is split over) raises a UserError where they cannot share it.
    """

    config: ConfigDict
    class_names: tuple[str, ...]
    model: TaskModel
    inputs: Inputs
    objective: Objective
    scorer: Scorer
    sections: tuple[ReportSection, ...] = ()
    explanation: Explanation | None = None
    export: Exporter = nothing
    check_devices: Callable[[int], None] = nothing
