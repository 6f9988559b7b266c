"""How far the maps of a trained run can be trusted: `evaluation.faithfulness` over some of its images.

run = fusionjax.load("runs/quickstart")
print(faithfulness.measure(run, "test").text())
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fusionjax import progress
from fusionjax.data.image import transforms
from fusionjax.data.loading import pipeline
from fusionjax.data.loading.auxiliary import Auxiliary, AuxiliaryAt
from fusionjax.data.source import Source, object_mask, take
from fusionjax.distributed import mesh as mesh_lib
from fusionjax.errors import UserError
from fusionjax.evaluation import faithfulness as measures
from fusionjax.evaluation.collect import collect
from fusionjax.evaluation.faithfulness import STEPS, Score
from fusionjax.experiment.explain import Explainer
from fusionjax.experiment.inference import Run
from fusionjax.interpret import capture, image_maps
from fusionjax.interpret.faithfulness_table import CONTROLS, Table
from fusionjax.tasks.base.class_scorer import Predict
from fusionjax.tasks.base.explanations import spread
from fusionjax.tasks.base.protocol import ReportFields, Shown, Variables

BATCH = 16
"""Images of a report's examples that are computed together."""
REPORTED, REPORTED_STEPS = 8, 4
"""Examples of a report that are measured, and the parts in which their pixels are removed: 21 forward passes each."""
COMBINED, EMBEDDING = "probabilities/combined", "embedding"
_ANSWERS = "the probability of the predicted class"
_NEAR = "the cosine similarity to the embedding of the whole image"


@dataclasses.dataclass(frozen=True, eq=False)
class Scored:
    """Some images, and a model's score of changed versions of them.

    Attributes:
        images: (N, h, w, C), as the model takes them before normalisation.
        score: see `measures.Score`.
        about: what the score is.
    """

    images: np.ndarray
    score: Score
    about: str


def scored(
    predict: Predict,
    variables: Variables,
    images: Sequence[np.ndarray],
    mesh: Mesh,
    *,
    carried: Mapping[str, np.ndarray],
    auxiliary: Auxiliary | None,
    batch: int,
) -> Scored:
    """The score of a model on changed images; their texts and sounds stay as they are.

    Args:
        predict: compiled, with "probabilities/combined", or with "embedding" for re-identification.
        variables: of the model.
        images: N images (h, w, C).
        mesh: of the devices.
        carried: name → (N,) of the batch's further keys.
        auxiliary: of the N examples; None for none.
        batch: images that are computed together.
    """

    def outputs(changed: Sequence[np.ndarray], example: np.ndarray) -> dict[str, np.ndarray]:
        batches = pipeline.array_batches(
            list(changed),
            mesh_lib.round_up(batch, mesh),
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            carried={name: values[example] for name, values in carried.items()},
            auxiliary=None if auxiliary is None else AuxiliaryAt(auxiliary, example),
        )
        found = collect(predict, variables, batches, mesh, output_names=(COMBINED, EMBEDDING))
        return {name: rows[: len(changed)] for name, rows in found.items()}

    whole = outputs(images, np.arange(len(images)))
    best, near = whole.get(COMBINED, np.zeros((1, 1))).argmax(-1), whole.get(EMBEDDING)

    def score(changed: Sequence[np.ndarray], example: np.ndarray) -> np.ndarray:
        found = outputs(changed, example)
        if near is not None:
            return (found[EMBEDDING] * near[example]).sum(-1)
        return found[COMBINED][np.arange(len(changed)), best[example]]

    return Scored(np.stack(images), score, _ANSWERS if near is None else _NEAR)


