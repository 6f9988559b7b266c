"""Explanations of images by a run: which images, what was captured of them, and how they are captioned."""

import dataclasses
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusionjax import progress
from fusionjax.data import class_names
from fusionjax.data.image import transforms
from fusionjax.data.loading import pipeline
from fusionjax.data.multispectral.channels import channel_map
from fusionjax.data.unreadable import why_unreadable
from fusionjax.errors import UserError
from fusionjax.experiment import explanation, prediction, user_images
from fusionjax.experiment.choice import choose
from fusionjax.experiment.explain import Explained, Explainer
from fusionjax.experiment.explanation import FORMATS, Explanation, chosen
from fusionjax.experiment.user_images import NamedImage
from fusionjax.interpret import capture, geometry, views
from fusionjax.interpret.geometry import Cells
from fusionjax.interpret.panel_figures import WIDTH, Row
from fusionjax.interpret.panels import Picture
from fusionjax.interpret.view import Streams, View
from fusionjax.models import parameters

if TYPE_CHECKING:
    from fusionjax.experiment.inference import Run

log = logging.getLogger(__name__)

CHUNK = 8
"""Images whose attention is in memory at a time."""
_LEAST, _SHOWN = 256, 1024
"""Pixels of the longer side of an image that is drawn, at least and at most."""


def kinds(run: "Run") -> tuple[str, ...]:
    """The kinds of figures that a run can have; see `views.KINDS`."""
    streams = {stream.name: stream for stream in capture.streams(run.task.model.module).values()}
    return _fitting(streams, not any(name.startswith("embedding") for name in run.task.scorer.output_names))


def _fitting(streams: Streams, scored: bool) -> tuple[str, ...]:
    return tuple(name for name, kind in views.KINDS.items() if kind.fits(streams, scored))


