"""What a run attends to in some images, as figures and numbers: `fusionjax.load("runs/cub").explain("bird.jpg").show()`."""

import base64
import dataclasses
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from fusionjax import files
from fusionjax.errors import UserError
from fusionjax.interpret import panel_figures, views
from fusionjax.interpret.panel_figures import Row
from fusionjax.interpret.panels import Picture
from fusionjax.interpret.view import View
from fusionjax.interpret.views import Kind

FORMATS = ("png", "pdf", "svg")
_DPI = 300
_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None},
}  # fmt: skip
"""What would differ between two files of the same figure, left out."""


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """What a run computed for some images, ready to be drawn.

    Attributes:
        run: name of the run.
        pictures: the images as they are drawn, with their captions.
        views: what was captured of each; see `fusionjax.interpret.views`.
        kinds: names of the figures that the run can have.
    """

    run: str
    pictures: tuple[Picture, ...]
    views: tuple[View, ...]
    kinds: tuple[str, ...]

    def figure(self, kind: str = "", *, width: float = panel_figures.WIDTH) -> Figure:
        """Draws one kind of figure.

        Args:
            kind: one of `kinds`, or some beside each other, "rollout+relevance"; "" for the figure of a paper: input, maps,
                difference, selected patches and layers.
            width: in inches.

        Returns:
            A Matplotlib figure: all images, however high that is. `save` writes pages.

        Raises:
            UserError: the run has no such figure.
        """
        return panel_figures.figures(
            self.rows(kind), width=width, columns=self._kind(kind).columns, height=1e4
        )[0]

    def show(self, kind: str = "", *, width: float = panel_figures.WIDTH) -> None:
        """Shows a figure in a notebook; see `figure`. In a plain Python session, use `save`."""
        from IPython.display import Image, display

        display(Image(data=self._png(kind, width), width=int(100 * width)))

    def save(self, path: str | Path, kind: str = "", *, width: float = panel_figures.WIDTH) -> list[Path]:
        """Writes a figure, PNG, PDF or SVG by its suffix, and its numbers beside it (.npz).

        Args:
            path: of the file; further pages get a number before the suffix.
            kind, width: as for `figure`.

        Returns:
            The files, the numbers last.

        Raises:
            UserError: no such kind of figure or of file.
        """
        path = Path(path)
        if path.suffix[1:] not in FORMATS:
            raise UserError(f"{path.name} ends in none of {', '.join(FORMATS)}: name one of these formats")
        return write(path, self.rows(kind), kind, width=width)

    def data(self, kind: str = "") -> dict[str, np.ndarray]:
        """The numbers of a figure by name; see `numbers`."""
        return numbers(self.rows(kind))

    def rows(self, kind: str = "") -> list[Row]:
        """The rows of a figure, for `panel_figures.figures`; arguments and errors of `figure`."""
        return [row for rows in self.by_image(kind) for row in rows]

    def by_image(self, kind: str = "", prefix: str = "") -> list[list[Row]]:
        """The rows of each image.

        Args:
            kind: as for `figure`.
            prefix: begins the caption of each image.
        """
        draw = self._kind(kind).lines
        found = []
        for picture, view in zip(self.pictures, self.views, strict=True):
            rows = []
            for k, (caption, panels) in enumerate(draw(view)):
                head = [f"{prefix}{picture.caption}"] if not k else []
                text = " · ".join([*head, *([caption] if caption else [])])
                rows.append(Row(dataclasses.replace(picture, caption=text), panels))
            found.append(rows)
        return found

    def _kind(self, kind: str) -> Kind:
        return chosen(kind, self.kinds, self.run)

    def _png(self, kind: str, width: float) -> bytes:
        made = io.BytesIO()
        self.figure(kind, width=width).savefig(made, format="png", dpi=200)
        return made.getvalue()

    def _repr_html_(self) -> str:
        picture = base64.b64encode(self._png("", panel_figures.WIDTH)).decode()
        names = ", ".join(self.kinds)
        alt = html.escape("; ".join(p.caption for p in self.pictures), quote=True)
        return (
            f'<img src="data:image/png;base64,{picture}" alt="{alt}" style="max-width:100%">'
            f"<p>.show(kind) draws others: {html.escape(names)}</p>"
        )


