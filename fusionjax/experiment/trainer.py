"""One run, started by `fusionjax.main`: from a config to trained weights, scores and a report in a workdir."""

import contextlib
import functools
import os
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fusionjax import config as config_lib
from fusionjax import files, progress, tasks
from fusionjax.data import class_names, datasets
from fusionjax.data.datasets import duplicates
from fusionjax.data.feature_cache import store
from fusionjax.data.image import transforms
from fusionjax.data.loading import pipeline
from fusionjax.data.sampling import order
from fusionjax.distributed import hosts
from fusionjax.distributed import mesh as mesh_lib
from fusionjax.experiment import input_pipeline, overview, resources, session, workdir
from fusionjax.experiment.evaluation_hook import (
    OnScores,
    check_best_metric,
)
from fusionjax.experiment.fingerprint import fingerprint
from fusionjax.models import parameters
from fusionjax.tasks.base import initial_weights, model_factory
from fusionjax.tasks.base.protocol import Facts, Variables
from fusionjax.train import optim, state, step, trackers
from fusionjax.types import PyTree

_MOST_STEPS = 2**31 - 1
"""The state counts them in 32 bits."""


def enable_compilation_cache() -> None:
    """Compiled programs are kept between runs, in JAX_COMPILATION_CACHE_DIR or below the user's cache folder."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(files.user_cache("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


class Experiment:
    """The parts of a training run, built from its config. Nothing is allocated on a device before `train`.

    Args:
        config: of the run; validated here.
        folder: the workdir.

    Raises:
        UserError: whatever is wrong with the config or the data set.

    Attributes:
        source, eval_sources: training source, and evaluation source by split.
        task: see `fusionjax.tasks.base.protocol`.
        from_scratch: lines on transformers without published weights.
        readers_notes: lines on what the readers decided, e.g. which folder is which split.
        leaks: lines on files with the same content under different labels, or in training and in evaluation.
        steps, steps_per_epoch: updates in all, and batches per epoch (not a whole number in general).
    """

    def __init__(self, config: ConfigDict, folder: Path):
        self.config, self.folder = config_lib.validate(config), Path(folder).expanduser()
        trackers.check_installed(config.train.trackers)
        data = config.data
        # An impossible model and weights that are not there are found before the data set is read, which takes longer.
        probe = tasks.create(config, Facts(("a", "b"))).model
        fresh = jax.eval_shape(probe.init_module, jax.random.key(0))
        loaded = probe.put_pretrained(fresh, shapes_only=True)
        random = initial_weights.random_parameters(fresh, loaded)
        initial_weights.refuse_frozen(probe, config.optim.freeze, fresh, random)
        self.source = datasets.create(data, data.train_split, seed=config.seed)
        self.eval_sources = {
            split: datasets.create(data, split, seed=config.seed) for split in data.eval_splits
        }
        resources.check_batches(config, self.abstract_image())
        splits = {**self.eval_sources, data.train_split: self.source}
        self.from_scratch = tuple(
            initial_weights.notes(probe, config.model.name, fresh, random, len(self.source))
        )
        self.readers_notes = datasets.notes(splits.values())
        if data.label == "label" and not data.questions:
            self.readers_notes += tuple(class_names.alike(self.source.class_names)[: class_names.SHOWN])
        self.leaks = duplicates.notes(splits, data.train_split)
        self.task = tasks.create(
            config, Facts(tuple(self.source.class_names), self.source, self.eval_sources)
        )
        check_best_metric(config, self.task.scorer)
        sampled = input_pipeline.train_order(self.source, config)
        size, batch = sampled.size if sampled else len(self.source), config.train.batch_size
        self.steps_per_epoch = order.steps_per_epoch(size, batch)
        self.steps = config.train.steps
        if not self.steps and config.train.epochs:
            self.steps = order.total_steps(size, batch, config.train.epochs)
        if self.steps > _MOST_STEPS:
            raise config_lib.impossible(
                config, "train.epochs", f"{self.steps} steps, more than {_MOST_STEPS}"
            )
        self._variables = jax.eval_shape(self.task.model.init, jax.random.key(0))
        self._check_memory()

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines that a run and `--check` begin with."""
        return (*self.from_scratch, *self.readers_notes, *self.leaks)

    @functools.cached_property
    def weights(self) -> PyTree | None:
        """The variables that `config.pretrained` names, on the host; read at their first use."""
        return model_factory.read_weights(self.config, log=self.say)

    # -- shapes, without computing --------------------------------------------------------------------------------------

    def abstract_variables(self) -> Variables:
        """Shapes of the model's variables."""
        return self._variables

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a training batch of images."""
        n, one = self.config.train.batch_size, self.abstract_image()
        row = jax.ShapeDtypeStruct((n,), np.int32)
        image = jax.ShapeDtypeStruct((n, *one.shape), one.dtype)
        batch = {"image": image, "label": row, "valid": jax.ShapeDtypeStruct((n,), np.float32), "index": row}
        auxiliary = {
            name: jax.ShapeDtypeStruct((n, *value.shape), value.dtype)
            for name, value in self.task.inputs.padding_example().items()
        }
        return batch | dict.fromkeys(self.config.data.carry, row) | auxiliary

    def abstract_image(self) -> jax.ShapeDtypeStruct:
        """Shape of one image as the reading threads make it."""
        data = self.config.data
        shape = (*transforms.image_shape(data), transforms.channels(data))
        return jax.ShapeDtypeStruct(shape, pipeline.dtype_of(self.source))

    def _check_memory(self) -> None:
        """A UserError for a state that the memory cannot hold, before there is one."""
        optimizer = self.optimizer()
        current = jax.eval_shape(functools.partial(self.create_state, optimizer), self._variables)
        resources.check_state(self.config, current, optimizer.split(current.params)[0])

    def describe(self, *, parameters: bool = False) -> str:
        """What `--check` prints: see `overview.describe`."""
        return overview.describe(self, parameters=parameters)

    def check_folder(self) -> None:
        """Raises UserError where what the run writes would be data, or replace what is no run's, or cannot be written."""
        datasets.outside_root(self.folder, self.config.data, "--workdir")
        datasets.outside_root(self.cache_folder, self.config.data, "config.data.cache.folder")
        workdir.refuse_others(self.folder)
        workdir.check_writable(self.folder)

    # -- building blocks ------------------------------------------------------------------------------------------------

    def optimizer(self) -> optim.Optimizer:
        """Checked against the model's parameter names."""
        params = self.abstract_variables()["params"]
        c = self.config.optim
        return optim.create(
            c,
            params,
            steps=self.steps,
            steps_per_epoch=self.steps_per_epoch,
            frozen=self.task.model.frozen,
            parameters=parameters.of(self.task.model.module),
        )

    def loss(self, shards: int) -> step.Loss:
        """The loss of a micro-batch, which is split over `shards` devices."""
        c = self.config
        micro = c.train.batch_size // c.optim.accumulate
        group = c.loss.pair_group or max(micro // shards, 1)
        return functools.partial(self.task.objective, groups=micro // group)

    def train_step(self, optimizer: optim.Optimizer, shards: int) -> step.TrainStep:
        """The pure step function, for jit or `eval_shape`.

        Args:
            optimizer: `self.optimizer()`.
            shards: devices that the batch is split over.
        """
        c = self.config
        return step.make(
            self.loss(shards),
            optimizer,
            seed=c.seed,
            accumulate=c.optim.accumulate,
            shards=shards,
            ema_decay=c.optim.ema_decay,
            norms=self.task.model.gradient_norms,
        )

    def create_state(self, optimizer: optim.Optimizer, variables: Variables) -> state.TrainState:
        """The state before the first update."""
        return state.create(variables, optimizer, ema=self.config.optim.ema_decay > 0)

    def initial_variables(self) -> Variables:
        """The initial weights, on the host: random, pretrained, and computed from the training data."""
        model = self.task.model
        variables = jax.jit(model.init)(jax.random.key(self.config.seed))
        variables = model.load_pretrained(jax.device_get(variables), self.weights, log=self.say)
        return model.fit_to_data(
            variables, self.source, steps=self.steps, folder=self.cache_folder, say=self.say
        )

    # -- the run --------------------------------------------------------------------------------------------------------

    def train(self, *, on_scores: OnScores | None = None) -> dict[str, float]:
        """Trains to the end, from where an earlier start of the same run stopped; evaluates and reports.

        Args:
            on_scores: called with the step and the scores of each evaluation during training, after they are saved; an
                exception ends the run, which can be resumed.

        Returns:
            The final scores, e.g. test/accuracy; "step", that of the weights which were scored; "seconds".

        Raises:
            UserError: a workdir of another run, a number that is not finite, too many unreadable images, checkpoints that
                are all damaged.
        """
        c = self.config
        self.check_folder()
        for line in self.notes:
            self.say(line)
        facts = fingerprint(self.source, self.eval_sources, self.task.inputs, self.steps)
        mesh = mesh_lib.create(c.train.batch_size)
        self._check_devices(mesh.size)
        optimizer = self.optimizer()
        primary = hosts.primary()
        with contextlib.ExitStack() as held:
            if primary:
                held.enter_context(workdir.open_for_training(self.folder, c, facts))
            hosts.meet("workdir")  # only then is its config.json there for the others
            opened = session.open_session(self, mesh, optimizer)
            return session.run(self, opened, optimizer, on_scores)

    # -- parts of it ----------------------------------------------------------------------------------------------------

    def open_feed(self, mesh: Mesh, variables: Variables) -> input_pipeline.ImageFeed:
        """The batches of the run: images, or features of a frozen trunk, and auxiliary inputs."""
        splits = {"train": self.source} | {f"eval/{k}": v for k, v in self.eval_sources.items()}
        prepare = functools.partial(
            self.task.inputs.prepare, variables=variables, folder=self.cache_folder, say=self.say
        )
        auxiliary = {name: prepare(name, source) for name, source in splits.items()}
        if not self.config.data.cache.enabled:
            return input_pipeline.ImageFeed(
                self.config, self.source, self.eval_sources, mesh=mesh, auxiliary=auxiliary
            )
        encode, placed = jax.jit(self.task.model.encode), mesh_lib.put_replicated(variables, mesh)
        return input_pipeline.FeatureFeed(
            self.config,
            self.source,
            self.eval_sources,
            mesh=mesh,
            folder=self.cache_folder,
            encode=lambda batch: encode(placed, batch),
            weights=self._trunk_digest(variables),
            say=self.say,
            auxiliary=auxiliary,
        )

    def _trunk_digest(self, variables: Variables) -> str:
        """Digest of everything that the frozen trunk's features depend on, except the images."""
        c = self.config
        held = {name: tree["trunk"] for name, tree in variables.items() if "trunk" in tree}
        how = [c.precision, c.model.trunk, c.model.trunk_features, c.model.train_trunk_from]
        if c.model.frozen_blocks:
            how += [c.model.name, c.model.heads, c.model.patch, c.model.stride, c.model.frozen_blocks]
        return f"{how} {store.digest(held)}"

    @property
    def cache_folder(self) -> Path:
        """Folder of values that are computed once from the data."""
        return (
            Path(self.config.data.cache.folder).expanduser()
            if self.config.data.cache.folder
            else self.folder / "features"
        )

    def _check_devices(self, shards: int) -> None:
        c = self.config
        micro = c.train.batch_size // c.optim.accumulate
        if micro % shards:
            raise config_lib.impossible(
                c, "optim.accumulate", f"a micro-batch of {micro} does not split over {shards} devices"
            )
        self.task.check_devices(shards)

    def say(self, text: str) -> None:
        """Prints a line of progress on the first process."""
        if hosts.primary():
            progress.line(text)