class Visualizer:
    """Explains images by one run; its program is compiled once.

    Args:
        run: a trained run.
        wanted: kinds of figures, for which gradients and pairs are computed where they need them; "" is that of a paper.

    Raises:
        UserError: the run cannot have a figure of such a kind.
    """

    def __init__(self, run: "Run", wanted: Sequence[str] = ()):
        self.run, self.kinds, self.name = run, kinds(run), run.folder.name or str(run.folder)
        drawn = [chosen(kind, self.kinds, self.name) for kind in wanted]
        self.gradients, self._pairs = any(kind.wants_gradients for kind in drawn), "partner" in wanted
        data = run.config.data
        self._parts = channel_map(data.modalities, data.channels).modalities if data.modalities else ()
        self._explainers = {size: Explainer(run, batch=size) for size in (1, CHUNK)}
        self._cells = {
            one.grid: (Cells(one.grid[0], *one.patch_spacing), Cells(one.grid[1], *one.patch_spacing))
            for _, one in parameters.networks(run.task.model.module)
            if hasattr(one, "patch_spacing")
        }

    def images(
        self,
        images: Any,
        *,
        texts: Sequence[str] | None = None,
        sounds: Sequence[str | Path | None] | None = None,
        target: str | None = None,
    ) -> Explanation:
        """Explains a user's images; arguments and errors as for `Run.explain`."""
        return self.named(user_images.named(images), texts=texts, sounds=sounds, target=target)

    def named(
        self, wanted: Sequence[NamedImage], *, texts: Sequence[str] | None = None,
        sounds: Sequence[str | Path | None] | None = None, target: str | None = None,
    ) -> Explanation:  # fmt: skip
        """As `images`, for images that have names."""
        data = self.run.config.data
        if self._parts:
            raise UserError(
                f"{self.run.folder} reads images of several modalities: draw examples of its data, by --split"
            )
        prediction.check_beside(self.run.folder, self.run.task, len(wanted), texts, sounds)
        originals = []
        for image in wanted:
            pixels, error = image.read(data.max_pixels, data.value_range)
            if pixels is None:
                raise UserError(f"{image.name} cannot be read: {error}")
            originals.append(pixels)
        found = self._explainer(len(wanted)).images(
            [image.content for image in wanted],
            texts=texts,
            sounds=sounds,
            target=self._class(target),
            gradients=self.gradients,
            pairs=self._pairs,
        )
        found = dataclasses.replace(found, names=[image.name for image in wanted])
        return self.explanation(found, originals, self._class(target))

    def rows(self, split: str, rows: np.ndarray, *, target: str | None = None) -> Explanation:
        """Explains examples of a split.

        Args:
            split: of the run's data set.
            rows: (N,) int, positions in it.
            target: as for `Run.explain`, or "label" for the true class of each.
        """
        source, data = self.run.source(split), self.run.config.data
        originals = []
        for row in rows:
            try:
                originals.append(pipeline.read_image(source, int(row), data))
            except Exception as e:
                why = why_unreadable(e, source.names[int(row)])
                raise UserError(f"{source.names[int(row)]} cannot be read: {why}") from None
        explained = "label" if target == "label" else self._class(target)
        found = self._explainer(len(rows)).rows(
            split, np.asarray(rows), target=explained, gradients=self.gradients, pairs=self._pairs
        )
        chosen_class = None if target == "label" else self._class(target)
        return self.explanation(found, originals, chosen_class, source.class_names)

    def _explainer(self, count: int) -> Explainer:
        """For a single image it does not compute a whole batch."""
        return self._explainers[1 if count == 1 else CHUNK]

    def _class(self, name: str | None) -> int | None:
        if name is None:
            return None
        names = list(self.run.task.class_names)
        if name not in names:
            raise UserError(f"{self.name} has no class {name!r}{class_names.suggestion(name, names)}")
        return names.index(name)

    def explanation(
        self, found: Explained, originals: Sequence[np.ndarray], target: int | None = None,
        label_names: Sequence[str] = (),
    ) -> Explanation:  # fmt: skip
        """What was captured, ready to be drawn.

        Args:
            found: of `Explainer`.
            originals: the images before the preprocessing, (h, w, C) of any size.
            target: class of the gradients, if it is one for all, for the captions.
            label_names: of the labels, which are not the run's classes in re-identification.
        """
        pictures = [self._picture(found, i, image, target, label_names) for i, image in enumerate(originals)]
        shown = [
            View(found.captured[i], found.words[i], found.sounds[i], tuple(pictures[i].parts))
            for i in range(len(originals))
        ]
        kinds = _fitting(found.captured.streams, bool(found.captured.gradients))
        return Explanation(self.name, tuple(pictures), tuple(shown), kinds)

    def _picture(
        self, found: Explained, i: int, image: np.ndarray, target: int | None, label_names: Sequence[str]
    ) -> Picture:
        name = found.names[i]
        h, w = image.shape[:2]
        placement = geometry.of(self.run.config.data, h, w)
        text = caption(self.run, found, i, name, target, label_names)
        parts = {part: transforms.picture_of(image[..., channels]) for part, channels in self._parts}
        picture = Picture(name, transforms.picture_of(image), placement, text, self._cells, parts)
        longest = max(h, w)
        return picture.at_most(max(1, round(w * min(1.0, _SHOWN / longest)))).at_least(_LEAST)


def caption(
    run: "Run",
    found: Explained,
    i: int,
    name: str,
    target: int | None = None,
    label_names: Sequence[str] = (),
) -> str:
    """What is said of an image: its name, its true and predicted class with the probability, and the class of gradients."""
    names, label = run.task.class_names, int(found.labels[i])
    known = label_names or names
    true = known[label] if 0 <= label < len(known) else ""
    parts = [Path(name).name]
    p = found.probabilities
    if p is None:
        return " · ".join([*parts, *([true] if true else [])])
    guess = int(p[i].argmax())
    share = f"{100 * float(p[i, guess]):.0f}\N{NO-BREAK SPACE}%"
    if true and label == guess:
        parts.append(f"{true}, correct ({share})")
    else:
        parts += [f"true: {true}"] if true else []
        parts.append(f"predicted: {names[guess]} ({share})")
    if target is not None and target != guess and found.captured.gradients:
        parts.append(f"gradients of: {names[target]}")
    return " · ".join(parts)


