"""Variants of a config, several seeds each, as one table: python -m fusionjax.table --config=configs/x.py --workdir=runs/x

The config's `table()` defines the rows. Running the same command again resumes the table.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from fusionjax import cli
from fusionjax.errors import UserError

CONFIG = flags.DEFINE_string(
    "config", None, "Config file with a table(); after a colon the argument that all rows share."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the table.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of each row.")
ROW = flags.DEFINE_multi_string(
    "row", [], "Title of a row to train, may be repeated; the first is the reference. All by default."
)
REPORTS = flags.DEFINE_boolean("reports", False, "Let every run write its report.")


def main(rest: Sequence[str]) -> None:
    """Trains, prints the table, writes table.md."""
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}")
    if not CONFIG.value:
        raise UserError("--config is missing: name a config file with a table()")
    if not WORKDIR.value:
        raise UserError("--workdir is missing: name a folder for the table, e.g. --workdir=runs/table")
    path, _, shared = CONFIG.value.partition(":")
    if not Path(path).is_file():
        raise UserError(f"--config={path} cannot be read: no such file")
    if (
        not all(s.isdigit() for s in SEEDS.value)
        or len(set(SEEDS.value)) < len(SEEDS.value)
        or not SEEDS.value
    ):
        raise UserError(f"--seeds={','.join(SEEDS.value)}: whole numbers, each once")
    from fusionjax.experiment import trainer
    from fusionjax.studies import ablation_table

    configured, rows = ablation_table.load(path)
    unknown = [title for title in ROW.value if title not in rows]
    if unknown:
        raise UserError(f"--row={unknown[0]!r} is no row of the table; it has {', '.join(map(repr, rows))}")
    rows = {title: rows[title] for title in (ROW.value or rows)}
    trainer.enable_compilation_cache()
    folder = Path(WORKDIR.value)
    made = ablation_table.train(
        folder,
        rows,
        [int(s) for s in SEEDS.value],
        lambda argument: configured(",".join(filter(None, (shared, argument)))),
        reports=REPORTS.value,
        say=lambda line: print(line, flush=True),
    )
    text = ablation_table.markdown(ablation_table.measures(made))
    (folder / "table.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\n{folder / 'table.md'}")


if __name__ == "__main__":
    cli.run(main)
