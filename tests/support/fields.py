"""Configs of tests with some fields set."""

from typing import Any

from ml_collections import ConfigDict

from fusionjax import config as config_lib


def validated(c: ConfigDict, fields: dict[str, Any]) -> ConfigDict:
    """The config with fields set by name, validated; `__` stands for a dot: {"data__cache__enabled": True}."""
    for key, value in fields.items():
        section, _, name = key.rpartition("__")
        target = c
        for part in filter(None, section.split("__")):
            target = target[part]
        target[name] = value
    return config_lib.validate(c)
