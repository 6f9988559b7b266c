"""One run: from a config to trained weights, numbers and a report in a workdir. What `fusionjax.main` starts."""

import contextlib
import functools
import hashlib
import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fusionjax import config as config_lib
from fusionjax import tasks
from fusionjax.data import datasets
from fusionjax.data.feature_cache import store
from fusionjax.data.image import transforms
from fusionjax.data.loading import pipeline
from fusionjax.data.sampling import order
from fusionjax.distributed import mesh as mesh_lib
from fusionjax.evaluation import per_example
from fusionjax.evaluation.probe import Baseline
from fusionjax.experiment import input_pipeline, run_report, workdir
from fusionjax.experiment.evaluation_hook import Judge, check_best_metric
from fusionjax.tasks.base import model_factory
from fusionjax.train import checkpoint, loop, metrics, optim, state, step


def enable_compilation_cache() -> None:
    """Compiled programs are kept between runs, in JAX_COMPILATION_CACHE_DIR or below the user's cache folder."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(base / "fusionjax" / "xla"))
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
        task: see `fusionjax.tasks`.
        steps, steps_per_epoch: updates in all, and batches an epoch (not a whole number in general).
    """

    def __init__(self, config: ConfigDict, folder: Path):
        self.config, self.folder = config_lib.validate(config), Path(folder)
        data = config.data
        # A model that cannot be is cheaper to find than a data set is to read.
        tasks.create(config, ["a", "b"])
        self.source = datasets.create(data, data.train_split, seed=config.seed)
        self.eval_sources = {
            split: datasets.create(data, split, seed=config.seed) for split in data.eval_splits
        }
        self.task = tasks.create(config, self.source.class_names)
        check_best_metric(config, self.task)
        self.weights = model_factory.read_weights(config)
        self.task.check({"train": self.source, **self.eval_sources})
        sampled = input_pipeline.train_order(self.source, config)
        size, batch = sampled.size if sampled else len(self.source), config.train.batch_size
        self.steps_per_epoch = order.steps_per_epoch(size, batch)
        self.steps = config.train.steps
        if not self.steps and config.train.epochs:
            self.steps = order.total_steps(size, batch, config.train.epochs)

    # -- shapes, without computing --------------------------------------------------------------------------------------

    def abstract_variables(self) -> Any:
        """Shapes of the model's variables."""
        return jax.eval_shape(self.task.init, jax.random.key(0))

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a training batch of images."""
        n, data = self.config.train.batch_size, self.config.data
        row = jax.ShapeDtypeStruct((n,), np.int32)
        shape = (n, *transforms.image_shape(data), transforms.channels(data))
        image = jax.ShapeDtypeStruct(shape, pipeline.dtype_of(self.source))
        batch = {"image": image, "label": row, "valid": jax.ShapeDtypeStruct((n,), np.float32), "index": row}
        extra = {
            name: jax.ShapeDtypeStruct((n, *value.shape), value.dtype)
            for name, value in self.task.padding({"train": self.source}).items()
        }
        return batch | dict.fromkeys(data.carry, row) | extra

    def describe(self) -> str:
        """A table of the parameters, after tracing one whole step: what `--check` prints."""
        variables = self.abstract_variables()
        optimizer = self.optimizer()
        current = jax.eval_shape(functools.partial(self._create_state, optimizer), variables)
        jax.eval_shape(self.train_step(optimizer, 1), current, self.abstract_batch())
        table = parameter_overview.get_parameter_overview(variables["params"], include_stats=False)
        images = ", ".join(f"{len(v)} {k}" for k, v in {"training": self.source, **self.eval_sources}.items())
        return f"{table}\n{images} images; {self.steps} steps of {self.config.train.batch_size}"

    # -- building blocks ------------------------------------------------------------------------------------------------

    def optimizer(self) -> optim.Optimizer:
        """Checked against the model's parameter names."""
        params = self.abstract_variables()["params"]
        c = self.config.optim
        return optim.create(
            c, params, steps=self.steps, steps_per_epoch=self.steps_per_epoch, frozen=self.task.frozen
        )

    def train_step(self, optimizer: optim.Optimizer, shards: int):
        """The pure step function, for jit or `eval_shape`.

        Args:
            optimizer: `self.optimizer()`.
            shards: devices that the batch is split over.
        """
        c = self.config
        micro = c.train.batch_size // c.optim.accumulate
        group = c.loss.pair_group or max(micro // shards, 1)
        loss = functools.partial(self.task.loss, groups=micro // group)
        return step.make(
            loss,
            optimizer,
            seed=c.seed,
            accumulate=c.optim.accumulate,
            shards=shards,
            ema_decay=c.optim.ema_decay,
            norms=self.task.norms,
        )

    def _create_state(self, optimizer: optim.Optimizer, variables: Any) -> state.TrainState:
        return state.create(variables, optimizer, ema=self.config.optim.ema_decay > 0)

    def _initial_variables(self) -> Any:
        """Fresh weights with the pretrained ones put in, on the host."""
        variables = jax.jit(self.task.init)(jax.random.key(self.config.seed))
        variables = self.task.load_pretrained(jax.device_get(variables), self.weights, log=self._say)
        return self.task.measured(
            variables, self.source, steps=self.steps, folder=self._cache_folder(), say=self._say
        )

    def _feed(self, mesh: Mesh, variables: Any) -> input_pipeline.ImageFeed:
        named = {"train": self.source} | {f"eval/{k}": v for k, v in self.eval_sources.items()}
        extras = self.task.extras(named, variables, folder=self._cache_folder(), say=self._say)
        if not self.config.data.cache.enabled:
            return input_pipeline.ImageFeed(
                self.config, self.source, self.eval_sources, mesh=mesh, extras=extras
            )
        encode, placed = jax.jit(self.task.encode), mesh_lib.put_replicated(variables, mesh)
        return input_pipeline.FeatureFeed(
            self.config,
            self.source,
            self.eval_sources,
            mesh=mesh,
            folder=self._cache_folder(),
            encode=lambda batch: encode(placed, batch),
            weights=self._trunk_digest(variables),
            say=self._say,
            extras=extras,
        )

    def _trunk_digest(self, variables: Any) -> str:
        """Of all that the frozen trunk's features follow from, but the images."""
        c = self.config
        held = {name: tree["trunk"] for name, tree in variables.items() if "trunk" in tree}
        how = [c.precision, c.model.trunk, c.model.trunk_features, c.model.train_trunk_from]
        return f"{how} {store.digest(held)}"

    def _cache_folder(self) -> Path:
        return (
            Path(self.config.data.cache.folder) if self.config.data.cache.folder else self.folder / "features"
        )

    # -- the run --------------------------------------------------------------------------------------------------------

    def train(self, *, on_scores: Callable[[int, dict[str, float]], None] | None = None) -> dict[str, float]:
        """Trains to the end, from where an earlier start of the same run stopped; evaluates and reports.

        Args:
            on_scores: takes the step and the scores of each evaluation on the way, when they are saved; what it raises ends
                the run, which can go on from there.

        Returns:
            The final scores, e.g. test/accuracy; "step", that of the weights which were scored; "seconds".

        Raises:
            UserError: a workdir of another run, a number that is not finite, too many unreadable images, checkpoints that
                are all damaged.
        """
        c, facts = self.config, self._facts()
        mesh = mesh_lib.create(c.train.batch_size)
        self._check_devices(mesh.size)
        optimizer = self.optimizer()
        primary = jax.process_index() == 0
        with contextlib.ExitStack() as held:
            if primary:
                held.enter_context(workdir.open_for_training(self.folder, c, facts))
            return self._train(mesh, optimizer, facts, primary, on_scores)

    def _train(
        self, mesh: Mesh, optimizer: optim.Optimizer, facts: dict[str, Any], primary: bool, on_scores: Any
    ) -> dict[str, float]:
        began, c = time.perf_counter(), self.config
        variables = self._initial_variables()
        feed = self._feed(mesh, variables)
        keeper = checkpoint.Checkpointer(self.folder / "checkpoints")
        fresh = not keeper.steps()
        if fresh:
            variables = self.task.start(variables, feed, folder=self._cache_folder(), say=self._say)
        batches = feed.train()
        where = mesh_lib.replicated(mesh)
        current = jax.jit(functools.partial(self._create_state, optimizer), out_shardings=where)(
            mesh_lib.put_replicated(variables, mesh)
        )
        start, current, before = self._restore(keeper, current, batches)
        if primary:
            workdir.write(self.folder, c, facts)
        writer = metrics.Writer(self.folder, start=start) if primary else None
        meter = loop.Meter(
            writer,
            start=start,
            steps=self.steps,
            log_every=c.train.log_every,
            batch_size=c.train.batch_size,
            show=primary,
        )
        predict = jax.jit(self.task.predict)
        seed = mesh_lib.put_replicated(np.uint32(c.seed), mesh)
        compiled = jax.jit(
            self.train_step(optimizer, mesh.size), donate_argnums=0, out_shardings=(where, where)
        )
        judge = Judge(c, self.task, predict, feed, self.eval_sources, mesh, keeper, writer, batches, meter,
                      steps=self.steps, steps_per_epoch=self.steps_per_epoch, seconds_before=before,
                      on_scores=on_scores)  # fmt: skip
        try:
            if fresh and not self.steps:  # nothing trains: the start is the result
                judge.run(0, current)
            current = loop.fit(
                current,
                # The seed goes in as a number: runs that differ in it alone share a compiled program.
                lambda current, batch: compiled(current, batch, seed),
                batches,
                place=lambda batch: mesh_lib.put_batch(batch, mesh),
                start=start,
                steps=self.steps,
                hooks=[judge],
                meter=meter,
                on_divergence=judge.save_good,
            )
            keeper.wait()
            final, chosen = self._chosen(keeper, current)
            scalars, results = judge.evaluate(final)
            if writer is not None and not c.train.best_metric and (start < self.steps or fresh):
                writer.write(
                    self.steps, scalars
                )  # with a best metric these numbers stand at their step already
        finally:
            meter.close()
            batches.close()
            keeper.close()
            if writer is not None:
                writer.close()
        baselines = self._baselines(feed, variables)
        summary = {**scalars, **{f"baseline/{b.name}": b.value for b in baselines}}
        summary |= {"step": chosen, "seconds": before + time.perf_counter() - began}
        for line in self.task.warnings():
            self._say(line)
        if primary:
            per_example.write(self.folder, self.task.outcomes(results, judge.outputs, self.eval_sources))
            self.task.leave(self.folder, jax.device_get(final), judge.outputs, self.eval_sources)
            part = self.folder / ".results.json.part"
            part.write_text(json.dumps(summary, indent=1))
            os.replace(part, self.folder / "results.json")
        if not c.report.enabled:
            return summary
        made = self.task.report(results, judge.outputs, self.eval_sources) | self._examples(final, judge)
        made["tables"] = [*made.get("tables", ()), *self.task.tables(final)]
        if primary:
            page = run_report.write(
                self.folder,
                baselines=baselines,
                seconds=summary["seconds"],
                parameters=run_report.count_parameters(final),
                warnings=[*self.task.warnings(), *feed.warnings()],
                fields=made,
            )
            self._say(f"report: {page}")
        return summary

    # -- parts of it ----------------------------------------------------------------------------------------------------

    def _restore(self, keeper: checkpoint.Checkpointer, current: Any, batches: Any) -> tuple[int, Any, float]:
        """Where to go on: step, state, and seconds that earlier starts took."""
        restored = keeper.restore(_abstract(current))
        if restored is None:
            return 0, current, 0.0
        at, current, data = restored
        keeper.discard_after(at)
        batches.set_state(data["iterator"])
        self._say(f"going on from step {at} of {self.steps}")
        return data["step"], current, data["seconds"]

    def _chosen(self, keeper: checkpoint.Checkpointer, last: Any) -> tuple[Any, int]:
        """The weights that are reported: of the best checkpoint if the config names a metric, else the last."""
        best = keeper.best_step() if self.config.train.best_metric else None
        if best is None or best == self.steps:
            return last.averaged, self.steps
        return keeper.restore(_abstract(last), best)[1].averaged, best

    def _examples(self, variables: Any, judge: Judge) -> dict[str, Any]:
        """Right and wrong examples of the headline split; all processes take part. Nothing where nothing is classified."""
        split = self._headline_split()
        if "probabilities/combined" not in judge.outputs[split]:
            return {}
        source = self.eval_sources[split]
        right, wrong = run_report.examples(
            jax.jit(self.task.explain), variables, source, self.config.data, judge.outputs[split], judge.mesh,
            self.task.grid, self.config.report.examples, keep=self.task.example_keep,
            extra=judge.feed.extras.get(f"eval/{split}"),
        )  # fmt: skip
        page = {"right": [e for e, *_ in right], "wrong": [e for e, *_ in wrong]}
        return page | self.task.explanations(source, [*right, *wrong])

    def _baselines(self, feed: input_pipeline.ImageFeed, variables: Any) -> list[Baseline]:
        """References measured beside the result, with the weights that the run began with."""
        if not self.config.evaluation.probe:
            return []
        if not isinstance(feed, input_pipeline.FeatureFeed):
            return self.task.references(
                self.weights, variables, feed.evaluation, self.eval_sources, feed.mesh
            )
        pool = functools.partial(jax.jit(self.task.pool), variables)
        split = self._headline_split()
        train, test = feed.cached["train"], feed.cached[f"eval/{split}"]
        return run_report.probe(self.task, train, test, self.eval_sources[split], pool)

    def _headline_split(self) -> str:
        splits = self.config.data.eval_splits
        return "test" if "test" in splits else splits[-1]

    def _check_devices(self, shards: int) -> None:
        c = self.config
        micro = c.train.batch_size // c.optim.accumulate
        if micro % shards:
            raise config_lib.impossible(
                c, "optim.accumulate", f"a micro-batch of {micro} does not split over {shards} devices"
            )
        pairs = "pwca" in getattr(self.task.module, "branches", ()) or c.loss.mixup or c.loss.cutmix
        share, k = micro // shards, c.data.per_identity
        if c.task == "reid" and share % k:
            alone = f"a device's {share} images of a micro-batch do not hold whole identities of {k}; use fewer devices"
            raise config_lib.impossible(c, "data.per_identity", alone)
        if c.task == "reid" and pairs and not c.loss.pair_group and share < 2 * k:
            alone = f"a device has one identity of a micro-batch and none to pair it with; set {2 * k}"
            raise config_lib.impossible(c, "loss.pair_group", alone)
        if pairs and not c.loss.pair_group and micro // shards < 2:
            alone = (
                f"a device has {micro // shards} image of a micro-batch and nothing to pair it with; set 2"
            )
            raise config_lib.impossible(c, "loss.pair_group", alone)

    def _facts(self) -> dict[str, Any]:
        return {
            "class_names": list(self.source.class_names),
            "data_set": self.source.name,
            "images": {"train": len(self.source), **{s: len(v) for s, v in self.eval_sources.items()}},
            "examples": {name: _digest(v) for name, v in {"train": self.source, **self.eval_sources}.items()},
            "steps": self.steps,
            **self.task.facts(),
            "command": "python -m fusionjax.main " + shlex.join(sys.argv[1:]),
        }

    def _say(self, text: str) -> None:
        if jax.process_index() == 0:
            print(text, file=sys.stderr, flush=True)


def _digest(source: Any) -> str:
    """Of a source's names and labels: whether two runs read the same examples in the same order."""
    text = json.dumps([list(map(str, source.names)), np.asarray(source.labels).tolist()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _abstract(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
