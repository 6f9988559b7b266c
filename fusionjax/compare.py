"""Finished runs side by side, with intervals and tests: python -m fusionjax.compare runs/a runs/b --out=runs/comparison

Every run is compared with the first.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from fusionjax import cli

OUT = flags.DEFINE_string(
    "out", None, "Folder for index.html, its figures, comparison.md and comparison.csv."
)
UNPAIRED = flags.DEFINE_boolean(
    "unpaired", False, "Also runs that were scored on different examples; no tests."
)
GROUP = flags.DEFINE_boolean(
    "group",
    None,
    "Means over runs that differ in the seed alone; by default where there are two or more of each.",
)


def main(rest: Sequence[str]) -> None:
    """Prints the tables; writes the page where --out is given."""
    from fusionjax.interpret import comparison
    from fusionjax.studies.comparison import compare

    found = compare(rest, paired=not UNPAIRED.value, group=GROUP.value)
    print(comparison.text(found), end="")
    if OUT.value:
        print(f"\npage: {comparison.write(Path(OUT.value), found)}")


if __name__ == "__main__":
    cli.run(main)
