"""One start of a run: trains from the newest checkpoint, evaluates, and writes results and report."""

import dataclasses
import functools
import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh

from fusionjax import interruption, progress
from fusionjax.data.loading.stream import TrainStream
from fusionjax.distributed import hosts
from fusionjax.distributed import mesh as mesh_lib
from fusionjax.evaluation import cautions
from fusionjax.evaluation.probe import Baseline
from fusionjax.experiment import faithfulness, input_pipeline, results, run_report, workdir
from fusionjax.experiment.evaluation_hook import (
    Evaluation,
    EvaluationHook,
    Evaluator,
    OnScores,
    Saver,
    Schedule,
)
from fusionjax.tasks.base.baselines import Untrained
from fusionjax.tasks.base.class_scorer import headline
from fusionjax.tasks.base.protocol import Evaluated, Variables
from fusionjax.train import checkpoint, loop, metrics, optim, state, trackers
from fusionjax.types import PyTree

if TYPE_CHECKING:
    from fusionjax.experiment.trainer import Experiment


@dataclasses.dataclass(frozen=True, eq=False)
class Session:
    """The open resources of one start of a run.

    Attributes:
        mesh: of the devices.
        feed: of batches.
        keeper: of the checkpoints.
        batches: of training.
        variables: the initial weights of the run, on the host.
        current: the state to continue from.
        first_step: number of updates of earlier starts.
        seconds_before: duration of earlier starts.
        fresh: whether there was no earlier start.
        resumed: what its checkpoint says beside the state; see `evaluation_hook.Saver`.
        began: `time.perf_counter` when it was opened.
    """

    mesh: Mesh
    feed: input_pipeline.ImageFeed
    keeper: checkpoint.Checkpointer
    batches: TrainStream
    variables: Variables
    current: state.TrainState
    first_step: int
    seconds_before: float
    fresh: bool
    resumed: Mapping[str, Any]
    began: float


def open_session(experiment: "Experiment", mesh: Mesh, optimizer: optim.Optimizer) -> Session:
    """Opens the data of a run and its newest checkpoint.

    Args:
        experiment: that starts.
        mesh: of the devices.
        optimizer: of the experiment.
    """
    began = time.perf_counter()
    with progress.phase("first weights"):
        variables = experiment.initial_variables()
    feed = experiment.open_feed(mesh, variables)
    keeper = checkpoint.Checkpointer(
        experiment.folder / "checkpoints", run=workdir.read(experiment.folder)["run"]
    )
    fresh = not keeper.steps()
    if fresh:
        variables = experiment.task.model.start(
            variables, feed, folder=experiment.cache_folder, say=experiment.say
        )
    batches = feed.train()
    make = jax.jit(
        functools.partial(experiment.create_state, optimizer), out_shardings=mesh_lib.replicated(mesh)
    )
    current = make(mesh_lib.put_replicated(variables, mesh))
    first, before, data = 0, 0.0, dict[str, Any]()
    restored = keeper.restore(_abstract(current))
    hosts.meet("restored")
    if restored is not None:
        at, current, data = restored
        keeper.discard_after(at)
        batches.set_state(data["iterator"])
        first, before = data["step"], data["seconds"]
        experiment.say(f"resuming from step {at} of {experiment.steps}")
    return Session(mesh, feed, keeper, batches, variables, current, first, before, fresh, data, began)


