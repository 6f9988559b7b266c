"""Train, evaluate, report: python -m fusionjax.main --config=configs/cub.py --workdir=runs/cub"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from fusionjax import cli
from fusionjax.errors import UserError

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, with its argument: configs/cub.py:backbone=deit_tiny"
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; running the same command again resumes it."
)
CHECK = flags.DEFINE_boolean(
    "check", False, "Only check the config, the data set and the model; compute nothing."
)


def main(rest: Sequence[str]) -> None:
    """Runs one config."""
    if rest:
        raise UserError(
            f"unexpected argument {rest[0]!r}; overrides are written --config.section.field=value"
        )
    config = cli.config_of(CONFIG)
    if not WORKDIR.value and not CHECK.value:
        raise UserError("--workdir is missing: name a folder for the run, e.g. --workdir=runs/quickstart")
    from fusionjax.experiment import trainer

    trainer.enable_compilation_cache()
    run = trainer.Experiment(config, Path(WORKDIR.value or "."))
    if CHECK.value:
        print(run.describe())
        return
    summary = run.train()
    for name, value in summary.items():
        print(f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}")


if __name__ == "__main__":
    cli.run(main)