def table(
    maps: Mapping[str, np.ndarray],
    given: Scored,
    titles: Mapping[str, str],
    *,
    fill: Sequence[float],
    masks: Sequence[np.ndarray | None] = (),
    randomised: Mapping[str, np.ndarray] | None = None,
    steps: int = STEPS,
    seed: int = 0,
) -> Table:
    """Measures some maps and two controls, noise and a centre prior.

    Args:
        maps: method → (N, h, w), not negative.
        given: the images and their score.
        titles: method → its name.
        fill: (C,), colour of removed pixels.
        masks: per image where its object is, as the model sees it, or None; empty for none.
        randomised: method → its maps of the same network with fresh weights.
        steps, seed: see `measures.deletion_insertion`.
    """
    first, rng = next(iter(maps.values())), np.random.default_rng(seed)
    grid, count = (first.shape[1], first.shape[2]), len(first)
    controls = {
        "random": np.stack([measures.random_map(grid, rng) for _ in range(count)]),
        "centre": np.repeat(measures.centre_prior(grid)[None], count, 0),
    }
    every, randomised = {**maps, **controls}, randomised or {}
    areas = measures.deletion_insertion(given.images, every, given.score, fill=fill, steps=steps, seed=seed)
    values: dict[str, dict[str, np.ndarray]] = {}
    for method, found in every.items():
        deletion, insertion = areas[method]
        values[method] = {"deletion": deletion, "insertion": insertion}
        for name, inside in (("pointing", measures.points_inside), ("energy", measures.energy_inside)):
            values[method][name] = _on_objects(inside, found, masks)
        if method in randomised:
            pairs = zip(found, randomised[method], strict=True)
            values[method]["randomised"] = np.asarray([measures.rank_correlation(a, b) for a, b in pairs])
    known = sum(mask is not None for mask in masks)
    about = f"Explanations of {count} images; the score is {given.about}"
    about += f"; the object is known in {known}" if known else ""
    return Table(values, {**CONTROLS, **titles}, about)


def measure(run: Run, split: str = "test", *, count: int = 32, steps: int = STEPS, seed: int = 0) -> Table:
    """Measures every map that a run's model has, over some images of a split.

    Deletion, insertion and the two shares of the object need (steps − 1) · 2 forward passes per image and map.

    Args:
        run: a trained run with classes, or of re-identification.
        split: of its data set.
        count: number of images, drawn from those of the split.
        steps: see `measures.deletion_insertion`.
        seed: of the images that are drawn and of the random control.

    Raises:
        UserError: a model without a map over the image, a contrastive run, or a split that cannot be read.
    """
    names = run.task.scorer.output_names
    if "embedding/" in names:
        raise UserError(
            f"{run.folder}: faithfulness is measured for models with classes and re-identification"
        )
    if all(stream.keys.kind != "image" for stream in capture.streams(run.task.model.module).values()):
        raise UserError(f"{run.folder}: its model has no attention over the image")
    source, data = run.source(split), run.config.data
    rows, images = _readable(source, count, data, seed)
    part, explainer = take(source, rows, "explained"), Explainer(run)
    with progress.phase("faithfulness: maps", log=False):
        maps = _maps(explainer, source, rows)
        key = jax.random.fold_in(jax.random.key(seed), run.config.seed + 1)  # not that of the run's own start
        fresh = jax.jit(run.task.model.init)(key)["params"]
        explainer.variables = {**run.variables, "params": fresh}
        randomised = _maps(explainer, source, rows)
    given = scored(
        run.compiled,
        run.variables,
        images,
        run.mesh,
        carried={name: np.asarray(part.columns[name], np.int32) for name in data.carry},
        auxiliary=run.task.inputs.prepare("eval/explained", part, run.variables),
        batch=run.config.evaluation.batch_size,
    )
    masks = [mask_as_seen(part, i, data) for i in range(len(rows))]
    with progress.phase("faithfulness: deletion and insertion", log=False):
        return table(
            maps,
            given,
            image_maps.TITLES,
            fill=_fill(images, data),
            masks=masks,
            randomised=randomised,
            steps=steps,
            seed=seed,
        )


