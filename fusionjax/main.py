"""Train, evaluate, report: python -m fusionjax.main --config=configs/cub.py --workdir=runs/cub"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from fusionjax import cli, progress
from fusionjax.arguments import Command, at_least, needed


def add(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "--workdir", metavar="DIR", help="folder of the run; the same command again resumes it"
    )
    add_hosts(parser)
    parser.add_argument(
        "--check",
        action="store_true",
        help="only check config, data, weights and model, and say what the run needs; -v lists the parameters",
    )


def add_hosts(parser: ArgumentParser) -> None:
    """Declares the options of a run of several processes: docs/many_hosts.md."""
    several = parser.add_argument_group("several processes, each started with the same command")
    several.add_argument(
        "--distributed",
        action="store_true",
        help="connect to the others (found by itself under Slurm and Open MPI)",
    )
    several.add_argument(
        "--coordinator", metavar="HOST:PORT", default="", help="of process 0, where JAX does not find it"
    )
    several.add_argument("--processes", metavar="N", type=at_least(1), default=0, help="number of processes")
    several.add_argument(
        "--process", metavar="I", type=at_least(0), default=-1, help="which one this is, from 0"
    )
    several.add_argument(
        "--silence",
        metavar="S",
        type=at_least(5),
        default=60,
        help="seconds after which a silent process is gone",
    )
    several.add_argument(
        "--late",
        metavar="S",
        type=at_least(1),
        default=1800,
        help="seconds that a late process may delay the others",
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
            from fusionjax.distributed import hosts
            from fusionjax.experiment import trainer
        if not options.check:
            hosts.start(
                options.coordinator, options.processes, options.process, wanted=options.distributed,
                limits=hosts.Limits(options.silence, options.late),
            )  # fmt: skip
            if not hosts.primary():
                progress.hide()
        trainer.enable_compilation_cache()
        with progress.phase("reading config, data and weights", log=False):
            run = trainer.Experiment(config, Path(options.workdir or "."))
        if options.check and options.workdir:  # training checks it itself
            run.check_folder()
        summary = {} if options.check else run.train()
    hosts.finish()
    if options.check:
        print(run.describe(parameters=options.verbose))
    for name, value in summary.items() if hosts.primary() else ():
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
