"""Re-evaluates a run from its checkpoint and the images: python -m fusionjax.evaluate --workdir=runs/cub"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from fusionjax import cli, progress
from fusionjax.arguments import Command, comma_separated, needed


def add(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--workdir", metavar="DIR", help="folder of a run")
    parser.add_argument(
        "--splits",
        metavar="A,B",
        type=comma_separated,
        default=[],
        help="those of the run's config by default",
    )
    parser.add_argument("--analysis", action="store_true", help="also the classes with the lowest recall")
    parser.add_argument(
        "--visualize",
        action="store_true",
        help="also figures of right and wrong predictions, in <workdir>/figures",
    )


def main(options: Namespace) -> None:
    """Prints one line per score; what qualifies them on stderr, as training does."""
    needed(options.workdir, "--workdir is missing: name the folder of a run")
    with progress.showing():
        with progress.phase("opening the run", log=False):
            from fusionjax.evaluation import cautions
            from fusionjax.experiment import reevaluation
            from fusionjax.experiment.inference import load

            run = load(options.workdir)
        with progress.phase("evaluating", log=False):
            found = reevaluation.evaluate(run, options.splits)
        for line in (*found.notes, *found.recall, *cautions.lines(found.cautions)):
            progress.line(line)
    for name, value in run.task.scorer.scalars(found.results).items():
        print(f"{name} {value:.4f}")
    if options.analysis:
        from fusionjax.experiment import analysis

        for line in analysis.lines(found.results):
            print(line)
    if options.visualize:  # a run that has no such figures has been scored
        with progress.showing():
            from fusionjax.experiment import visualization

            made = visualization.write([run], [""], (Path() if run.exported else run.folder) / "figures")
        print(*made, sep="\n")


COMMAND = Command(
    "evaluate",
    "Scores a trained run again, from its checkpoint and the data.",
    add,
    main,
    (
        "fusionjax evaluate --workdir=runs/cub",
        "fusionjax evaluate --workdir=runs/cub --splits=val,test",
        "fusionjax evaluate --workdir=runs/cub --analysis --visualize",
    ),
)

if __name__ == "__main__":
    cli.run(COMMAND)