def run(
    experiment: "Experiment", session: Session, optimizer: optim.Optimizer, on_scores: OnScores | None
) -> dict[str, float]:
    """Trains from the state of the session, evaluates the reported weights, and writes results and report."""
    primary = hosts.primary()
    train = experiment.config.train
    writer = (
        metrics.Writer(experiment.folder, start=session.first_step, trackers=_trackers(experiment))
        if primary
        else None
    )
    meter = loop.Meter(
        writer, start=session.first_step, steps=experiment.steps, log_every=train.log_every,
        batch_size=train.batch_size, show=primary, allowed=train.skip_nonfinite,
        record=session.resumed.get("meter", {}),
    )  # fmt: skip
    predict = jax.jit(experiment.task.scorer.predict)
    evaluate = Evaluator(experiment.task.scorer, predict, session.feed, experiment.eval_sources, session.mesh)
    saver = Saver(session.keeper, session.batches, meter, session.seconds_before)
    schedule = Schedule.of(experiment.config, experiment.steps, experiment.steps_per_epoch)
    hook = EvaluationHook(
        experiment.config, experiment.task.scorer, schedule, evaluate, saver, writer=writer, meter=meter,
        steps_per_epoch=experiment.steps_per_epoch, on_scores=on_scores,
    )  # fmt: skip
    try:
        current = _fit(experiment, session, optimizer, hook, meter)
        with interruption.deferred():
            session.keeper.wait()
        final, chosen = _chosen(experiment, session.keeper, current)
        evaluation = evaluate(final)
        # With a best metric these scores were written at their step already; else an earlier start may have done so.
        if writer is not None and not train.best_metric:
            writer.write_once(experiment.steps, evaluation.scalars)
    except interruption.Interrupted:
        session.keeper.wait()
        hosts.finish()
        if session.keeper.steps():
            interruption.saved(f"step {session.keeper.steps()[-1]}")
        raise
    finally:
        meter.close()
        session.batches.close()
        session.keeper.close()
        if writer is not None:
            writer.close()
    baselines = _baselines(experiment, session)
    summary = {**evaluation.scalars, **{f"baseline/{b.name}": b.value for b in baselines}}
    seconds = session.seconds_before + time.perf_counter() - session.began
    summary |= {"step": chosen, "seconds": seconds}
    _export(experiment, session, final, evaluation, summary, baselines, meter.skipped)
    return summary


def _trackers(experiment: "Experiment") -> list[trackers.Tracker]:
    content, folder = workdir.read(experiment.folder), experiment.folder.absolute()
    # Runs of one config in several workdirs are several runs.
    identifier = re.sub(r"[^\w-]", "_", folder.name)[:64] + "-" + content["run"][:12]
    facts = trackers.RunFacts(folder, identifier, experiment.config.train.tracker_project, content["config"])
    return trackers.create(experiment.config.train.trackers, facts)


def _fit(
    experiment: "Experiment",
    session: Session,
    optimizer: optim.Optimizer,
    hook: EvaluationHook,
    meter: loop.Meter,
) -> state.TrainState:
    """The last state."""
    where = mesh_lib.replicated(session.mesh)
    seed = mesh_lib.put_replicated(np.uint32(experiment.config.seed), session.mesh)
    left = np.float32(experiment.config.train.skip_nonfinite - len(meter.skipped))
    compiled = jax.jit(
        experiment.train_step(optimizer, session.mesh.size), donate_argnums=0, out_shardings=(where, where)
    )
    # Nothing trains: the start is the result. Or an earlier start was interrupted in the evaluation of its last step.
    if (session.fresh and not experiment.steps) or session.resumed.get("pending"):
        hook.run(session.first_step, session.current)
    return loop.fit(
        session.current,
        # The seed goes in as a number: runs that differ in it alone share a compiled program.
        lambda current, batch, skips: compiled(current, batch, seed, skips),
        session.batches,
        place=lambda batch: mesh_lib.put_batch(batch, session.mesh),
        start=session.first_step,
        steps=experiment.steps,
        hooks=[hook],
        meter=meter,
        skips=mesh_lib.put_replicated(left, session.mesh),
        save=hook.save,
    )


def _export(
    experiment: "Experiment",
    session: Session,
    final: Variables,
    evaluation: Evaluation,
    summary: dict[str, float],
    baselines: list[Baseline],
    skipped: Sequence[int],
) -> None:
    """Writes results.json, per-example results, the task's own files and the report."""
    task, primary = experiment.task, hosts.primary()
    said: list[str] = []
    finished = Evaluated(
        evaluation.results,
        evaluation.outputs,
        experiment.eval_sources,
        jax.device_get(final) if primary else final,
    )
    if primary:
        rows = task.scorer.per_example(evaluation.results, evaluation.outputs, experiment.eval_sources)
        task.export(experiment.folder, finished)
        said = _cautions(experiment, session, rows, baselines, skipped)
        results.write(experiment.folder, {**summary, "cautions": said}, rows)
        _say(experiment, said, cautions.recall_table(rows, task.class_names))
    if not experiment.config.report.enabled:
        return
    with progress.phase("report"):
        fields = run_report.join([section(finished) for section in task.sections])
        fields = run_report.join([fields, *_examples(experiment, session, final, evaluation, fields)])
    if primary:
        page = run_report.write(
            experiment.folder,
            baselines=baselines,
            seconds=summary["seconds"],
            parameters=run_report.count_parameters(final),
            warnings=said,
            notes=experiment.readers_notes,
            fields=fields,
        )
        experiment.say(f"report: {page}")


