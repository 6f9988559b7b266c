"""Descriptions of classes, from a JSON file: {"class name": ["description", …], …}."""

import collections
import dataclasses
import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from fusionjax.data import class_names as names_lib
from fusionjax.data.text.tokens import check_text
from fusionjax.errors import UserError

BUILT_IN = ("openmoji", "plant_village")
"""Names of the files that come with the package."""
MAX_BYTES = 16 * 2**20
"""Largest size of a file."""
_FOLDER = Path(__file__).parent.parent / "descriptions"
_FORM = '{"class name": ["description", …], …}'


@dataclasses.dataclass(frozen=True)
class Descriptions:
    """Descriptions of the appearance of the classes of a data set.

    Attributes:
        class_names: C names, in the order of the labels.
        texts: one or more descriptions for each class.
        notes: lines for the report that qualify the score, such as classes that share a description.
    """

    class_names: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def load(source: str | Path, class_names: Sequence[str], *, also: Sequence[str] = ()) -> Descriptions:
    """The descriptions of a data set's classes.

    Args:
        source: a .json file, or one of `BUILT_IN`.
        class_names: C names, in the order of the labels; the file must describe every one.
        also: further names that the file may describe, such as classes that were not selected; they are ignored.

    Returns:
        Descriptions of `class_names` alone.

    Raises:
        UserError: see `read` and `match`.
    """
    return match(read(source), class_names, also=also, shown=str(source))


def read(source: str | Path) -> dict[str, tuple[str, ...]]:
    """Reads a file of descriptions.

    Args:
        source: a .json file, UTF-8, or one of `BUILT_IN`.

    Returns:
        class name → descriptions, without surrounding white space.

    Raises:
        UserError: the file does not exist, is too large, is not UTF-8, not JSON or not of the form; a repeated class, a class
            without a description, an empty description or one repeated within its class.
    """
    path = _path(source)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{source}: cannot be read: {error.strerror or error}") from None
    if len(content) > MAX_BYTES:
        raise UserError(
            f"{source}: more than {MAX_BYTES // 2**20} MiB, too large for descriptions of classes"
        )
    try:
        found = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_Pairs)
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: not UTF-8 (byte {error.start}): save it as UTF-8") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{source}: not JSON: line {error.lineno}: {error.msg}") from None
    # Thousands of brackets, or a number of thousands of digits.
    except (RecursionError, ValueError):
        raise UserError(f"{source}: not of the form {_FORM}") from None
    if not isinstance(found, _Pairs) or not found:
        raise UserError(f"{source}: not of the form {_FORM}")
    out: dict[str, tuple[str, ...]] = {}
    for name, texts in found:
        check_text(name, f"{source}: the name of class {name!r}")
        if name in out:
            raise UserError(f"{source}: class {name!r} is listed twice: put its descriptions into one list")
        out[name] = _checked(texts, f"{source}: class {name!r}")
    return out


def match(
    found: Mapping[str, Sequence[str]], class_names: Sequence[str], *, also: Sequence[str] = (), shown: str
) -> Descriptions:
    """Matches descriptions with the classes of a data set.

    Equal names match first; a remaining class matches a name that differs in its separators only (`class_names.readable`:
    "Tomato: Late blight" matches "Tomato___Late_blight").

    Args:
        found: class name → descriptions.
        class_names: C names, in the order of the labels.
        also: names that may be described and are ignored.
        shown: the name of `found` in messages.

    Returns:
        Descriptions in the order of `class_names`.

    Raises:
        UserError: a class without descriptions, descriptions of an unknown class, or two names that match one class; the
            message suggests close names.
    """
    known = tuple(dict.fromkeys((*class_names, *also)))
    key_of = {name: name for name in known if name in found}
    by_form: dict[str, list[str]] = {}
    for key in found:
        if key not in key_of:
            by_form.setdefault(names_lib.readable(key), []).append(key)
    forms = collections.Counter(map(names_lib.readable, known))
    for name in known:
        form = names_lib.readable(name)
        keys = by_form.get(form, [])
        # Of two classes that differ in their separators only, the name must be exact.
        if name in key_of or not keys or forms[form] > 1:
            continue
        if len(keys) > 1:
            raise UserError(f"{shown}: {keys[0]!r} and {keys[1]!r} both describe class {name!r}: keep one")
        key_of[name] = keys[0]
    missing = [name for name in class_names if name not in key_of]
    used = set(key_of.values())
    unknown = [key for key in found if key not in used]
    if missing:
        raise UserError(
            f"{shown}: no description of {_classes(missing)} {names_lib.listed(missing, unknown)}: "
            f"each of the {len(class_names)} classes needs one"
        )
    if unknown:
        raise UserError(
            f"{shown}: describes {_classes(unknown)} {names_lib.listed(unknown, known)}, which the data set does not have: "
            f"remove them"
        )
    texts = tuple(tuple(found[key_of[name]]) for name in class_names)
    return Descriptions(tuple(class_names), texts, _shared(class_names, texts, shown))


def _path(source: str | Path) -> Path:
    name = str(source)
    if name in BUILT_IN:
        return _FOLDER / f"{name}.json"
    path = Path(source).expanduser()
    if path.suffix.lower() != ".json":
        close = difflib.get_close_matches(name, BUILT_IN, 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UserError(
            f"descriptions {name!r}: a file that ends in .json, or one of {', '.join(BUILT_IN)}{hint}"
        )
    if not path.is_file():
        raise UserError(f"{source}: no such file of descriptions; its form is {_FORM}")
    return path


class _Pairs(list[tuple[str, object]]):
    """A JSON object as (key, value) pairs, so that repeated keys are detected; a dict would keep only the last."""


def _checked(texts: object, where: str) -> tuple[str, ...]:
    if isinstance(texts, _Pairs) or not isinstance(texts, list):
        raise UserError(f'{where}: a list of descriptions was expected: ["description", …]')
    if not texts:
        raise UserError(f"{where} has no description")
    out: list[str] = []
    for i, text in enumerate(texts, 1):
        text = check_text(text, f"{where}: description {i}").strip()
        if not text:
            raise UserError(f"{where}: description {i} is empty")
        if text in out:
            raise UserError(f"{where}: description {i} repeats description {out.index(text) + 1}")
        out.append(text)
    return tuple(out)


def _shared(class_names: Sequence[str], texts: Sequence[Sequence[str]], shown: str) -> tuple[str, ...]:
    """A line for classes with identical descriptions, and one for classes that share some description.

    This is not an error: it may be intended, and the images still distinguish the classes.
    """
    owner: dict[str, int] = {}
    whole: dict[frozenset[str], int] = {}
    same, some = [], []
    for c, own in enumerate(texts):
        forms = {" ".join(text.split()).casefold() for text in own}
        first = whole.setdefault(frozenset(forms), c)
        if first != c:
            same.append(f"{class_names[first]!r} = {class_names[c]!r}")
            continue
        others = sorted({owner.setdefault(form, c) for form in forms} - {c})
        some += [f"{class_names[o]!r} and {class_names[c]!r}" for o in others]
    lines = []
    if same:
        lines.append(
            f"{shown}: the text does not distinguish these classes, their descriptions are the same: {_few(same)}"
        )
    if some:
        lines.append(f"{shown}: a description is shared by {_few(some)}")
    return tuple(lines)


def _few(items: Sequence[str]) -> str:
    more = f" and {len(items) - names_lib.SHOWN} more" if len(items) > names_lib.SHOWN else ""
    return "; ".join(items[: names_lib.SHOWN]) + more


def _classes(names: Sequence[str]) -> str:
    return "class" if len(names) == 1 else f"{len(names)} classes,"
