"""A trained run, opened from its workdir: `run = fusionjax.load("runs/cub"); run.predict(["bird.jpg"])`."""

import functools
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fusionjax import progress, tasks
from fusionjax._version import __version__
from fusionjax.data import datasets
from fusionjax.data.class_names import first_difference
from fusionjax.data.image import transforms
from fusionjax.data.loading import pipeline
from fusionjax.data.loading.auxiliary import Auxiliary
from fusionjax.data.source import Source
from fusionjax.data.unreadable import BadImages
from fusionjax.distributed import mesh as mesh_lib
from fusionjax.errors import UserError
from fusionjax.evaluation.collect import collect
from fusionjax.experiment import exported, prediction, reevaluation, user_images, workdir
from fusionjax.experiment.prediction import Prediction
from fusionjax.experiment.user_images import NamedImage
from fusionjax.models import parameters
from fusionjax.tasks.base.protocol import Facts, Results, Task, Variables
from fusionjax.train import checkpoint, optim, state

if TYPE_CHECKING:
    from fusionjax.experiment.explanation import Explanation
    from fusionjax.experiment.visualization import Visualizer

log = logging.getLogger(__name__)

_BATCH = 16


def load(folder: str | Path) -> "Run":
    """Opens a run: its config, class names and reported weights.

    Args:
        folder: the --workdir of a run, a folder that `fusionjax export` wrote, or such a folder on the Hugging Face hub,
            "hub:owner/name" or "hub:owner/name@revision".

    Raises:
        UserError: no run there, no whole checkpoint, or one of another architecture; files that are missing or damaged.
    """
    folder = exported.place(folder)
    content = workdir.read(folder)
    shared = exported.MARK in content
    if shared:
        exported.verify(folder)
    config = exported.config_of(folder, content) if shared else workdir.config_of(content)
    if workdir.other_version(content):
        log.warning(
            "the run in %s was trained by fusionjax %s, this is %s: what it computes may have changed, see CHANGELOG.md",
            folder,
            workdir.trained_by(content),
            __version__,
        )
    if not content.get("class_names"):
        raise UserError(f"{folder / 'config.json'} lists no class names; train again in another --workdir")
    task = tasks.create(config, Facts(tuple(content["class_names"])))
    if content.get("tokenizer", "") not in ("", task.inputs.fingerprint().get("tokenizer")):
        raise UserError(
            f"{folder}: the tokenizer of config.text.encoder={config.text.encoder!r} is not the one that it was trained with"
        )
    mesh = mesh_lib.create()
    where = mesh_lib.replicated(mesh)
    if shared:
        template = jax.eval_shape(task.model.init, jax.random.key(0))
        variables = mesh_lib.put_replicated(exported.variables(folder, template), mesh)
        return Run(folder, config, task, mesh, variables, content[exported.MARK], exported=True)
    abstract = jax.eval_shape(functools.partial(_state, task, config), jax.random.key(0))
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), abstract)
    if not (folder / "checkpoints").is_dir():
        raise UserError(f"--workdir={folder} holds no checkpoint yet: start its training again to resume it")
    keeper = checkpoint.Checkpointer(folder / "checkpoints", run=content.get("run", ""), read_only=True)
    best = keeper.best_step() if config.train.best_metric else None
    restored = keeper.restore(target, best)
    keeper.close()
    if restored is None:
        raise UserError(f"--workdir={folder} holds no checkpoint yet: start its training again to resume it")
    step, current, _ = restored
    if not (folder / "results.json").exists():
        log.warning(
            "the run in %s is not finished: these are its weights of step %d of %s",
            folder,
            step,
            content.get("steps"),
        )
    return Run(folder, config, task, mesh, current.averaged, step)


def _state(task: Task, config: ConfigDict, key: jax.Array) -> state.TrainState:
    variables = task.model.init(key)
    optimizer = optim.create(
        config.optim,
        variables["params"],
        steps=1,
        steps_per_epoch=1,
        frozen=task.model.frozen,
        parameters=parameters.of(task.model.module),
    )
    return state.create(variables, optimizer, ema=config.optim.ema_decay > 0)


