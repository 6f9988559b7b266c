"""One message for many problems."""

from collections.abc import Mapping, Sequence

from fusionjax.errors import UserError

SHOWN = 8


def refuse(title: str, problems: Mapping[str, Sequence[str]], hint: str = "") -> None:
    """Raises UserError if there is any problem.

    Args:
        title: first words of the message.
        problems: kind → the problems of this kind; the message gives their number and the first eight.
        hint: what to do, at the end of the message.

    Raises:
        UserError: there is a problem.
    """
    parts = []
    for kind, listed in problems.items():
        if listed:
            more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
            parts.append(f"{len(listed)} {kind}: {', '.join(listed[:SHOWN])}{more}")
    if parts:
        raise UserError("; ".join([f"{title}: {parts[0]}", *parts[1:], *([hint] if hint else [])]))
