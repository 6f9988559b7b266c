"""Predictions of a trained model for some images: python -m fusionjax.predict --workdir=runs/cub photo.jpg folder/

With a re-identification model the first image is the query, and the others are ranked by their similarity to it.
"""

import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fusionjax import cli
from fusionjax.arguments import Command, at_least, needed, output_folder
from fusionjax.errors import UserError

if TYPE_CHECKING:
    from fusionjax.experiment.inference import Run
    from fusionjax.experiment.prediction import Prediction

_MAPS = 16
"""Images up to which maps are drawn unasked."""


def add(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "images",
        nargs="*",
        metavar="IMAGE",
        help="files, folders, patterns; - reads a list from standard input",
    )
    parser.add_argument(
        "--workdir", metavar="DIR", help="folder of a run, exported or not; or hub:owner/name"
    )
    parser.add_argument(
        "--top", type=at_least(1), default=5, metavar="N", help="classes, or images of a gallery, to name (5)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON: a list with an object per image")
    parser.add_argument("--csv", action="store_true", help="print CSV: a row per image")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder of the maps; without it, of up to 16 images: <workdir>/predictions",
    )
    parser.add_argument(
        "--text", action="append", help="text of an image, once per image, for a model that reads it"
    )
    parser.add_argument(
        "--sound", action="append", help='sound file of an image, once per image, "" for none'
    )
    parser.add_argument(
        "--batch", type=at_least(1), default=16, metavar="N", help="images computed together (16)"
    )


def main(options: Namespace) -> int:
    """Prints the top classes of every image, and draws its maps; exit code 1 where some cannot be read."""
    needed(options.workdir, "--workdir is missing: name the folder of a run")
    needed(options.images, "no image given: fusionjax predict --workdir=… photo.jpg …")
    if options.json and options.csv:
        raise UserError("--json and --csv are two forms of one answer: choose one")
    from fusionjax.experiment import answers, user_images
    from fusionjax.experiment.inference import load

    names = [line for name in options.images for line in ([name] if name != "-" else _listed())]
    options.images = [
        image.content for image in user_images.named(needed(names, "standard input lists no image"))
    ]
    run = load(options.workdir)
    if run.task.inputs.reads_text and len(options.text or ()) != len(options.images):
        raise UserError(f"the run reads a text of each image: give --text {len(options.images)} times")
    if "embedding" in run.task.scorer.output_names:
        _rank(run, options)
        return 0
    found = _with_progress(
        run.predictions(
            options.images,
            texts=options.text,
            sounds=options.sound,
            top=options.top,
            batch=options.batch,
            skip_bad=True,
        ),
        len(options.images),
    )
    # What was exported may be uploaded: nothing is written there.
    folder = output_folder(options.out or str((Path() if run.exported else run.folder) / "predictions"))
    draws = bool(options.out) or len(options.images) <= _MAPS
    form = "json" if options.json else "csv" if options.csv else "text"
    bad = answers.write(found, form, top=options.top, maps=folder if draws else None)
    if bad:
        print(f"fusionjax: {bad} of {len(options.images)} images cannot be read", file=sys.stderr)
    return 1 if bad else 0


def _listed() -> list[str]:
    # As find writes them, with -print0 too; only a line break ends a name.
    return [line for line in re.split("\r?\n|\0", sys.stdin.read()) if line.strip()]


def _with_progress(found: "Iterator[Prediction]", count: int) -> "Iterator[Prediction]":
    import tqdm

    # Not for a few images, whose answers are lines of their own.
    return iter(
        tqdm.tqdm(found, total=count, unit=" images", disable=True if count <= _MAPS else None, leave=False)
    )


def _rank(run: "Run", options: Namespace) -> None:
    """Prints the other images by falling similarity to the first."""
    names: list[str] = options.images
    if options.out:
        raise UserError("--out is for attention maps; a re-identification run prints similarities")
    if len(names) < 2:
        raise UserError("a re-identification run compares images: name the query first, then the gallery")
    embeddings = run.embed(names)
    similarity = embeddings[1:] @ embeddings[0]
    print(names[0])
    for i in sorted(range(len(similarity)), key=lambda i: -similarity[i])[: options.top]:
        print(f"  {similarity[i]:7.4f}  {names[1 + i]}")


COMMAND = Command(
    "predict",
    "Predictions of a trained run for images, with their attention maps.",
    add,
    main,
    (
        "fusionjax predict --workdir=runs/quickstart photo.jpg",
        "fusionjax predict --workdir=runs/quickstart photos/ --csv > answers.csv",
        "fusionjax predict --workdir=runs/fusion --text='red apple' apple.png",
    ),
)

if __name__ == "__main__":
    cli.run(COMMAND)
