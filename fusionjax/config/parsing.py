"""From words to a config: a config file's own argument, the names of overrides, and the config.json of a run."""

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from ml_collections import ConfigDict

from fusionjax import register
from fusionjax.config.rules import near
from fusionjax.config.schema import default
from fusionjax.config.validation import check_values
from fusionjax.errors import UserError

ArgDefault: TypeAlias = bool | int | float | str | tuple[str, ...]
"""The default of a config file's own argument, see `parse_arg`."""


def parse_arg(arg: str | None, **spec: ArgDefault) -> ConfigDict:
    """Reads a config's own argument, `name=value,flag,…`, strictly.

    Args:
        arg: what stands after the colon of `--config=file.py:arg`; None or "" for none. A comma in a value is written `\\,`.
        **spec: name → default. A bool, int, float or str also gives the type (a bare `name` sets a bool to True); a
            tuple of strings gives the allowed words, the first of which is the default.

    Returns:
        ConfigDict of every name in `spec`.

    Raises:
        UserError: a name that is unknown or given twice, a value of the wrong type, a word that is not allowed.

    >>> parse_arg("res=128,runlocal", res=224, runlocal=False).res
    128
    """
    out = ConfigDict({k: v[0] if isinstance(v, tuple) else v for k, v in spec.items()})
    given: set[str] = set()
    for item in filter(None, re.split(r"(?<!\\),", arg or "")):
        key, eq, text = item.replace("\\,", ",").partition("=")
        if key not in spec:
            hint = near(key, spec)
            if not key.isidentifier():
                hint = "; a value with a comma is set by an override, such as --config.data.root=a,b"
            raise UserError(f"config argument {key!r} is not known; allowed: {', '.join(sorted(spec))}{hint}")
        if key in given:
            raise UserError(f"config argument {key} is given twice: give it once")
        given.add(key)
        want = spec[key]
        if isinstance(want, tuple):
            if text not in want:
                raise UserError(f"config argument {key}={text!r}: allowed are {', '.join(want)}")
            out[key] = text
        elif isinstance(want, bool):
            words = {"": not eq, "true": True, "1": True, "false": False, "0": False}
            if text.lower() not in words or (eq and not text):
                raise UserError(f"config argument {key}={text!r}: allowed are true and false")
            out[key] = words[text.lower()]
        else:
            try:
                out[key] = type(want)(text)
            except ValueError:
                raise UserError(f"config argument {key}={text!r} is not a {type(want).__name__}") from None
    return out


def check_key(name: str) -> None:
    """Whether a dotted name, config.section.field, is a field; a UserError that names what is there if not."""
    section: Any = default()
    path = "config"
    for part in name.split(".")[1:]:
        if not isinstance(section, ConfigDict):
            raise UserError(f"{name} is not known: {path} is a field, not a section")
        if part not in section:
            raise UserError(f"{name} is not known{near(part, section)}; {path} has {', '.join(section)}")
        section, path = section[part], f"{path}.{part}"


def from_json(data: Mapping[str, Any]) -> ConfigDict:
    """The config of a workdir's config.json, checked and locked.

    A run that an earlier version trained may hold a field that it did not read: its results stand, so that it can still be
    evaluated. Going on with it is a new run to `validate`.

    Raises:
        UserError: a field that this version does not know, or an impossible value.
    """
    # A task that is not registered has no section here; its name says more than the section's.
    if "task" in data:
        register.tasks.get(str(data["task"]))
    config = default()
    with config.unlocked():
        _fill(config, data, "")
    return check_values(config)


def _fill(config: ConfigDict, data: Mapping[str, Any], path: str) -> None:
    for key, value in data.items():
        name = f"{path}{key}"
        if key not in config:
            raise UserError(f"config.{name} is not a field of this version{near(key, config)}")
        if isinstance(value, Mapping) and isinstance(config.get(key), ConfigDict):
            _fill(config[key], value, f"{name}.")
        else:
            config[key] = _tuples(value)


def _tuples(value: object) -> object:
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value
