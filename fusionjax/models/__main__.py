"""Lists the models: python -m fusionjax.models [part of a name …]"""

import sys
from collections.abc import Sequence

from fusionjax.models import names
from fusionjax.models.cards import card, table


def main(parts: Sequence[str]) -> int:
    """Prints a table of the models whose names contain any of the parts; all without parts."""
    chosen = [name for name in names() if not parts or any(part in name for part in parts)]
    if not chosen:
        print(f"fusionjax: error: no model's name contains {' or '.join(parts)}", file=sys.stderr)
        return 2
    print(table(map(card, chosen)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
