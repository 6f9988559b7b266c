"""Predictions of a trained model for some images: python -m fusionjax.predict --workdir=runs/cub photo1.jpg photo2.jpg

With a re-identification model the first image is the query, and the others are ranked by their similarity to it.
"""

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fusionjax import cli
from fusionjax.arguments import Command, at_least, needed
from fusionjax.errors import UserError

if TYPE_CHECKING:
    from fusionjax.experiment.inference import Run

_LONGEST = 200
"""Bytes of an image's name; file systems allow 255, of which a temporary file needs some."""


def add(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="image files")
    parser.add_argument("--workdir", metavar="DIR", help="folder of a run")
    parser.add_argument(
        "--top", type=at_least(1), default=5, metavar="N", help="classes, or images of a gallery, to name (5)"
    )
    parser.add_argument(
        "--text", action="append", help="text of an image, once per image, for a model that reads it"
    )
    parser.add_argument(
        "--sound", action="append", help='sound file of an image, once per image, "" for none'
    )
    parser.add_argument(
        "--out", metavar="DIR", help="folder of the attention maps; <workdir>/predictions by default"
    )


def main(options: Namespace) -> None:
    """Prints the top classes of every image, and writes a PNG with its maps."""
    needed(options.workdir, "--workdir is missing: name the folder of a run")
    needed(options.images, "no image given: python -m fusionjax.predict --workdir=… photo.jpg …")
    from fusionjax.experiment.inference import load
    from fusionjax.interpret import figures

    run = load(options.workdir)
    if run.task.inputs.reads_text and len(options.text or ()) != len(options.images):
        raise UserError(
            f"the run reads a text of each image: give --text {len(options.images)} times, one for each image"
        )
    if "embedding" in run.task.scorer.output_names:
        _rank(run, options)
        return
    folder = _folder(options.out) if options.out else run.folder / "predictions"
    for i, found in enumerate(
        run.predict(options.images, texts=options.text, sounds=options.sound, top=options.top)
    ):
        print(found.name)
        for name, p in zip(found.classes, found.probabilities, strict=True):
            print(f"  {100 * p:5.1f} %  {name}")
        figure = figures.attention_rows([found.example()])
        if figure is not None and found.rollout is not None:
            folder.mkdir(parents=True, exist_ok=True)
            print(f"  maps: {figures.save(figure, folder / f'{i + 1:03d}_{_shortened(found.name)}.png')}")


def _folder(out: str) -> Path:
    """The folder of --out, which may not exist yet; a UserError where it cannot."""
    folder = Path(out)
    try:
        above = next(part for part in (folder, *folder.absolute().parents) if part.exists())
    except OSError as e:
        raise UserError(f"--out={out} cannot be a folder: {e.strerror}") from None
    if not above.is_dir():
        raise UserError(f"--out={out} cannot be a folder: {above} is a file; name another one")
    return folder


def _shortened(name: str) -> str:
    """The name of an image without folder and suffix, so short that it fits into the name of a file with a prefix."""
    stem = Path(name).stem[:80]
    while len(os.fsencode(stem)) > _LONGEST:
        stem = stem[:-1]
    return stem


def _rank(run: "Run", options: Namespace) -> None:
    """Prints the other images by falling similarity to the first."""
    names: Sequence[str] = options.images
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
        "fusionjax predict --workdir=runs/fusion --text='red apple' apple.png",
    ),
)

if __name__ == "__main__":
    cli.run(COMMAND)
