"""A config as a Python file: the fields that differ from their defaults, to read and to edit."""

import math
from typing import Any

from ml_collections import ConfigDict

from fusionjax.config.ownership import leaves
from fusionjax.config.schema import default

_HEAD = '''"""The config of this run, with its argument and overrides; fields that are not here have their defaults.

    fusionjax train --config=config.py --workdir=<a new folder>
"""

from fusionjax import config as base


def get_config(arg=None):
    """The config; an argument is not read, since each field is here."""
    c = base.default()
'''


def python_file(config: ConfigDict) -> str:
    """The text of a config file whose `get_config` returns an equal config.

    Args:
        config: of a run, with every field.

    >>> c = default(); c.seed = 3
    >>> python_file(c).splitlines()[-2:]
    ['    c.seed = 3', '    return c']
    """
    normal = dict(leaves(default()))
    lines = [f"    c.{name} = {_literal(value)}" for name, value in leaves(config) if value != normal[name]]
    return _HEAD + "\n".join([*lines, "    return c", ""])


def _literal(value: Any) -> str:
    """The value as Python writes it; numbers of NumPy as plain ones."""
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_literal, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, float):
        return repr(float(value)) if math.isfinite(value) else f'float("{float(value)}")'
    return repr(value)
