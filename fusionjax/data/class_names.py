"""Names of classes: how they are compared where they are typed by hand, and how messages list and suggest them."""

import difflib
import re
from collections.abc import Iterable, Sequence

SHOWN = 5
"""Names that a message lists."""


def readable(name: str) -> str:
    """A class's name as one would write it: "Tomato___Late_blight" → "Tomato: Late blight".

    Three underscores are a colon, one is a space, and white space is one space. Case and everything else stay, so that
    names which differ in more than their separators stay different.
    """
    return re.sub(r"\s*:\s*", ": ", " ".join(name.replace("___", ": ").replace("_", " ").split()))


def suggestion(name: str, known: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" with the known name that is closest, whatever its case and separators; "" if none is close."""
    forms: dict[str, str] = {}
    for k in known:
        forms.setdefault(readable(k).casefold(), k)
    close = difflib.get_close_matches(readable(name).casefold(), forms, 1)
    return f" (did you mean {forms[close[0]]!r}?)" if close else ""


def listed(names: Sequence[str], known: Iterable[str] = ()) -> str:
    """The first few names, quoted, each with a suggestion from `known`, and how many more there are."""
    known = tuple(known)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(f"{name!r}{suggestion(name, known)}" for name in names[:SHOWN]) + more