def _cautions(
    experiment: "Experiment",
    session: Session,
    outcomes: Mapping[str, np.ndarray],
    baselines: Sequence[Baseline],
    skipped: Sequence[int],
) -> list[str]:
    """What a reader must know before the scores, what weighs most first."""
    names = experiment.task.class_names
    found = [
        *cautions.classes(outcomes, names),
        *cautions.not_above(outcomes, names, baselines),
        *experiment.leaks,
        *experiment.task.inputs.warnings(),
        *cautions.few(outcomes),
        *session.feed.warnings(),
        *experiment.from_scratch,
    ]
    if skipped:
        steps = ", ".join(map(str, skipped))
        found.append(
            f"{len(skipped)} batches were passed over (loss, gradient or update not finite), at steps {steps}"
        )
    return found


def _say(experiment: "Experiment", said: Sequence[str], table: Sequence[str]) -> None:
    """Prints the recall of each class, and the cautions."""
    for line in (*table, *cautions.lines(said)):
        experiment.say(line)


def _chosen(
    experiment: "Experiment", keeper: checkpoint.Checkpointer, last: state.TrainState
) -> tuple[Variables, int]:
    """The reported weights: those of the best checkpoint if the config names a metric, else the last."""
    best = keeper.best_step() if experiment.config.train.best_metric else None
    if best is None or best == experiment.steps:
        return last.averaged, experiment.steps
    restored = keeper.restore(_abstract(last), best)
    if restored is None:
        raise RuntimeError(f"the checkpoint of step {best} disappeared while the run was open")
    return restored[1].averaged, best


def _examples(
    experiment: "Experiment",
    session: Session,
    variables: Variables,
    evaluation: Evaluation,
    fields: run_report.ReportFields,
) -> list[run_report.ReportFields]:
    """Correct and incorrect examples of the headline split; all processes take part. Empty for a task without explanations."""
    explanation = experiment.task.explanation
    if explanation is None:
        return []
    split = headline(experiment.eval_sources)
    source = experiment.eval_sources[split]
    predict, auxiliary = jax.jit(explanation.explain), session.feed.auxiliary.get(f"eval/{split}")
    right, wrong = run_report.examples(
        predict, variables, source, experiment.config.data, evaluation.outputs[split],
        session.mesh, experiment.task.model.grid, experiment.config.report.examples, output_names=explanation.outputs,
        auxiliary=auxiliary,
    )  # fmt: skip
    page = {"right": [e for e, *_ in right], "wrong": [e for e, *_ in wrong]}
    measured = faithfulness.of_report(
        predict, variables, source, [*right, *wrong], experiment.config.data, session.mesh,
        title=fields.get("map_name", "attention rollout"), auxiliary=auxiliary,
    )  # fmt: skip
    return [page, explanation.figures(source, [*right, *wrong]), measured]


def _baselines(experiment: "Experiment", session: Session) -> list[Baseline]:
    """Baselines measured beside the result, with the initial weights of the run."""
    if not experiment.config.evaluation.probe:
        return []
    feed, scorer = session.feed, experiment.task.scorer
    if not isinstance(feed, input_pipeline.FeatureFeed):
        start = Untrained(
            experiment.weights, session.variables, feed.evaluation, experiment.eval_sources, session.mesh
        )
        return scorer.references(start)
    pool = functools.partial(jax.jit(experiment.task.model.pool), session.variables)
    split = headline(experiment.eval_sources)
    train, test = feed.cached["train"], feed.cached[f"eval/{split}"]
    return run_report.probe(scorer, train, test, experiment.eval_sources[split], pool)


def _abstract(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