def of_report(
    predict: Predict,
    variables: Variables,
    source: Source,
    shown: Sequence[Shown],
    data: ConfigDict,
    mesh: Mesh,
    *,
    title: str,
    auxiliary: Auxiliary | None = None,
) -> ReportFields:
    """The maps that a report shows, measured on some of its examples; empty for a model without such maps.

    Args:
        predict: compiled, of the explanation; its program for the batches of `run_report.examples` is used again.
        variables: of the model.
        source: the split.
        shown: examples of the report.
        data: `config.data`.
        mesh: of the devices.
        title: what the maps are called.
        auxiliary: of the split.
    """
    batch = min(len(shown), BATCH)
    some = [(one, one.rollout, i) for one, i, _ in spread(shown, REPORTED) if one.rollout is not None]
    if not some:
        return {}
    index = np.asarray([i for *_, i in some])
    images = [pipeline.view(source, i, data) for i in index.tolist()]
    given = scored(
        predict,
        variables,
        images,
        mesh,
        carried={name: np.asarray(source.columns[name], np.int32)[index] for name in data.carry},
        auxiliary=None if auxiliary is None else AuxiliaryAt(auxiliary, index),
        batch=batch,
    )
    made = table(
        {"map": np.stack([map for _, map, _ in some])},
        given,
        {"map": title},
        fill=_fill(images, data),
        masks=[mask_as_seen(source, i, data) for i in index.tolist()],
        steps=REPORTED_STEPS,
    )
    about = f"Measured on {len(some)} of these examples, which are confident ones; the score is {given.about}"
    return {"measured": dataclasses.replace(made, about=about)}


def mask_as_seen(source: Source, i: int, data: ConfigDict) -> np.ndarray | None:
    """The object of example `i` after the evaluation transform, (h, w) bool; None where it is not known, or out of view."""
    mask = object_mask(source, i)
    if mask is None or data.modalities:
        return None
    outside = data.copy_and_resolve_references()
    outside.mean = (0.0, 0.0, 0.0)  # of which the transform's border is made
    seen = transforms.eval_transform(outside)(np.repeat(mask[..., None] * np.uint8(255), 3, 2))[..., 0] >= 128
    return seen if seen.any() and not seen.all() else None


def _readable(source: Source, count: int, data: ConfigDict, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Positions of at most `count` examples, drawn from those that can be read, and their images as the model sees them."""
    found: dict[int, np.ndarray] = {}
    for i in np.random.default_rng(seed).permutation(len(source)).tolist():
        if len(found) == count:
            break
        try:
            found[i] = pipeline.view(source, i, data)
        except Exception:  # reading an image may raise anything; evaluation reports it
            continue
    if not found:
        raise UserError(f"{source.name}, split {source.split!r}: no image can be read")
    rows = np.sort(list(found))
    return rows, [found[i] for i in rows.tolist()]


def _maps(explainer: Explainer, source: Source, rows: np.ndarray) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {}
    for start in range(
        0, len(rows), explainer.batch
    ):  # the attention of all images might not fit into memory
        captured = explainer.rows(source, rows[start : start + explainer.batch]).captured
        for name in image_maps.available(captured):
            found.setdefault(name, []).append(image_maps.image_map(captured, name))
    return {name: np.concatenate(maps) for name, maps in found.items()}


def _on_objects(
    inside: Callable[[np.ndarray, np.ndarray], float],
    maps: np.ndarray,
    masks: Sequence[np.ndarray | None],
) -> np.ndarray:
    pairs = zip(maps, masks or [None] * len(maps), strict=True)
    return np.asarray([np.nan if mask is None else inside(map, mask) for map, mask in pairs])


def _fill(images: Sequence[np.ndarray], data: ConfigDict) -> list[float]:
    """The mean colour of the data; of images that are not RGB their own mean."""
    colour = transforms.mean_colour(data)
    if colour is not None:
        return [float(c) for c in colour]
    return np.mean([image.mean((0, 1)) for image in images], 0).tolist()