def chosen(kind: str, kinds: Sequence[str], run: str) -> Kind:
    """A kind of figure by its name, as `views.kind`.

    Raises:
        UserError: there is none, or the run cannot have it; it names those that it can.
    """
    has = ", ".join(kinds) or "none"
    if not kind and "layers" not in kinds:
        raise UserError(f"{run} has no attention over patches: name a kind of figure, of {has}")
    parts = kind.split("+") if kind else []
    for part in parts:
        if part not in kinds:
            what = "the run has no" if part in views.KINDS else "there is no"
            raise UserError(f"{what} figure of kind {part!r}: {run} has {has}")
        if len(parts) > 1 and part not in views.BESIDE:
            raise UserError(
                f"kind {part!r} is a figure of its own: beside each other stand {', '.join(views.BESIDE)}"
            )
    return views.kind(kind)


def numbers(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """The values of panels by their keys, as a figure's data file holds them.

    Args:
        rows: of a figure, several for an image, each image's together.

    Returns:
        "image": (N,) names; "caption": (N,); "size" (N, 2), pixels of each image as it is drawn; "seen" (N, 4), top, left,
        bottom and right of what the network sees, in these pixels; and the values of each panel by its key, (N, …), or
        "<key>_<n>" of each image where their shapes differ.
    """
    images: list[tuple[Picture, dict[str, np.ndarray]]] = []
    for row in rows:
        found = {p.key: np.asarray(p.values) for p in row.panels if p.values is not None}
        if (
            images
            and images[-1][0].original is row.picture.original
            and not found.keys() & images[-1][1].keys()
        ):
            images[-1][1].update(found)
        else:
            images.append((row.picture, found))
    places = [picture.placement for picture, _ in images]
    made: dict[str, np.ndarray] = {
        "image": np.array([picture.name for picture, _ in images], np.str_),
        "caption": np.array([picture.caption for picture, _ in images], np.str_),
        "size": np.array([place.size for place in places]),
        "seen": np.array([(p.rows.seen[0], p.columns.seen[0], p.rows.seen[1], p.columns.seen[1]) for p in places]),
    }  # fmt: skip
    for key in dict.fromkeys(key for _, values in images for key in values):
        having = {i: values[key] for i, (_, values) in enumerate(images) if key in values}
        if len(having) == len(images) and len({values.shape for values in having.values()}) == 1:
            made[key] = np.stack(list(having.values()))
        else:
            made |= {f"{key}_{i}": values for i, values in having.items()}
    return made


def write(path: Path, rows: Sequence[Row], kind: str, *, width: float) -> list[Path]:
    """Writes the pages of a figure, and its numbers beside it.

    Args:
        path: of the first page; its suffix is the format.
        rows: of the figure.
        kind: of the figure; "" for that of a paper.
        width: in inches.

    Returns:
        The files, the numbers last.
    """
    made = panel_figures.figures(rows, width=width, columns=views.kind(kind).columns)
    paths = [path if i == 0 else path.with_stem(f"{path.stem}_{i + 1}") for i in range(len(made))]
    for figure, page in zip(made, paths, strict=True):
        _save(figure, page)
    beside = path.with_suffix(".npz")
    with files.replacing(beside) as part, part.open("wb") as file:
        np.savez_compressed(file, **numbers(rows))  # type: ignore[arg-type]
    return [*paths, beside]


def _save(figure: Figure, path: Path) -> None:
    """Writes a figure in one step, with text as text in PDF and SVG."""
    form = path.suffix[1:]
    with (
        files.replacing(path) as part,
        matplotlib.rc_context({"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "fusionjax"}),
    ):
        figure.savefig(part, format=form, dpi=_DPI, facecolor="white", metadata=_METADATA[form])
