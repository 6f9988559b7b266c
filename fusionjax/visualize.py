"""Figures of what a trained model attends to: python -m fusionjax.visualize --workdir=runs/cub --images photo.jpg folder/

Without --images it draws examples of the run's own data set.
"""

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from fusionjax import cli, progress
from fusionjax.arguments import Command, at_least, comma_separated, needed, output_folder
from fusionjax.errors import UserError

KINDS = "rollout, glca, layers, heads, words, scales, sound, pca, gradient_attention, relevance, partner"


def _inches(text: str) -> float:
    """Type of --width."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value <= 60:
        raise ArgumentTypeError(f"{text!r} is no number of inches from 1 to 60")
    return value


def add(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "--workdir", metavar="DIR", help="folder of a run, exported or not; or hub:owner/name"
    )
    parser.add_argument("--images", nargs="+", metavar="IMAGE", help="files, folders, patterns")
    parser.add_argument(
        "--text", action="append", help="text of an image, once per image, for a model that reads it"
    )
    parser.add_argument(
        "--sound", action="append", help='sound file of an image, once per image, "" for none'
    )
    parser.add_argument(
        "--split", default="", help="draw examples of it in place of --images; that of the scores"
    )
    parser.add_argument(
        "--right",
        type=at_least(0),
        default=0,
        metavar="N",
        help="right predictions, the most confident of each class in turn",
    )
    parser.add_argument(
        "--wrong", type=at_least(0), default=0, metavar="N", help="wrong predictions, likewise"
    )
    parser.add_argument("--random", type=at_least(0), default=0, metavar="N", help="examples drawn at random")
    parser.add_argument("--limit", type=at_least(1), default=16, metavar="N", help="images in all (16)")
    parser.add_argument(
        "--kind",
        type=comma_separated,
        default=[],
        metavar="A,B+C",
        help=f"{KINDS}; + puts some beside each other",
    )
    parser.add_argument(
        "--paper",
        action="store_true",
        help="input, SA, GLCA, difference, selected patches, layers (without --kind)",
    )
    parser.add_argument(
        "--class", dest="target", metavar="NAME", help='class of the gradients; "label": the true one'
    )
    parser.add_argument("--compare", metavar="RUN", help="another run, drawn below each image")
    parser.add_argument("--faithfulness", action="store_true", help="print how far the maps can be trusted")
    parser.add_argument(
        "--format", type=comma_separated, default=["png"], metavar="A,B", help="png, pdf, svg (png)"
    )
    parser.add_argument("--width", type=_inches, default=7.0, metavar="INCHES", help="of the figures (7)")
    parser.add_argument("--out", metavar="DIR", help="folder of the figures (<workdir>/figures)")


def main(options: Namespace) -> None:
    """Writes the figures and prints their paths."""
    needed(options.workdir, "--workdir is missing: name the folder of a run")
    for name in ("split", "right", "wrong", "random"):
        if options.images and name in options.given:
            raise UserError(f"--images and --{name} both choose what is drawn: leave one of them out")
    for name in ("text", "sound"):
        if name in options.given and not options.images:
            raise UserError(f"--{name} is of --images: examples of a run's own data bring theirs")
    if options.target == "label" and options.images:
        raise UserError("--class=label is for examples of a split: the true class of an image is not known")
    with progress.showing():
        with progress.phase("opening the run", log=False):
            from fusionjax.experiment import visualization
            from fusionjax.experiment.inference import load

            names = [options.workdir, *([options.compare] if options.compare else [])]
            runs = [load(name) for name in names]
        # What was exported may be uploaded: nothing is written there.
        place = Path() if runs[0].exported else runs[0].folder
        folder = output_folder(options.out or str(place / "figures"), writes=True)
        kinds = [*([""] if options.paper or not options.kind else []), *dict.fromkeys(options.kind)]
        made = visualization.write(
            runs, kinds, folder, images=options.images, texts=options.text, sounds=options.sound,
            target=options.target, split=options.split, right=options.right, wrong=options.wrong,
            random=options.random, limit=options.limit, formats=options.format, width=options.width,
        )  # fmt: skip
    print(*made, sep="\n")
    if options.faithfulness:  # a run that cannot be measured has its figures
        with progress.showing():
            from fusionjax.experiment import choice, faithfulness

            table = faithfulness.measure(runs[0], options.split or choice.scored_split(runs[0]))
        print(table.text())


COMMAND = Command(
    "visualize",
    "Figures of what a trained run attends to, for images or for examples of its data.",
    add,
    main,
    (
        "fusionjax visualize --workdir=runs/quickstart --right=4 --wrong=4",
        "fusionjax visualize --workdir=runs/quickstart --images photo.jpg --kind=rollout,layers --format=pdf",
        "fusionjax visualize --workdir=runs/quickstart --compare=runs/sa_only --random=8",
    ),
)

if __name__ == "__main__":
    cli.run(COMMAND)
