"""One line for many problems."""

from collections.abc import Mapping, Sequence

from fusionjax.errors import UserError

SHOWN = 8


def refuse(title: str, problems: Mapping[str, Sequence[str]], hint: str = "") -> None:
    """Raises UserError where there is any problem; does nothing otherwise.

    Args:
        title: what does not fit what.
        problems: kind → what is wrong; the first eight of each are named and all are counted.
        hint: what to do, put last.
    """
    parts = []
    for kind, listed in problems.items():
        if listed:
            more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
            parts.append(f"{len(listed)} {kind}: {', '.join(listed[:SHOWN])}{more}")
    if parts:
        raise UserError("; ".join([f"{title}: {parts[0]}", *parts[1:], *([hint] if hint else [])]))
