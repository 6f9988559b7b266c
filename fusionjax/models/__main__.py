"""Lists the models: python -m fusionjax.models [part of a name …]"""

import argparse
import sys
from collections.abc import Sequence

SUMMARY = "Lists the models: names, sizes, parameters, published weights."
EXAMPLES = ("fusionjax models", "fusionjax models vit_base dcal")


def add(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("parts", nargs="*", metavar="PART", help="parts of names; all models without any")


def main(parts: Sequence[str]) -> int:
    """Prints a table of the models whose names contain any of the parts; all without parts."""
    from fusionjax.models.cards import card, table
    from fusionjax.models.registry import names

    chosen = [name for name in names() if not parts or any(part in name for part in parts)]
    if not chosen:
        print(f"fusionjax: error: no model's name contains {' or '.join(parts)}", file=sys.stderr)
        return 2
    print(table(map(card, chosen)))
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m fusionjax.models", description=SUMMARY, epilog=EXAMPLES[1]
    )
    add(parser)
    sys.exit(main(parser.parse_args().parts))
