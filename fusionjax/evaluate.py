"""Re-evaluates a run from its checkpoint and the images: python -m fusionjax.evaluate --workdir=runs/cub"""

from collections.abc import Sequence

from absl import flags

from fusionjax import cli
from fusionjax.errors import UserError

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run.")
SPLITS = flags.DEFINE_list("splits", [], "Splits to evaluate; those of the run's config by default.")


def main(rest: Sequence[str]) -> None:
    """Prints one line per score, as main does."""
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}")
    if not WORKDIR.value:
        raise UserError("--workdir is missing: name the folder of a run")
    from fusionjax.experiment.inference import load

    run = load(WORKDIR.value)
    found = run.evaluate(SPLITS.value)
    for name, value in run.task.scorer.scalars(found).items():
        print(f"{name} {value:.4f}")


if __name__ == "__main__":
    cli.run(main)
