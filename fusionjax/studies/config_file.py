"""Functions of a config file, besides its `get_config`."""

import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any

from fusionjax.errors import UserError


def load(path: str, function: str, hint: str) -> tuple[ModuleType, Callable[[], Any]]:
    """Imports a config file and finds a function in it.

    Args:
        path: of the file.
        function: its name.
        hint: what to add where it is absent; ends the message.

    Returns:
        The module and the function.

    Raises:
        UserError: the file is no Python file, or has no such function.
    """
    spec = importlib.util.spec_from_file_location(f"config_with_{function}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"--config={path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, function, None)
    if not callable(found):
        raise UserError(f"--config={path} has no {function}(): {hint}")
    return module, found
