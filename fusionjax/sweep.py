"""Search a config's parameters: python -m fusionjax.sweep --config=configs/x.py --workdir=sweeps/x --trials=50"""

import importlib.util
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from fusionjax import cli
from fusionjax.errors import UserError
from fusionjax.studies import search_space

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file with a sweep(), and its argument.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the sweep; running the same command again resumes it."
)
TRIALS = flags.DEFINE_integer("trials", None, "Trials in all, earlier starts included.", lower_bound=1)
SAMPLER = flags.DEFINE_enum("sampler", "tpe", ["tpe", "random", "grid"], "How trials are drawn.")
SEED = flags.DEFINE_integer("seed", 0, "Of the sampler.", lower_bound=0)
PRUNE = flags.DEFINE_boolean("prune", False, "Stop trials early that are behind the others.")
PRUNER = flags.DEFINE_enum("pruner", "median", ["median", "halving"], "What --prune goes by.")
METRIC = flags.DEFINE_string("metric", "", "Score to choose by; config.train.best_metric without it.")
STORAGE = flags.DEFINE_string("storage", "", "Database of the study, sqlite:///…; else a journal.")
ALLOW_TEST = flags.DEFINE_boolean("allow_test", False, "Choose by a test split all the same.")
REPORTS = flags.DEFINE_boolean("reports", False, "Let every trial write its report.")
LAUNCH = flags.DEFINE_enum("launch", "here", ["here", "print", "slurm"], "Work, print commands, or sbatch.")
WORKERS = flags.DEFINE_integer("workers", 4, "How many to launch.", lower_bound=1)
SBATCH = flags.DEFINE_multi_string("sbatch", [], "Options of sbatch, e.g. --sbatch=--gres=gpu:1.")
DRY_RUN = flags.DEFINE_boolean("dry_run", False, "Print the script of --launch=slurm, submit nothing.")
_OF_A_WORKER = (TRIALS, SAMPLER, SEED, PRUNE, PRUNER, METRIC, STORAGE, ALLOW_TEST, REPORTS)


def main(rest: Sequence[str]) -> None:
    """Checks everything, then works, or starts workers."""
    if rest:
        raise UserError(
            f"unexpected argument {rest[0]!r}; overrides are written --config.section.field=value"
        )
    base, flag = cli.config_of(CONFIG), cli.config_flag()
    if not WORKDIR.value:
        raise UserError("--workdir is missing: name a folder for the sweep, e.g. --workdir=sweeps/cub")
    _needs("--launch=print or --launch=slurm", LAUNCH.value != "here", WORKERS)
    _needs("--launch=slurm", LAUNCH.value == "slurm", SBATCH, DRY_RUN)
    _needs("--prune", PRUNE.value, PRUNER)
    spec, folder = search_space.spec_of(flag.config_filename), Path(WORKDIR.value)
    if importlib.util.find_spec("optuna") is None:
        raise UserError('a sweep needs Optuna: python -m pip install -e ".[sweep]"')
    from fusionjax.experiment import trainer
    from fusionjax.studies import leaderboard, search

    sweep = search.Sweep(
        base, spec, folder, trials=TRIALS.value, sampler=SAMPLER.value, seed=SEED.value,
        pruner=PRUNER.value if PRUNE.value else "", metric=METRIC.value, storage=STORAGE.value,
        allow_test=ALLOW_TEST.value, reports=REPORTS.value,
    )  # fmt: skip
    if LAUNCH.value != "here":
        print(_launch(folder))
        return
    trainer.enable_compilation_cache()
    search.prepare(sweep.base, folder)  # what is wrong with every trial is said before there is one
    sweep.open()
    sweep.work()
    print(leaderboard.finish(sweep, flag.config_filename, flag.override_values))


def _launch(folder: Path) -> str:
    flag = cli.config_flag()
    given = {f.name: f.value for f in _OF_A_WORKER if flags.FLAGS[f.name].present}
    given |= {f"config.{name}": value for name, value in flag.override_values.items()}
    words = search_space.command("sweep", {"config": flag.config_filename, "workdir": folder, **given})
    if LAUNCH.value == "print":
        return "\n".join([shlex.join(words)] * WORKERS.value)
    script = search_space.sbatch_script(
        shlex.join([sys.executable, *words[1:]]), folder.absolute(), Path.cwd(),
        workers=WORKERS.value, options=SBATCH.value,
    )  # fmt: skip
    return script.rstrip() if DRY_RUN.value else search_space.submit(script, folder)


def _needs(other: str, there: bool, *given: flags.FlagHolder) -> None:
    """A flag that would do nothing is a mistake."""
    for flag in given:
        if flags.FLAGS[flag.name].present and not there:
            raise UserError(f"--{flag.name} does nothing without {other}")


if __name__ == "__main__":
    cli.run(main)
