"""Variants of a config, several seeds each, as one table: python -m fusionjax.table --config=configs/x.py --workdir=runs/x

The config's `table()` defines the rows. Running the same command again resumes the table.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from fusionjax import arguments, cli
from fusionjax.arguments import Command, comma_separated, needed
from fusionjax.errors import UserError


def add(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "--config", metavar="FILE", help="config with a table(); after a colon what all rows share"
    )
    parser.add_argument(
        "--workdir", metavar="DIR", help="folder of the table; the same command again resumes it"
    )
    parser.add_argument(
        "--seeds",
        metavar="A,B",
        type=comma_separated,
        default=["0", "1", "2"],
        help="seeds of each row (0,1,2)",
    )
    parser.add_argument(
        "--row",
        action="append",
        default=[],
        metavar="TITLE",
        help="row to train; the first is the reference; all by default",
    )
    parser.add_argument("--reports", action="store_true", help="let every run write its report")


def main(options: Namespace) -> None:
    """Trains, prints the table, writes table.md."""
    needed(options.config, "--config is missing: name a config file with a table()")
    needed(options.workdir, "--workdir is missing: name a folder for the table, e.g. --workdir=runs/table")
    path, _, shared = arguments.config_path(options.config).partition(":")
    arguments.make_importable(Path(path))
    seeds = options.seeds
    if not all(s.isdigit() for s in seeds) or len(set(seeds)) < len(seeds) or not seeds:
        raise UserError(f"--seeds={','.join(seeds)}: whole numbers, each once")
    from fusionjax.experiment import trainer
    from fusionjax.studies import ablation_table

    configured, rows = ablation_table.load(path)
    unknown = [title for title in options.row if title not in rows]
    if unknown:
        raise UserError(f"--row={unknown[0]!r} is no row of the table; it has {', '.join(map(repr, rows))}")
    rows = {title: rows[title] for title in (options.row or rows)}
    trainer.enable_compilation_cache()
    folder = Path(options.workdir)
    made = ablation_table.train(
        folder,
        rows,
        [int(s) for s in seeds],
        lambda argument: configured(",".join(filter(None, (shared, argument)))),
        reports=options.reports,
        say=lambda line: print(line, flush=True),
    )
    text = ablation_table.markdown(ablation_table.measures(made))
    (folder / "table.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\n{folder / 'table.md'}")


COMMAND = Command(
    "table",
    "Trains the variants that a config names, several seeds each, and compares them in one table.",
    add,
    main,
    ("fusionjax table --config=openmoji_fusion --workdir=runs/fusion_table --seeds=0,1,2",),
)

if __name__ == "__main__":
    cli.run(COMMAND)
