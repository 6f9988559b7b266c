"""Finished runs side by side, with intervals and tests: python -m fusionjax.compare runs/a runs/b --out=runs/comparison

Every run is compared with the first.
"""

from argparse import ArgumentParser, BooleanOptionalAction, Namespace

from fusionjax import cli
from fusionjax.arguments import Command, output_folder


def add(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="folders of finished runs; the first is the reference"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="folder for index.html, its figures, comparison.md and comparison.csv"
    )
    parser.add_argument(
        "--unpaired", action="store_true", help="also runs that were scored on different examples; no tests"
    )
    parser.add_argument(
        "--group", action=BooleanOptionalAction, default=None,
        help="means over runs that differ in the seed alone; by default where there are several of each",
    )  # fmt: skip


def main(options: Namespace) -> None:
    """Prints the tables; writes the page where --out is given."""
    from fusionjax.interpret import comparison
    from fusionjax.studies.comparison import compare

    folder = output_folder(options.out) if options.out else None
    found = compare(options.runs, paired=not options.unpaired, group=options.group)
    print(comparison.text(found), end="")
    if folder is not None:
        print(f"\npage: {comparison.write(folder, found)}")


COMMAND = Command(
    "compare",
    "Compares finished runs: bootstrap intervals, paired tests, figures.",
    add,
    main,
    ("fusionjax compare runs/a runs/b --out=runs/comparison",),
)

if __name__ == "__main__":
    cli.run(COMMAND)
