"""One run: from a config to trained weights, numbers and a report in a workdir. What `fusionjax.main` starts."""

import dataclasses
import functools
import json
import logging
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fusionjax import config as config_lib
from fusionjax import mesh as mesh_lib
from fusionjax import reporting, tasks, workdir
from fusionjax.data import cache, features, order, pipeline, sources
from fusionjax.data.bad_images import BadImages
from fusionjax.evaluation.collect import collect
from fusionjax.train import checkpoint, loop, metrics, optim, state, step

log = logging.getLogger(__name__)


def enable_compilation_cache() -> None:
    """Compiled programs are kept between runs, in JAX_COMPILATION_CACHE_DIR or below the user's cache folder."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(base / "fusionjax" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


@dataclasses.dataclass
class Experiment:
    """The parts of a training run, built from its config. Nothing is allocated on a device before `train`.

    Args:
        config: of the run; validated here.
        folder: the workdir.

    Raises:
        UserError: whatever is wrong with the config, the data set or the workdir.
    """

    config: ConfigDict
    folder: Path

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        config_lib.validate(self.config)
        data = self.config.data
        make = functools.partial(sources.create, data, seed=self.config.seed)
        # A model that cannot be is cheaper to find than a data set is to read.
        tasks.create(self.config, ["a", "b"])
        self.source = make(data.train_split)
        self.eval_sources = {split: make(split) for split in data.eval_splits}
        self.task = tasks.create(self.config, self.source.class_names)
        size, batch = len(self.source), self.config.train.batch_size
        self.steps_per_epoch = order.steps_per_epoch(size, batch)
        self.steps = self.config.train.steps or order.total_steps(size, batch, self.config.train.epochs)
        self.bad = BadImages()

    # -- building blocks ------------------------------------------------------------------------------------------------

    def abstract_variables(self) -> Any:
        """Shapes of the model's variables."""
        return jax.eval_shape(self.task.init, jax.random.key(0))

    def optimizer(self) -> optim.Optimizer:
        """Checked against the model's parameter names."""
        params = self.abstract_variables()["params"]
        return optim.create(self.config.optim, params, steps=self.steps, steps_per_epoch=self.steps_per_epoch)

    def train_step(self, optimizer: optim.Optimizer, shards: int):
        """The pure step function, for jit or `eval_shape`."""
        c = self.config
        micro = c.train.batch_size // c.optim.accumulate
        group = c.loss.pwca_group or micro // shards
        return step.make(
            functools.partial(self.task.loss, groups=max(1, micro // max(group, 1))),
            optimizer,
            seed=c.seed,
            accumulate=c.optim.accumulate,
            shards=shards,
            ema_decay=c.optim.ema_decay,
        )

    def initial_variables(self) -> Any:
        """Fresh weights with the pretrained ones put in, on the host."""
        variables = jax.jit(self.task.init)(jax.random.key(self.config.seed))
        return self.task.load_pretrained(jax.device_get(variables), log=self._say)

    # -- the run --------------------------------------------------------------------------------------------------------

    def train(self) -> dict[str, float]:
        """Trains to the end, from where an earlier start of the same run stopped.

        Returns:
            The final scalars, e.g. test/accuracy.

        Raises:
            UserError: a number that is not finite, too many unreadable images, a damaged set of checkpoints.
        """
        began = time.perf_counter()
        c = self.config
        mesh = mesh_lib.create(c.train.batch_size)
        self._check_groups(mesh.size)
        optimizer = self.optimizer()
        workdir.open_for_training(self.folder, c)
        workdir.write(self.folder, c, self._facts())
        # Optional parts are only imported by the runs that use them, before any device memory is taken.
        variables = self.initial_variables()
        make_state = functools.partial(state.create, optimizer=optimizer, ema=c.optim.ema_decay > 0)
        where = mesh_lib.replicated(mesh)
        current = jax.jit(make_state, out_shardings=where)(mesh_lib.put_replicated(variables, mesh))
        predict = jax.jit(self.task.predict)
        batches, evaluations = self._data(mesh, variables)
        keeper = checkpoint.Checkpointer(self.folder / "checkpoints")
        start, current = self._restore(keeper, current, batches)
        primary = jax.process_index() == 0
        writer = metrics.Writer(self.folder, start=start) if primary else None
        meter = loop.Meter(
            writer,
            start=start,
            steps=self.steps,
            log_every=min(c.train.log_every, max(1, self.steps // 4)),
            batch_size=c.train.batch_size,
            show=primary and sys.stderr.isatty(),
        )
        judge = _Judge(self, predict, evaluations, mesh, keeper, writer, batches, meter)
        compiled = jax.jit(
            self.train_step(optimizer, mesh.size), donate_argnums=0, out_shardings=(where, where)
        )
        try:
            current = loop.fit(
                current,
                compiled,
                batches,
                place=lambda batch: mesh_lib.put_batch(batch, mesh),
                start=start,
                steps=self.steps,
                hooks=[judge],
                meter=meter,
                on_divergence=judge.save,
            )
        finally:
            meter.close()
            keeper.wait()
        final, chosen = self._chosen(keeper, current)
        scalars, results = judge.evaluate(final)
        if writer is not None:
            writer.write(self.steps, scalars)
            writer.close()
        keeper.close()
        seconds = time.perf_counter() - began
        summary = {**scalars, "step": chosen, "seconds": seconds}
        shown = self._examples(final, judge) if c.report.enabled else None
        if primary:
            (self.folder / "results.json").write_text(json.dumps(summary, indent=1))
            if shown is not None:
                page = reporting.write(
                    self.folder,
                    class_names=self.source.class_names,
                    results=results,
                    baselines=self._baselines(),
                    shown=shown,
                    seconds=seconds,
                    parameters=reporting.count_parameters(final),
                    warnings=self._warnings(),
                )
                self._say(f"report: {page}")
        return summary

    # -- parts of it ----------------------------------------------------------------------------------------------------

    def _data(self, mesh: Mesh, variables: Any):
        """The training iterator and, by split, a callable giving the evaluation batches."""
        c = self.config
        shape = dict(process_index=jax.process_index(), process_count=jax.process_count())
        if not c.data.cache.enabled:
            batches = pipeline.train_dataset(
                self.source, c.data, seed=c.seed, batch_size=c.train.batch_size, bad=self.bad, **shape
            )
            return batches, {
                split: functools.partial(self._eval_batches, split) for split in self.eval_sources
            }
        encode = jax.jit(self.task.encode)
        placed = mesh_lib.put_replicated(variables, mesh)
        store = cache.FeatureCache(
            self.folder / "features",
            lambda batch: encode(placed, batch),
            weights=cache.digest(variables["params"]["trunk"]),
            data=c.data,
            seed=c.seed,
            bad=self.bad,
            say=self._say,
        )
        self._cached = {"train": store.train(self.source)}
        self._cached |= {split: store.evaluation(source) for split, source in self.eval_sources.items()}
        train = self._cached["train"]
        batches = features.feature_dataset(
            train.features,
            train.labels,
            valid=train.valid,
            seed=c.seed,
            batch_size=c.train.batch_size,
            **shape,
        )
        return batches, {split: functools.partial(self._cached_batches, split) for split in self.eval_sources}

    def _cached_batches(self, split: str):
        part = self._cached[split]
        return features.feature_batches(
            part.features[0],
            part.labels,
            valid=part.valid[0],
            batch_size=self.config.evaluation.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def _eval_batches(self, split: str):
        return pipeline.eval_batches(
            self.eval_sources[split],
            self.config.data,
            batch_size=self.config.evaluation.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            bad=self.bad,
        )

    def _restore(self, keeper: checkpoint.Checkpointer, current: Any, batches: Any) -> tuple[int, Any]:
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), current)
        restored = keeper.restore(target)
        if restored is None:
            return 0, current
        at, current, data = restored
        keeper.discard_after(at)
        batches.set_state(data["iterator"])
        self._say(f"going on from step {at} of {self.steps}")
        return data["step"], current

    def _chosen(self, keeper: checkpoint.Checkpointer, last: Any) -> tuple[Any, int]:
        """The weights that are reported: of the best checkpoint if the config names a metric, else the last."""
        if not self.config.train.best_metric:
            return last.averaged, self.steps
        best = keeper.best_step()
        if best is None or best == keeper.steps()[-1]:
            return last.averaged, self.steps
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), last)
        return keeper.restore(target, best)[1].averaged, best

    def _examples(self, variables: Any, judge: "_Judge") -> Any:
        """Right and wrong examples of the headline split; all processes take part."""
        split = self._headline_split()
        return reporting.examples(
            judge.predict, variables, self.eval_sources[split], self.config.data, judge.outputs[split], judge.mesh,
            self.task.grid, self.config.report.examples,
        )  # fmt: skip

    def _baselines(self) -> list[reporting.Baseline]:
        if not (self.config.evaluation.probe and self.config.data.cache.enabled):
            return []
        return reporting.probe(self._cached, self.config.seed, self._headline_split())

    def _warnings(self) -> list[str]:
        if not self.bad.count:
            return []
        return [
            f"{self.bad.count} images could not be read and were left out: {'; '.join(self.bad.messages)}"
        ]

    def describe(self) -> str:
        """A table of the parameters and the shapes of a step; nothing is computed."""
        variables = self.abstract_variables()
        optimizer = self.optimizer()
        current = jax.eval_shape(functools.partial(state.create, optimizer=optimizer, ema=False), variables)
        batch = self.abstract_batch()
        jax.eval_shape(self.train_step(optimizer, 1), current, batch)
        lines = [parameter_overview.get_parameter_overview(variables["params"], include_stats=False)]
        lines.append(
            f"{len(self.source)} training images, {self.steps} steps of {self.config.train.batch_size}"
        )
        return "\n".join(lines)

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a training batch of images."""
        n, side = self.config.train.batch_size, self.config.data.image_size
        row = jax.ShapeDtypeStruct((n,), np.int32)
        image = jax.ShapeDtypeStruct((n, side, side, 3), np.uint8)
        return {"image": image, "label": row, "valid": jax.ShapeDtypeStruct((n,), np.float32), "index": row}

    def _headline_split(self) -> str:
        splits = self.config.data.eval_splits
        return "test" if "test" in splits else splits[-1]

    def _check_groups(self, shards: int) -> None:
        c = self.config
        micro = c.train.batch_size // c.optim.accumulate
        if c.optim.accumulate > 1 and micro % shards:
            raise config_lib.impossible(
                c, "optim.accumulate", f"a micro-batch of {micro} does not split over {shards} devices"
            )
        if (
            "pwca" in getattr(self.task.module, "branches", ())
            and not c.loss.pwca_group
            and micro // shards < 2
        ):
            raise config_lib.impossible(
                c,
                "loss.pwca_group",
                f"a device has {micro // shards} image of a micro-batch and nothing to pair it with; set 2",
            )

    def _facts(self) -> dict[str, Any]:
        return {
            "class_names": list(self.source.class_names),
            "images": {"train": len(self.source), **{s: len(v) for s, v in self.eval_sources.items()}},
            "steps": self.steps,
            "command": "python -m fusionjax.main " + " ".join(sys.argv[1:]),
        }

    def _say(self, text: str) -> None:
        if jax.process_index() == 0:
            print(text, file=sys.stderr, flush=True)


class _Judge:
    """The hook that evaluates and saves: together where both are due, so that a checkpoint knows its score."""

    def __init__(self, run: Experiment, predict, evaluations, mesh, keeper, writer, batches, meter):
        self.run_, self.predict, self.evaluations, self.mesh = run, predict, evaluations, mesh
        self.keeper, self.writer, self.batches, self.meter = keeper, writer, batches, meter
        c = run.config.train
        every = c.eval_every_epochs * run.steps_per_epoch
        count = math.floor(run.steps / every) if every else 0
        self.eval_steps = {round(every * (i + 1)) for i in range(count)} - {run.steps}
        self.save_steps = set(range(c.checkpoint_every, run.steps, c.checkpoint_every)) | {run.steps}
        if c.best_metric:
            self.eval_steps.add(run.steps)
        self.outputs: dict[str, dict[str, np.ndarray]] = {}
        self.began = time.perf_counter()

    def due(self, step: int) -> bool:
        return step in self.eval_steps or step in self.save_steps

    def run(self, step: int, current: state.TrainState) -> None:
        best = None
        if step in self.eval_steps:
            scalars, _ = self.evaluate(current.averaged)
            if self.writer is not None:
                self.writer.write(step, scalars)
            best = scalars.get(self.run_.config.train.best_metric)
            self._line(step, scalars)
        if step in self.save_steps or best is not None:
            self.save(current, best)

    def evaluate(self, variables: Any) -> tuple[dict[str, float], dict[str, Any]]:
        """Scalars by name, and the full results by split and branch."""
        scalars, results = {}, {}
        for split, make in self.evaluations.items():
            self.outputs[split] = collect(self.predict, variables, make(), self.mesh)
            results[split] = self.run_.task.evaluate(self.outputs[split])
            scalars |= {f"{split}/{k}": float(v) for k, v in self.run_.task.scalars(results[split]).items()}
        return scalars, results

    def save(self, current: state.TrainState, best: float | None = None) -> None:
        step = int(current.step)
        self.keeper.save(step, current, {"iterator": self.batches.get_state(), "step": step}, best)

    def _line(self, step: int, scalars: dict[str, float]) -> None:
        run = self.run_
        shown = ", ".join(
            f"{k} {100 * v:.1f} %" for k, v in scalars.items() if k.split("/")[1].startswith("accuracy")
        )
        loss = self.meter.last.get("train/loss")
        text = f"epoch {step / run.steps_per_epoch:.1f}, step {step}/{run.steps}: " + (
            f"loss {loss:.3f}, " if loss else ""
        )
        self.meter.note(f"{text}{shown}, {time.perf_counter() - self.began:.0f} s")