class Run:
    """A trained model with its config and class names.

    Attributes:
        folder: the workdir.
        config: of the run.
        task: see `fusionjax.tasks.base.protocol`; `task.model.module` is the linen module, `task.class_names` its classes.
        variables: the weights, for `task.model.module.apply`.
        step: of the checkpoint that they come from.
        exported: whether the folder is one of `fusionjax export`, without the data and nothing to write to.
    """

    def __init__(
        self,
        folder: Path,
        config: ConfigDict,
        task: Task,
        mesh: Mesh,
        variables: Variables,
        step: int,
        *,
        exported: bool = False,
    ):
        self.exported = exported
        self.folder, self.config, self.task, self.mesh = folder, config, task, mesh
        self.variables, self.step = variables, step
        self.compiled = jax.jit(task.scorer.predict)
        self.bad = BadImages()

    def embed(self, images: Any, *, cameras: Sequence[int] | None = None) -> np.ndarray:
        """Embeddings of some images by a re-identification model: unit vectors, whose products are cosine similarities.

        Args:
            images: one or many, as for `predict`.
            cameras: for a model with a camera embedding, one per image; None uses camera 0 and warns.

        Returns:
            (N, D) float32.

        Raises:
            UserError: an image that is missing or does not decode, a classification run.
        """
        if "embedding" not in self.task.scorer.output_names:
            raise UserError(f"{self.folder} is a run of {self.config.task}: embed() is for re-identification")
        wanted = user_images.named(images)
        n = self.config.model.cameras
        if n and cameras is None and wanted:
            log.warning("the model has an embedding of %d cameras and none is given: camera 0 is used", n)
        cameras = [0] * len(wanted) if cameras is None else list(cameras)
        if len(cameras) != len(wanted) or any(not 0 <= c < max(n, 1) for c in cameras):
            raise UserError(f"cameras={cameras}: one for each of {len(wanted)} images, 0 … {max(n, 1) - 1}")
        found = [np.zeros((0, 0), np.float32)] if not wanted else []
        for start in range(0, len(wanted), _BATCH):
            part = slice(start, start + _BATCH)
            pixels, _ = self._read(wanted[part])
            out = self._outputs_of(pixels, ("embedding",), _BATCH, cameras=cameras[part])
            found.append(out["embedding"][: len(pixels)])
        return np.concatenate(found)

    def predict(
        self,
        images: Any,
        *,
        texts: Sequence[str] | None = None,
        sounds: Sequence[str | Path | None] | None = None,
        top: int = 5,
        batch: int = _BATCH,
        skip_bad: bool = False,
    ) -> list[Prediction]:
        """Classes and maps of some images.

        Args:
            images: one or many: names of files, of folders (all images below them) or patterns such as `photos/*.jpg`; encoded
                bytes; PIL pictures; uint8 RGB arrays (h, w, 3) of any size.
            texts: one per image, for a model with text input; None for any other.
            sounds: one file per image, for a model with audio input, None or "" for no sound; None for no sound at all.
            top: classes to name.
            batch: images that are computed together.
            skip_bad: an image that cannot be read gives a `Prediction` with `error` set, instead of an exception.

        Returns:
            One prediction per image, in their order.

        Raises:
            UserError: an image or a sound that is missing or does not decode, texts that are missing or too many, a run of
                re-identification.
        """
        return list(
            self.predictions(images, texts=texts, sounds=sounds, top=top, batch=batch, skip_bad=skip_bad)
        )

    def predictions(
        self,
        images: Any,
        *,
        texts: Sequence[str] | None = None,
        sounds: Sequence[str | Path | None] | None = None,
        top: int = 5,
        batch: int = _BATCH,
        skip_bad: bool = False,
    ) -> Iterator[Prediction]:
        """As `predict`, one after another: a batch of images is in memory at a time."""
        wanted = user_images.named(images)
        for name, number in (("top", top), ("batch", batch)):
            if not isinstance(number, int | np.integer) or number < 1:
                raise UserError(f"{name}={number!r} is no whole number of at least 1")
        prediction.check_classes(self.folder, self.task)
        prediction.check_beside(self.folder, self.task, len(wanted), texts, sounds)
        if sounds is None and self.task.inputs.reads_sound and wanted:
            log.warning("the model has audio input and no sound is given: it predicts without sound")
        size = min(batch, max(1, len(wanted)))
        for start in range(0, len(wanted), size):
            part = slice(start, start + size)
            auxiliary = self.task.inputs.from_user(
                self.variables, texts=texts and texts[part], sounds=sounds and sounds[part]
            )
            yield from self._predict(wanted[part], auxiliary, top, size, skip_bad)

    def _predict(
        self, images: Sequence[NamedImage], auxiliary: Auxiliary | None, top: int, size: int, skip_bad: bool
    ) -> Iterator[Prediction]:
        pixels, errors = self._read(images, skip_bad=skip_bad)
        names = ("probabilities/combined", "rollout", "selected")
        out = {} if all(errors) else self._outputs_of(pixels, names, size, auxiliary=auxiliary)
        for i, (image, error) in enumerate(zip(images, errors, strict=True)):
            if error:
                yield Prediction(image.name, None, (), np.zeros(0, np.float32), None, None, error)
                continue
            p = out["probabilities/combined"][i]
            order = np.argsort(-p, kind="stable")[:top]
            yield Prediction(
                name=image.name,
                image=pixels[i],
                classes=tuple(self.task.class_names[k] for k in order),
                probabilities=p[order],
                rollout=out["rollout"][i].reshape(self.task.model.grid) if "rollout" in out else None,
                selected=out["selected"][i] if "selected" in out else None,
            )

    def _read(
        self, images: Sequence[NamedImage], *, skip_bad: bool = False
    ) -> tuple[list[np.ndarray], list[str]]:
        """The images as the model sees them and why each cannot be read; with `skip_bad` a blank one for such an image."""
        data = self.config.data
        view = transforms.eval_transform(data)

        def one(image: NamedImage) -> tuple[np.ndarray | None, str]:
            pixels, error = image.read(data.max_pixels, data.value_range)
            return (None if pixels is None else view(pixels)), error

        with ThreadPoolExecutor(min(data.threads, max(1, len(images)))) as pool:
            read = list(pool.map(one, images))
        for image, (_, error) in zip(images, read, strict=True):
            if error and not skip_bad:
                raise UserError(f"{image.name} cannot be read: {error}")
        blank = next(
            (np.zeros_like(pixels) for pixels, _ in read if pixels is not None), np.zeros((1, 1, 3), np.uint8)
        )
        return [blank if pixels is None else pixels for pixels, _ in read], [error for _, error in read]

    def _outputs_of(
        self,
        pixels: list[np.ndarray],
        output_names: tuple[str, ...],
        size: int,
        *,
        cameras: Sequence[int] = (),
        auxiliary: Auxiliary | None = None,
    ) -> dict[str, np.ndarray]:
        """The outputs that `output_names` names, for images as the model sees them."""
        carried = {
            name: cameras if name == "camera" and cameras else [0] * len(pixels)
            for name in self.config.data.carry
        }
        batches = pipeline.array_batches(
            pixels,
            mesh_lib.round_up(size, self.mesh),
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            carried=carried,
            auxiliary=auxiliary,
        )
        return collect(self.compiled, self.variables, batches, self.mesh, output_names=output_names)

    def attention(self, image: Any) -> Prediction:
        """The maps of one image: `.rollout`, `.selected`."""
        return self.predict([image])[0]

    def explain(
        self,
        images: Any,
        *,
        texts: Sequence[str] | None = None,
        sounds: Sequence[str | Path | None] | None = None,
        target: str | None = None,
    ) -> "Explanation":
        """What the model attends to in some images: `.show()`, `.figure("layers")`, `.save("a.pdf")`.

        Args:
            images, texts, sounds: as for `predict`.
            target: class of the gradients; None for the predicted one of each image.

        Raises:
            UserError: an image or a sound that cannot be read, texts that are missing, or a class that is not of the run.
        """
        return self._visualizer.images(images, texts=texts, sounds=sounds, target=target)

    @functools.cached_property
    def _visualizer(self) -> "Visualizer":
        from fusionjax.experiment import visualization  # which opens runs itself

        return visualization.Visualizer(self, [k for k in visualization.kinds(self) if k != "partner"])

    def source(self, split: str) -> Source:
        """A split of the run's data set.

        Raises:
            UserError: its classes are not those of the run, where they must be.
        """
        root = self.config.data.root
        try:
            found = datasets.create(self.config.data, split, seed=self.config.seed)
        except UserError as e:
            if self.exported:
                raise UserError(
                    f"{e}; {self.folder} was exported without its data: evaluate the run in its own --workdir"
                ) from None
            if not root or Path(root).expanduser().exists():
                raise
            raise UserError(
                f"{e}; if the data of {self.folder} have moved, start its training command again with their new place, "
                "--config.data.root=…"
            ) from None
        if self.task.scorer.closed_set and tuple(found.class_names) != tuple(self.task.class_names):
            difference = first_difference(self.task.class_names, found.class_names)
            raise UserError(f"the data set's classes are not those of {self.folder}: {difference}")
        return found

    def outputs(
        self, split: str, *, output_names: tuple[str, ...] | None = None
    ) -> tuple[Source, dict[str, np.ndarray]]:
        """The source of a split, and `task.scorer.predict`'s outputs over all of it.

        Args:
            split: of the run's data set.
            output_names: prefixes of the outputs' names; None for those that the scorer reads.
        """
        source = self.source(split)
        return source, self.outputs_of(self.task, split, source, output_names)

    def evaluate(self, splits: Sequence[str] | None = None) -> Results:
        """The task's results, computed again from the images; `task.scorer.scalars` converts them to numbers.

        Problems that affect every score, such as a text that leaks the label, are logged as warnings.

        Args:
            splits: None for those of the config.

        Warns where a split is not the data that the run was trained and scored with.
        """
        found = reevaluation.evaluate(self, splits)
        for line in found.warnings:
            log.warning("%s", line)
        return found.results

    def outputs_of(
        self, task: Task, split: str, source: Source, output_names: tuple[str, ...] | None = None
    ) -> dict[str, np.ndarray]:
        """As `outputs`, for a source and a task that was built for it."""
        batches = pipeline.eval_batches(
            source,
            self.config.data,
            batch_size=mesh_lib.round_up(self.config.evaluation.batch_size, self.mesh),
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            bad=self.bad,
            auxiliary=task.inputs.prepare(f"eval/{split}", source, self.variables),
        )
        names = output_names or task.scorer.output_names
        size = self.config.evaluation.batch_size
        with progress.phase(f"evaluating {split}", len(source), "images", log=False) as phase:
            tracked = phase.track(batches, size)
            return collect(self.compiled, self.variables, tracked, self.mesh, output_names=names)
