"""HTML pages with their pictures: rendered from a template, and replaced as a whole."""

import contextlib
import json
import os
import shutil
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import jinja2

from fusionjax import files

PAGE = "index.html"
_TEMPLATES = Path(__file__).parent / "templates"


def number(value: float | str) -> str:
    """A fraction as per cent with one decimal; text as it is."""
    return value if isinstance(value, str) else f"{value:.1%}".replace("%", "\N{NO-BREAK SPACE}%")


def share(value: float) -> str:
    """A fraction as per cent with one decimal, without the sign."""
    return f"{100 * value:.1f}"


def link(folder: Path, target: Path) -> str:
    """The relative URL of a file for a page in `folder`; both are resolved, so that a link to a folder does not mislead it."""
    return urllib.parse.quote(os.fsencode(os.path.relpath(target.resolve(), folder.resolve())))


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
def replacing(folder: Path, kind: str) -> Iterator[Path]:
    """A temporary folder whose files take their places in `folder` when the block ends, index.html last.

    A page is whole or absent whenever the process is killed. Files of an earlier page that this one lacks are removed: those
    that its list names, which is kept beside it. All others in the folder are left alone.

    Args:
        folder: of the page; made if absent.
        kind: of the page: names its list and the temporary folder, so that what a killed process left is found and removed.

    Yields:
        The temporary folder, in which the block writes index.html and the files beside it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f".{kind}-*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{kind}-") as name:
        made = Path(name)
        yield made
        new = sorted(path.name for path in made.iterdir() if path.name != PAGE)
        written = folder / f".{kind}.json"
        old = _listed(written)
        files.write_text(written, json.dumps(sorted({*old, *new})))  # before the first of them is there
        (folder / PAGE).unlink(missing_ok=True)  # the old page does not show new pictures
        for file in set(old) - set(new):
            if (folder / file).is_file():
                (folder / file).unlink()
        for file in (*new, PAGE):
            os.replace(made / file, folder / file)
        files.write_text(written, json.dumps(new))


def _listed(path: Path) -> list[str]:
    """The names in a list of written files; none where it is missing or damaged. A name leads to no other folder."""
    try:
        names = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return []
    return [n for n in names if isinstance(n, str) and n == Path(n).name] if isinstance(names, list) else []
