"""Class names: comparison of names that a user typed, and how messages list and suggest them."""

import contextlib
import difflib
import re
from collections.abc import Iterable, Sequence

SHOWN = 5
"""The number of names that a message lists."""


def readable(name: str) -> str:
    """A class name as plain text: "Tomato___Late_blight" → "Tomato: Late blight".

    Three underscores become a colon, one becomes a space, and runs of white space become one space. Nothing else changes, so
    names that differ in more than their separators stay different.
    """
    return re.sub(r"\s*:\s*", ": ", " ".join(name.replace("___", ": ").replace("_", " ").split()))


def suggestion(name: str, known: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" with the closest known name, ignoring case and separators; "" if none is close."""
    forms: dict[str, str] = {}
    for k in known:
        forms.setdefault(readable(k).casefold(), k)
    close = difflib.get_close_matches(readable(name).casefold(), forms, 1)
    return f" (did you mean {forms[close[0]]!r}?)" if close else ""


def first_difference(names: Sequence[str], others: Sequence[str]) -> str:
    """Where the class names of a data set, `others`, first differ from those of a run, in words."""
    for a, b in zip(names, others, strict=False):
        if a != b:
            return f"{b!r} where the run has {a!r}"
    return f"{len(others)} where the run has {len(names)}"


def alike(names: Iterable[str]) -> list[str]:
    """A sentence for each set of names that differ only in capitals, spaces, signs or the form of a number.

    >>> alike(["Cat", "cat ", "1", "1.0", "-1", "dog"])[1]
    "the classes '1' and '1.0' differ only in spelling: are they one class?"
    """
    forms: dict[str, list[str]] = {}
    for name in names:
        forms.setdefault(_form(name), []).append(name)
    return [
        f"the classes {' and '.join(map(repr, same))} differ only in spelling: are they one class?"
        for same in forms.values()
        if len(same) > 1
    ]


def _form(name: str) -> str:
    """A name without what spellings differ in; a number by its value."""
    with contextlib.suppress(ValueError):
        return repr(float(name))
    return "".join(c for c in name.casefold() if c.isalnum()) or name


def listed(names: Sequence[str], known: Iterable[str] = ()) -> str:
    """The first `SHOWN` names, quoted, each with a suggestion from `known`, and the number of the others."""
    known = tuple(known)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(f"{name!r}{suggestion(name, known)}" for name in names[:SHOWN]) + more
