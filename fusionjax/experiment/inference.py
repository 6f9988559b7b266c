"""A trained run, opened from its workdir: `run = fusionjax.load("runs/cub"); run.predict(["bird.jpg"])`."""

import dataclasses
import functools
import logging
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fusionjax import tasks
from fusionjax._version import __version__
from fusionjax.data import datasets
from fusionjax.data.image import transforms
from fusionjax.data.image.decode import decode
from fusionjax.data.loading import pipeline
from fusionjax.data.loading.auxiliary import Auxiliary
from fusionjax.data.source import Source
from fusionjax.data.unreadable import BadImages, why_unreadable
from fusionjax.distributed import mesh as mesh_lib
from fusionjax.errors import UserError
from fusionjax.evaluation.collect import collect
from fusionjax.experiment import workdir
from fusionjax.interpret.maps import Example
from fusionjax.models import parameters
from fusionjax.tasks.base.protocol import Facts, Results, Task, Variables
from fusionjax.train import checkpoint, optim, state

log = logging.getLogger(__name__)

Image = str | Path | bytes | np.ndarray


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The prediction of one image.

    Attributes:
        name: the file's, or "image <n>" for an array.
        image: uint8 (S, S, 3), as the model saw it.
        classes: the k most probable class names, the most probable first.
        probabilities: float32 (k,), of these classes.
        rollout: float32 (h, w), the contribution of each patch to CLS, or None.
        selected: int32 (n,), the patches that GLCA selected, by descending weight, or None.
    """

    name: str
    image: np.ndarray
    classes: tuple[str, ...]
    probabilities: np.ndarray
    rollout: np.ndarray | None
    selected: np.ndarray | None

    def example(self) -> Example:
        """For the figures of `fusionjax.interpret`."""
        return Example(
            name=self.name,
            image=self.image,
            true="",
            predicted=self.classes[0],
            probability=float(self.probabilities[0]),
            rollout=self.rollout,
            selected=self.selected,
            grid=None if self.rollout is None else self.rollout.shape,
        )


def load(folder: str | Path) -> "Run":
    """Opens a workdir: its config, class names and reported weights.

    Args:
        folder: the --workdir of a run.

    Raises:
        UserError: no run there, no whole checkpoint, or one of another architecture.
    """
    folder = Path(folder)
    content = workdir.read(folder)
    config = workdir.config_of(content)
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
    """

    def __init__(
        self, folder: Path, config: ConfigDict, task: Task, mesh: Mesh, variables: Variables, step: int
    ):
        self.folder, self.config, self.task, self.mesh = folder, config, task, mesh
        self.variables, self.step = variables, step
        self.compiled = jax.jit(task.scorer.predict)
        self.bad = BadImages()

    def embed(self, images: Sequence[Image], *, cameras: Sequence[int] | None = None) -> np.ndarray:
        """Embeddings of some images by a re-identification model: unit vectors, whose products are cosine similarities.

        Args:
            images: as for `predict`.
            cameras: for a model with a camera embedding, one per image; None uses camera 0 and warns.

        Returns:
            (N, D) float32.

        Raises:
            UserError: an image that is missing or does not decode, a classification run.
        """
        if "embedding" not in self.task.scorer.output_names:
            raise UserError(f"{self.folder} is a run of {self.config.task}: embed() is for re-identification")
        _, _, out = self._apply(images, output_names=("embedding",), cameras=cameras)
        return out["embedding"][: len(images)] if len(images) else np.zeros((0, 0), np.float32)

    def predict(
        self,
        images: Sequence[Image],
        *,
        texts: Sequence[str] | None = None,
        sounds: Sequence[str | Path | None] | None = None,
        top: int = 5,
    ) -> list[Prediction]:
        """Classes and maps of some images.

        Args:
            images: file names, encoded bytes, or uint8 RGB arrays (h, w, 3) of any size.
            texts: one per image, for a model with text input; None for any other.
            sounds: one file per image, for a model with audio input, None or "" for no sound; None for no sound at all.
            top: classes to name.

        Raises:
            UserError: an image or a sound that is missing or does not decode, texts that are missing or too many, a run of
                re-identification.
        """
        if "embedding" in self.task.scorer.output_names:
            raise UserError(f"{self.folder}: re-identification has no classes to predict; use embed()")
        if "embedding/" in self.task.scorer.output_names:
            raise UserError(
                f"{self.folder} has no classes to predict; its embeddings are in embeddings/, its encoders in towers/"
            )
        if self.task.inputs.reads_text and (texts is None or len(texts) != len(images)):
            raise UserError(
                f"{self.folder} reads a text of each image: give {len(images)} texts, one per image"
            )
        if texts is not None and not self.task.inputs.reads_text:
            raise UserError(f"{self.folder} reads no text of an image: leave texts out")
        if sounds is not None and not self.task.inputs.reads_sound:
            raise UserError(f"{self.folder} is a model without audio input: leave sounds out")
        if sounds is not None and len(sounds) != len(images):
            raise UserError(f"{self.folder}: give {len(images)} sounds, one per image, an empty one for none")
        if sounds is None and self.task.inputs.reads_sound and images:
            log.warning("the model has audio input and no sound is given: it predicts without sound")
        auxiliary = self.task.inputs.from_user(self.variables, texts=texts, sounds=sounds) if images else None
        names, pixels, out = self._apply(
            images, output_names=("probabilities/combined", "rollout", "selected"), auxiliary=auxiliary
        )
        found = []
        for i, name in enumerate(names):
            p = out["probabilities/combined"][i]
            order = np.argsort(-p, kind="stable")[:top]
            found.append(
                Prediction(
                    name=name,
                    image=pixels[i],
                    classes=tuple(self.task.class_names[k] for k in order),
                    probabilities=p[order],
                    rollout=out["rollout"][i].reshape(self.task.model.grid) if "rollout" in out else None,
                    selected=out["selected"][i] if "selected" in out else None,
                )
            )
        return found

    def _apply(
        self,
        images: Sequence[Image],
        *,
        output_names: tuple[str, ...],
        cameras: Sequence[int] | None = None,
        auxiliary: Auxiliary | None = None,
    ) -> tuple[list[str], list[np.ndarray], dict[str, np.ndarray]]:
        """Names, the input images as the model sees them, and the outputs that `output_names` names."""
        n = self.config.model.cameras
        if n and cameras is None:
            log.warning("the model has an embedding of %d cameras and none is given: camera 0 is used", n)
        cameras = [0] * len(images) if cameras is None else list(cameras)
        if len(cameras) != len(images) or any(not 0 <= c < max(n, 1) for c in cameras):
            raise UserError(f"cameras={cameras}: one for each of {len(images)} images, 0 … {max(n, 1) - 1}")
        names, pixels = [], []
        view = transforms.eval_transform(self.config.data)
        for i, image in enumerate(images):
            names.append(str(image) if isinstance(image, str | Path) else f"image {i + 1}")
            pixels.append(view(_read(image, names[-1], self.config.data)))
        if not pixels:
            return names, pixels, {}
        batches = pipeline.array_batches(
            pixels,
            mesh_lib.round_up(min(len(pixels), 16), self.mesh),
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            carried={
                name: cameras if name == "camera" else [0] * len(pixels) for name in self.config.data.carry
            },
            auxiliary=auxiliary,
        )
        return (
            names,
            pixels,
            collect(self.compiled, self.variables, batches, self.mesh, output_names=output_names),
        )

    def attention(self, image: Image) -> Prediction:
        """The maps of one image: `.rollout`, `.selected`."""
        return self.predict([image])[0]

    def source(self, split: str) -> Source:
        """A split of the run's data set.

        Raises:
            UserError: its classes are not those of the run, where they must be.
        """
        found = datasets.create(self.config.data, split, seed=self.config.seed)
        if self.task.scorer.closed_set and tuple(found.class_names) != tuple(self.task.class_names):
            raise UserError(
                f"the data set's classes are not those of {self.folder}: {_first_difference(self, found)}"
            )
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
        return source, self._outputs(self.task, split, source, output_names)

    def evaluate(self, splits: Sequence[str] | None = None) -> Results:
        """The task's results, computed again from the images; `task.scorer.scalars` converts them to numbers.

        Problems that affect every score, such as a text that leaks the label, are logged as warnings.

        Args:
            splits: None for those of the config.
        """
        sources = {split: self.source(split) for split in (splits or self.config.data.eval_splits)}
        task = tasks.create(self.config, Facts(self.task.class_names, evaluation=sources))
        outputs = {split: self._outputs(task, split, source) for split, source in sources.items()}
        for line in task.inputs.warnings():
            log.warning(line)
        return task.scorer.evaluate(outputs, sources)

    def _outputs(
        self, task: Task, split: str, source: Source, output_names: tuple[str, ...] | None = None
    ) -> dict[str, np.ndarray]:
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
        return collect(self.compiled, self.variables, batches, self.mesh, output_names=names)


def _first_difference(run: Run, source: Source) -> str:
    for a, b in zip(run.task.class_names, source.class_names, strict=False):
        if a != b:
            return f"{b!r} where the run has {a!r}"
    return f"{len(source.class_names)} where the run has {len(run.task.class_names)}"


def _read(image: Image, name: str, data: ConfigDict) -> np.ndarray:
    try:
        return decode(image, data.max_pixels, data.value_range)
    except Exception as e:
        raise UserError(f"{name} cannot be read: {why_unreadable(e, name)}") from None
