"""What rules on fields are made of: the error of an impossible value, the two most frequent checks, and a hint."""

import contextlib
import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from fusionjax.errors import UserError


def value_of(config: ConfigDict, key: str) -> Any:
    """The value of a dotted name, e.g. "optim.b1"."""
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value


def shown(value: object) -> str:
    """A value as a message shows it, cut where it is long."""
    try:
        text = repr(value).replace("\n", " ")  # of a section, YAML in lines
    except ValueError:  # Python refuses to print an integer of thousands of digits
        return "an integer of thousands of digits"
    return text if len(text) <= 400 else f"{text[:200]} … {text[-100:]}"


def impossible(config: ConfigDict, key: str, allowed: str) -> UserError:
    """The error of a field whose value cannot be: its name, its value and what is allowed."""
    return UserError(f"config.{key}={shown(value_of(config, key))} is not possible: {allowed}")


@contextlib.contextmanager
def naming_field(key: str) -> Iterator[None]:
    """Puts the name of a field before the message of a UserError, which then says where another value goes."""
    try:
        yield
    except UserError as error:
        message = str(error)
        raise UserError(message if message.startswith("config.") else f"config.{key}: {message}") from None


def require_one_of(config: ConfigDict, key: str, *words: str) -> None:
    """A UserError where a field is none of the words."""
    if value_of(config, key) not in words:
        raise impossible(config, key, f"allowed are {', '.join(words)}")


def require_within(
    config: ConfigDict, key: str, low: float, high: float = math.inf, *, open_low: bool = False
) -> None:
    """A UserError where a number lies outside of low … high, or equals `low` where `open_low`, or is not finite."""
    value = value_of(config, key)
    inside = (low < value if open_low else low <= value) and value <= high
    if not inside or not math.isfinite(value):
        bracket = "(" if open_low else "["
        allowed = f"allowed is {bracket}{low:g}, {high:g}{')' if high == math.inf else ']'}"
        raise impossible(config, key, allowed)


def near(word: str, words: Sequence[str] | Mapping[str, Any]) -> str:
    """A hint at the most similar of the words, in parentheses; "" where there is none."""
    close = difflib.get_close_matches(word, list(words), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""
