"""HTML pages with their pictures: rendered from a template, and replaced as a whole."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import jinja2

PAGE = "index.html"
_TEMPLATES = Path(__file__).parent / "templates"


def number(value: float | str) -> str:
    """A fraction as per cent with one decimal; text as it is."""
    return value if isinstance(value, str) else f"{value:.1%}".replace("%", "\N{NO-BREAK SPACE}%")


def share(value: float) -> str:
    """A fraction as per cent with one decimal, without the sign."""
    return f"{100 * value:.1f}"


def render(template: str, **values: object) -> str:
    """A template of `templates/`, filled in; all text is escaped.

    Args:
        template: its file name; it extends page.html, which shows `warnings` and holds the style sheet.
        **values: that it names, `warnings` among them.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "share": share}
    return environment.get_template(template).render(**values)


@contextlib.contextmanager
def replacing(
    folder: Path, kind: str, *, pictures: Sequence[str], beside: Sequence[str] = ()
) -> Iterator[Path]:
    """A temporary folder whose files take their places in `folder` when the block ends, index.html last.

    A page is whole or absent whenever the process is killed. Pictures of an earlier page that this one lacks are removed;
    other files in the folder are left alone.

    Args:
        folder: of the page; made if absent.
        kind: of the page: names the temporary folder, so that what a killed process left is found and removed.
        pictures: patterns of the pictures that such a page may have.
        beside: further files that the block writes, besides index.html and its pictures.

    Yields:
        The temporary folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f".{kind}-*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{kind}-") as name:
        made = Path(name)
        yield made
        (folder / PAGE).unlink(missing_ok=True)  # the old page does not show new pictures
        new = sorted(path.name for path in made.glob("*.png"))
        for old in {path for pattern in pictures for path in folder.glob(pattern)}:
            if old.name not in new:
                old.unlink()
        for file in (*new, *beside, PAGE):
            os.replace(made / file, folder / file)
