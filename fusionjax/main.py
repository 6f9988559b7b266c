"""Train, evaluate, report: python -m fusionjax.main --config=configs/cub.py --workdir=runs/cub"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from fusionjax import cli, progress
from fusionjax.arguments import Command, needed


def add(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "--workdir", metavar="DIR", help="folder of the run; the same command again resumes it"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="only check config, data, weights and model, and say what the run needs; -v lists the parameters",
    )


def main(options: Namespace) -> None:
    """Runs one config."""
    config = needed(
        options.config, "--config is missing: name a config file, e.g. --config=configs/quickstart.py"
    ).value
    if not options.check:
        needed(
            options.workdir, "--workdir is missing: name a folder for the run, e.g. --workdir=runs/quickstart"
        )
    with progress.showing():
        with progress.phase("starting JAX", log=False):
            from fusionjax.experiment import trainer
        trainer.enable_compilation_cache()
        with progress.phase("reading config, data and weights", log=False):
            run = trainer.Experiment(config, Path(options.workdir or "."))
        if options.check and options.workdir:  # training checks it itself
            run.check_folder()
        summary = {} if options.check else run.train()
    if options.check:
        print(run.describe(parameters=options.verbose))
    for name, value in summary.items():
        print(f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}")


COMMAND = Command(
    "train",
    "Trains a config, evaluates it and writes a report.",
    add,
    main,
    (
        "fusionjax train --config=quickstart --workdir=runs/quickstart",
        "fusionjax train --config=cub:root=/data/CUB_200_2011 --workdir=runs/cub --config.optim.learning_rate=3e-5",
        "fusionjax train --config=my_config.py --import=my_task.py --workdir=runs/mine",
    ),
    reads_config=True,
)

if __name__ == "__main__":
    cli.run(COMMAND)
