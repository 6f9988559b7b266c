"""Writes a trained run into a folder for others: python -m fusionjax.export --workdir=runs/cub --hub=shared/cub"""

import re
from argparse import ArgumentParser, Namespace

from fusionjax import cli
from fusionjax.arguments import Command, needed, output_folder
from fusionjax.errors import UserError


def add(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--workdir", metavar="DIR", help="folder of a finished run")
    parser.add_argument(
        "--hub",
        metavar="DIR",
        help="folder to write for the Hugging Face hub: weights, config, class names, scores, model card",
    )
    parser.add_argument(
        "--license", metavar="ID", default="", help="licence of the weights for the card, e.g. apache-2.0"
    )
    parser.add_argument(
        "--name", metavar="OWNER/NAME", default="", help="its place on the hub, for the examples of the card"
    )


def main(options: Namespace) -> None:
    """Prints the files, and how to try and upload them."""
    needed(options.workdir, "--workdir is missing: name the folder of a run")
    needed(options.hub, "--hub is missing: name the folder to write")
    out = output_folder(options.hub, "--hub", writes=True)
    if not re.fullmatch(r"[\w.+-]*", options.license, re.ASCII):
        raise UserError(f"--license={options.license!r} is no identifier such as apache-2.0 or cc-by-4.0")
    if options.name and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", options.name, re.ASCII):
        raise UserError(f"--name={options.name!r}: expected owner/name")
    from fusionjax.experiment import sharing
    from fusionjax.experiment.inference import load

    made = sharing.write(load(options.workdir), out, licence=options.license, repository=options.name)
    for path in made:
        print(f"{path} ({path.stat().st_size:,} bytes)")
    if not options.license:
        print("README.md states no licence of the weights: --license=ID names one")
    print(f"try it:    fusionjax predict --workdir={out} photo.jpg")
    print(f"upload it: hf upload {options.name or 'OWNER/NAME'} {out}")


COMMAND = Command(
    "export",
    "Writes a trained run into a folder that others can load, and the Hugging Face hub takes.",
    add,
    main,
    (
        "fusionjax export --workdir=runs/cub --hub=shared/cub",
        "fusionjax export --workdir=runs/cub --hub=shared/cub --license=apache-2.0 --name=someone/cub",
    ),
)

if __name__ == "__main__":
    cli.run(COMMAND)
