"""Python files of the user's own: a config file with its functions, and a module that registers names.

Whatever is wrong with such a file is one line with its name and the line number; `-v` shows the traceback.
"""

import contextlib
import importlib.util
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from fusionjax.errors import UserError


class UserFile:
    """A Python file, imported.

    Args:
        path: of the file.
        flag: that names it; begins every message.
        name: of the module; None for one that no import statement finds.

    Raises:
        UserError: the file cannot be read, is no Python file, or raises an exception.

    Attributes:
        module: the file's.
    """

    def __init__(self, path: str, flag: str = "--config", name: str | None = None):
        self._path, self._flag = path, flag
        self.module = self._import(name or f"config_file_{Path(path).stem}")

    def call(self, function: str, *arguments: Any, hint: str) -> Any:
        """The result of a function of the file.

        Args:
            function: its name.
            *arguments: it is called with these.
            hint: what to add where it is absent; ends the message.

        Raises:
            UserError: the file has no such function, or the function raises an exception.
        """
        found = getattr(self.module, function, None)
        if not callable(found):
            raise UserError(f"{self._flag}={self._path} has no {function}(): {hint}")
        with self._errors_in_one_line():
            return found(*arguments)

    def config(self, *arguments: str) -> ConfigDict:
        """What `get_config` returns.

        Args:
            *arguments: the argument of the config, if there is one.

        Raises:
            UserError: as `call`; it returns something else than a `ConfigDict`.
        """
        config = self.call("get_config", *arguments, hint="add a function that returns the config of a run")
        if type(config) is not ConfigDict:
            raise UserError(
                f"{self._flag}={self._path}: get_config() returned {type(config).__name__}, not a ConfigDict: begin "
                "with `c = fusionjax.config.default()` and end with `return c`"
            )
        return config

    def _import(self, name: str) -> ModuleType:
        # The suffix first: of a file that is no program, a message must not show the content.
        if Path(self._path).suffix != ".py":
            raise UserError(f"{self._flag}={self._path} is not a Python file: its name does not end in .py")
        with self._errors_in_one_line():
            spec = importlib.util.spec_from_file_location(name, self._path)
            if spec is None or spec.loader is None:
                raise ImportError("it is no Python file")
            module = importlib.util.module_from_spec(spec)
            added = sys.modules.setdefault(name, module) is module
            try:
                spec.loader.exec_module(module)
            except BaseException:
                if added:
                    del sys.modules[name]
                raise
            return module

    @contextlib.contextmanager
    def _errors_in_one_line(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except (Exception, SystemExit) as e:
            raise UserError(f"{self._flag}={self._path} {self._said(e)}") from e

    def _said(self, error: BaseException) -> str:
        """What went wrong, and in which line of the file."""
        if isinstance(error, SyntaxError) and (error.filename is None or self._is_here(error.filename)):
            where = f" in line {error.lineno}" if error.lineno else ""
            return f"is not valid Python{where}: {error.msg}"  # without the line's text
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if self._is_here(f.filename)]
        if isinstance(error, OSError) and not lines:
            return f"cannot be read: {_WORDS.get(type(error), error.strerror or str(error))}"
        # A locked ConfigDict prints all of its fields.
        text = re.sub(r" Other fields present:.*?(?=Did you mean|$)", " ", str(error), flags=re.DOTALL)
        what = text if isinstance(error, SystemExit) else f"{type(error).__name__}: {text}"
        return f"fails{f' in line {lines[-1]}' if lines else ''}: {textwrap.shorten(what, 400)}"

    def _is_here(self, path: str | None) -> bool:
        return path is not None and os.path.realpath(path) == os.path.realpath(self._path)


_WORDS: dict[type[OSError], str] = {FileNotFoundError: "no such file", IsADirectoryError: "it is a folder"}