def write(
    runs: Sequence["Run"], wanted: Sequence[str], folder: Path, *, images: Any = None,
    texts: Sequence[str] | None = None, sounds: Sequence[str | Path | None] | None = None, target: str | None = None,
    split: str = "", right: int = 0, wrong: int = 0, random: int = 0, limit: int = 0,
    formats: Sequence[str] = ("png",), width: float = WIDTH,
) -> list[Path]:  # fmt: skip
    """Writes figures of some images by one or several runs, and their numbers.

    Args:
        runs: the first one's data set and results say which examples are drawn; each draws every image.
        wanted: kinds of figures; "" is that of a paper.
        folder: is created.
        images, texts, sounds, target: as for `Run.explain`; without images, examples of a split are drawn.
        split, right, wrong, random, limit: as for `choose`; without any of them, four right and four wrong predictions.
        formats: of `explanation.FORMATS`.
        width: of the figures, in inches.

    Returns:
        The files.

    Raises:
        UserError: a run cannot have such a figure, an image cannot be read, or the runs have different data.
    """
    for form in formats:
        if form not in FORMATS:
            raise UserError(f"{form!r} is no format of a figure: choose of {', '.join(FORMATS)}")
    drawers = [Visualizer(run, wanted) for run in runs]
    if target is not None and not drawers[0].gradients:
        raise UserError(
            "--class is the class of the gradients: it goes with --kind=relevance or gradient_attention, "
            "attention alone is the same for all classes"
        )
    if len({drawer.name for drawer in drawers}) < len(drawers):
        for drawer in drawers:
            drawer.name = str(drawer.run.folder)
    if images is not None:
        named = user_images.named(images)
        for run in runs:
            prediction.check_beside(run.folder, run.task, len(named), texts, sounds)
        if limit and len(named) > limit:
            log.warning(
                "%d images are named and the first %d are drawn: raise --limit for more", len(named), limit
            )
        named = named[: limit or None]
        count = len(named)
    else:
        if not (split or right or wrong or random):
            right = wrong = 4
        split, rows = choose(runs[0], split, right=right, wrong=wrong, random=random, limit=limit)
        count = len(rows)
        _same_data(runs, split)
    if not count:
        raise UserError(f"no example of split {split!r} is as asked: there is nothing to draw")
    found: dict[str, list[Row]] = {kind: [] for kind in wanted}
    with progress.phase("drawing", count, "images", log=False) as phase:
        for part in _chunks(count):
            if images is not None:
                made = [
                    d.named(
                        named[part],
                        texts=texts and texts[part],
                        sounds=sounds and sounds[part],
                        target=target,
                    )
                    for d in drawers
                ]
            else:
                made = [d.rows(split, rows[part], target=target) for d in drawers]
            for kind in wanted:
                found[kind] += _interleaved(made, kind)
            phase.advance(part.stop - part.start)
    written = (
        explanation.write(folder / f"{kind or 'paper'}.{form}", found[kind], kind, width=width)
        for kind in wanted
        for form in formats
    )
    return list(dict.fromkeys(path for paths in written for path in paths))


def _chunks(count: int) -> list[slice]:
    """Parts of at most `CHUNK` images and about the same size: none has a single image, which would have no partner."""
    edges = np.linspace(0, count, -(-count // CHUNK) + 1).astype(int).tolist()
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def _interleaved(made: Sequence[Explanation], kind: str) -> list[Row]:
    """The rows of each image by all runs, one below the other."""
    by_run = [one.by_image(kind, f"{one.run}: " if len(made) > 1 else "") for one in made]
    return [row for images in zip(*by_run, strict=True) for rows in images for row in rows]


def _same_data(runs: Sequence["Run"], split: str) -> None:
    """Refuses runs whose examples of a split are not the same."""
    names = [run.source(split).names for run in runs]
    for run, other in zip(runs[1:], names[1:], strict=True):
        if list(map(str, other)) != list(map(str, names[0])):
            raise UserError(
                f"split {split!r} of {run.folder} has other examples than that of {runs[0].folder}: name images by --images"
            )
