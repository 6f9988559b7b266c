"""Search a config's parameters: python -m fusionjax.sweep --config=configs/x.py --workdir=sweeps/x --trials=50"""

import importlib.util
import shlex
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from fusionjax import cli
from fusionjax.arguments import Command, at_least, needed
from fusionjax.errors import UserError
from fusionjax.studies import search_space

_OF_A_WORKER = ("trials", "sampler", "seed", "prune", "pruner", "metric", "storage", "allow_test", "reports")


def add(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "--workdir", metavar="DIR", help="folder of the sweep; the same command again resumes it"
    )
    parser.add_argument(
        "--trials", type=at_least(1), metavar="N", help="trials in all, earlier starts included"
    )
    parser.add_argument(
        "--sampler", default="tpe", choices=["tpe", "random", "grid"], help="how trials are drawn (tpe)"
    )
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="of the sampler (0)")
    parser.add_argument("--prune", action="store_true", help="stop trials early that are behind the others")
    parser.add_argument(
        "--pruner", default="median", choices=["median", "halving"], help="what --prune goes by (median)"
    )
    parser.add_argument(
        "--metric", default="", help="score to choose by; config.train.best_metric by default"
    )
    parser.add_argument(
        "--storage", default="", metavar="URL", help="database of the study, sqlite:///…; else a journal"
    )
    parser.add_argument("--allow_test", action="store_true", help="choose by a test split all the same")
    parser.add_argument("--reports", action="store_true", help="let every trial write its report")
    parser.add_argument(
        "--launch",
        default="here",
        choices=["here", "print", "slurm"],
        help="work, print commands, or sbatch (here)",
    )
    parser.add_argument("--workers", type=at_least(1), default=4, metavar="N", help="how many to launch (4)")
    parser.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="OPTION",
        help="option of sbatch, e.g. --sbatch=--gres=gpu:1",
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="print the script of --launch=slurm, submit nothing"
    )


def main(options: Namespace) -> None:
    """Checks everything, then works, or starts workers."""
    asked = needed(options.config, "--config is missing: name a config file with a sweep()")
    needed(options.workdir, "--workdir is missing: name a folder for the sweep, e.g. --workdir=sweeps/cub")
    for there, needs, names in (
        (options.launch != "here", "--launch=print or --launch=slurm", ("workers",)),
        (options.launch == "slurm", "--launch=slurm", ("sbatch", "dry_run")),
        (options.prune, "--prune", ("pruner",)),
    ):
        for name in names:
            if name in options.given and not there:  # an option that would do nothing is a mistake
                raise UserError(f"--{name} does nothing without {needs}")
    spec, folder = search_space.spec_of(asked.path), Path(options.workdir)
    if importlib.util.find_spec("optuna") is None:
        raise UserError('a sweep needs Optuna: python -m pip install -e ".[sweep]"')
    from fusionjax.experiment import trainer
    from fusionjax.studies import leaderboard, search

    sweep = search.Sweep(
        asked.value, spec, folder, trials=options.trials, sampler=options.sampler, seed=options.seed,
        pruner=options.pruner if options.prune else "", metric=options.metric, storage=options.storage,
        allow_test=options.allow_test, reports=options.reports,
    )  # fmt: skip
    if options.launch != "here":
        print(_launch(options, folder))
        return
    trainer.enable_compilation_cache()
    search.prepare(sweep.base, folder)  # what is wrong with every trial is said before there is one
    sweep.open()
    sweep.work()
    print(leaderboard.finish(sweep, asked.spec, asked.overrides))


def _launch(options: Namespace, folder: Path) -> str:
    given = {name: getattr(options, name) for name in _OF_A_WORKER if name in options.given}
    given |= {f"config.{name}": value for name, value in options.config.overrides.items()}
    words = search_space.command("sweep", {"config": options.config.spec, "workdir": folder, **given})
    if options.launch == "print":
        return "\n".join([shlex.join(words)] * options.workers)
    script = search_space.sbatch_script(
        shlex.join([sys.executable, *words[1:]]), folder.absolute(), Path.cwd(),
        workers=options.workers, options=options.sbatch,
    )  # fmt: skip
    return script.rstrip() if options.dry_run else search_space.submit(script, folder)


COMMAND = Command(
    "sweep",
    "Searches the parameters that a config's sweep() names.",
    add,
    main,
    (
        "fusionjax sweep --config=my_config.py --workdir=sweeps/mine --trials=50 --prune",
        "fusionjax sweep --config=my_config.py --workdir=sweeps/mine --launch=slurm --workers=8",
    ),
    reads_config=True,
)

if __name__ == "__main__":
    cli.run(COMMAND)
