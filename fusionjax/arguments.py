"""Command lines: the parser that all commands share, --config with its overrides, help, and "did you mean"."""

import argparse
import difflib
import importlib.machinery
import importlib.util
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from fusionjax import config
from fusionjax.config.user_file import UserFile
from fusionjax.errors import UserError

log = logging.getLogger(__name__)


_PATHS = ("DIR", "PATH", "RUN")
"""Metavars of options that name a file or folder."""


@dataclass(frozen=True)
class Command:
    """A command: `fusionjax <name>`, or `python -m fusionjax.<module>`.

    Attributes:
        name: what is typed after `fusionjax`.
        summary: one line for the help.
        add: declares its options on a parser.
        main: runs it; returns an exit code, None for 0. `options.given` has the names of the options that were typed.
        examples: command lines for the help.
        reads_config: whether it takes --config and overrides --config.section.field=value, as a `ConfigFile`.
    """

    name: str
    summary: str
    add: Callable[[argparse.ArgumentParser], None]
    main: Callable[[argparse.Namespace], int | None]
    examples: Sequence[str] = ()
    reads_config: bool = False


@dataclass(frozen=True)
class ConfigFile:
    """A config as it was asked for on the command line.

    Attributes:
        spec: as typed, `cub:backbone=deit_tiny`; may be the name of a packaged config.
        path: the file, with its argument after a colon.
        value: the config with the overrides, locked.
        overrides: values by dotted field.
    """

    spec: str
    path: str
    value: ConfigDict
    overrides: dict[str, Any]


def parser(command: Command) -> argparse.ArgumentParser:
    """Returns the parser of one command, --config's overrides aside."""
    made = _Parser(
        prog=f"fusionjax {command.name}",
        description=command.summary,
        epilog="examples:\n" + "\n".join(f"  {line}" for line in command.examples),
        formatter_class=Help,
        allow_abbrev=False,
        add_help=False,
    )
    if command.reads_config:
        made.add_argument(
            "--config",
            metavar="FILE",
            help="config file or name; --config.section.field=value overrides a field of it",
        )
    command.add(made)
    for action in made._actions:
        if action.metavar in _PATHS and action.type is None:
            action.type = os.path.expanduser  # a shell leaves the ~ of --workdir=~/runs as it is
    made.add_argument(
        "--import", dest="imports", action="append", default=[], metavar="MODULE",
        help="module or .py file of your own that registers a task, data set, backbone or fusion head",
    )  # fmt: skip
    made.add_argument("-v", "--verbose", action="store_true", help="show the traceback of an error")
    made.add_argument("--help", "-h", action="help", help="show this help and leave")
    return made


def parse(command: Command, argv: Sequence[str]) -> argparse.Namespace:
    """Parses the arguments of a command (without the program's name).

    Returns:
        The options. `given` holds the names of those that were typed, `config` the `ConfigFile`, None where absent.

    Raises:
        UserError: an option, a field or the file is unknown or wrong.
        SystemExit: after --help.
    """
    words = list(argv)
    end = words.index("--") if "--" in words else len(words)
    operands, words = words[end + 1 :], words[:end]  # after -- they may begin with a dash
    spec, overrides, others = _split(words) if command.reads_config else (None, [], words)
    made = parser(command)
    defaults = {
        a.dest: a.default for a in made._actions if a.default is not argparse.SUPPRESS and a.dest != "_"
    }
    for action in made._actions:
        action.default = argparse.SUPPRESS
    spelt = {o.replace("-", "_"): o for a in made._actions for o in a.option_strings}  # dashes or underscores

    def canonical(word: str) -> str:
        name, equals, value = word.partition("=")
        return spelt.get(name.replace("-", "_"), name) + equals + value if name.startswith("--") else word

    others = list(map(canonical, others))
    _once(others, [o for a in made._actions if type(a) is argparse._StoreAction for o in a.option_strings])
    # argparse takes operands with a dash for options, whatever stands before them: it sees their numbers.
    others += [f"\0{i}" for i in range(len(operands))]
    given = vars(made.parse_intermixed_args(others))
    given = {name: _operands(value, operands) for name, value in given.items()}
    options = argparse.Namespace(**{**defaults, **given}, given=frozenset(given))
    for name in options.imports:
        load_module(name)
    flags.FLAGS.mark_as_parsed()  # grain asks absl
    if command.reads_config:
        options.config = None if spec is None else read_config(spec, overrides)
        if spec is None and overrides:
            raise UserError(f"{overrides[0]} overrides a config, but --config is missing")
    return options


def _operands(value: Any, operands: Sequence[str]) -> Any:
    """An option's value, with the operands in place of their numbers."""
    if isinstance(value, list):
        return [_operands(one, operands) for one in value]
    return operands[int(value[1:])] if isinstance(value, str) and value.startswith("\0") else value


def _once(words: Sequence[str], options: Iterable[str]) -> None:
    """Raises a UserError for an option that is given twice, of which the first would be ignored."""
    names = [word.partition("=")[0] for word in words]
    twice = next((o for o in options if o.startswith("--") and names.count(o) > 1), None)
    if twice:
        raise UserError(f"{twice} is given {names.count(twice)} times: give it once")


def comma_separated(text: str) -> list[str]:
    """Type of an option that takes a list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def at_least(low: int) -> Callable[[str], int]:
    """Type of an option that takes a whole number with a lower bound."""

    def number(text: str) -> int:
        if not re.fullmatch(r"[+-]?\d{1,18}", text) or int(text) < low:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least {low}")
        return int(text)

    return number


def needed(value: Any, message: str) -> Any:
    """Returns an option's value.

    Raises:
        UserError: it was not given; `message` says what is missing.
    """
    if not value:
        raise UserError(message)
    return value


def output_folder(out: str, option: str = "--out", *, writes: bool = False) -> Path:
    """The folder of --out, which may not exist yet.

    Args:
        out: as the user named it.
        option: that names it.
        writes: whether something is written there in any case, so that it must be possible.

    Raises:
        UserError: it cannot be a folder, or not be written.
    """
    folder = Path(out)
    try:
        above = next(part for part in (folder, *folder.absolute().parents) if part.exists())
    except OSError as e:
        raise UserError(f"{option}={out} cannot be a folder: {e.strerror}") from None
    if not above.is_dir():
        raise UserError(f"{option}={out} cannot be a folder: {above} is a file; name another one")
    if writes and not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"{above} cannot be written: name another folder by {option}")
    return folder


def suggestion(word: str, known: Iterable[str]) -> str:
    """Returns "; did you mean …?" for a word that resembles a known one, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def config_folder() -> Path:
    """Returns the folder of the packaged configs: inside the installed package, or beside it in a clone."""
    package = Path(__file__).parent
    return package / "configs" if (package / "configs").is_dir() else package.parent / "configs"


def config_path(spec: str) -> str:
    """Finds a config: a file, or the name of a packaged one, `cub` or `configs/cub.py`.

    Args:
        spec: path or name, an argument may follow after a colon.

    Returns:
        The path of the file, with the argument.

    Raises:
        UserError: there is none.
    """
    name, colon, argument = spec.partition(":")
    path = Path(name).expanduser()
    if not path.exists():
        bare = re.fullmatch(r"(?:configs/)?(\w+)(?:\.py)?", name)
        packaged = config_folder() / f"{bare[1]}.py" if bare else None
        if packaged is None or not packaged.is_file():
            known = sorted(
                p.stem for p in config_folder().glob("*.py") if not p.stem.startswith(("common", "_"))
            )
            hint = suggestion(bare[1], known) if bare else ""
            raise UserError(f"--config={name} cannot be read: no such file{hint}")
        path = packaged
    return f"{path}{colon}{argument}"


def read_config(spec: str, overrides: Sequence[str]) -> ConfigFile:
    """Reads a config file and applies overrides `--config.section.field=value`.

    Fields of the file that only a switch reads which an override turns off return to their defaults.

    Raises:
        UserError: the file, its argument or a field is wrong.
    """
    found_at = config_path(spec)
    file, colon, argument = found_at.partition(":")
    make_importable(Path(file))
    value = UserFile(file).config(*([argument] if colon else []))
    before = value.copy_and_resolve_references()
    argv = ["fusionjax", *overrides]
    values = flags.FlagValues()
    try:
        flag: Any = config_flags.DEFINE_config_dict("config", value, "", flag_values=values, sys_argv=argv)
        defined: Any = values["config"]
        rest = values(argv)[1:]
    except (KeyError, AttributeError):  # a field that is not there; the file may have registered sections
        for word in overrides:
            config.check_key(word.removeprefix("--no").lstrip("-").partition("=")[0])
        raise
    except flags.Error as e:
        text = str(e).splitlines()[0]
        found = re.match(r"flag --(config\.[\w.]+)=(.*?): (.*)", text)
        raise UserError(
            f"{found[1]}={found[2]!r} is of the wrong type: {found[3]}" if found else text
        ) from None
    if rest:
        raise UserError(
            f"unexpected argument {rest[0]!r}; overrides are written --config.section.field=value"
        )
    given = dict(defined.override_values)
    if given:
        try:
            unread = config.apply_switches(flag.value, before, given)
        except (
            TypeError
        ) as e:  # a whole section, {'learning_rate': 1}, in which a value is of another type than its field
            raise UserError(f"an override has a value of the wrong type: {e}") from None
        if unread:
            log.warning("with these overrides nothing reads %s: at the default again", ", ".join(unread))
    return ConfigFile(spec, found_at, flag.value, given)


def make_importable(path: Path) -> None:
    """Lets a file import what lies beside it; files in a folder configs/ import each other as configs.<name>.

    The packaged configs are importable as `configs` wherever no other folder of that name comes first.
    """
    folder = path.absolute().parent
    if folder != config_folder():
        for place in (folder.parent, folder) if folder.name == "configs" else (folder,):
            if str(place) in sys.path:
                sys.path.remove(str(place))
            sys.path.insert(0, str(place))  # before modules of the same names elsewhere, as for a script
    ours = getattr(sys.modules.get("configs"), "__path__", None) == [str(config_folder())]
    if folder == config_folder() or (not ours and importlib.util.find_spec("configs") is None):
        # A module of its own, since the parent folder, the package's, holds names of the standard library.
        spec = importlib.machinery.ModuleSpec("configs", None, is_package=True)
        spec.submodule_search_locations = [str(config_folder())]
        packaged = importlib.util.module_from_spec(spec)
        sys.modules["configs"] = packaged


def load_module(name: str) -> None:
    """Imports a module of the user's own, by its name or its file.

    Raises:
        UserError: it cannot be imported.
    """
    if name.endswith(".py"):
        make_importable(Path(name))
        UserFile(name, "--import", Path(name).stem)
        return
    try:
        importlib.import_module(name)
    except Exception as e:
        raise UserError(f"--import={name} cannot be imported: {type(e).__name__}: {e}") from e


class _Parser(argparse.ArgumentParser):
    """Raises a `UserError` for a wrong argument, with a suggestion."""

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (\S+)", message)
        if unknown:
            name = unknown[1].partition("=")[0]
            known = [o for a in self._actions for o in a.option_strings]
            hint = suggestion(name, known)
            if not name.startswith("-"):
                hint = "; overrides are written --config.section.field=value" if "--config" in known else ""
                raise UserError(f"unexpected argument {unknown[1]!r}{hint}")
            message = f"unknown option {name}{hint}"
        raise UserError(f"{message} ({self.prog} --help lists the options)")


class Help(argparse.RawDescriptionHelpFormatter):
    """Help that keeps the line breaks of the examples, 110 characters wide."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=110)


def _split(argv: Sequence[str]) -> tuple[str | None, list[str], list[str]]:
    """Parts a command line into --config's value, its overrides, and everything else."""
    spec, overrides, others = None, [], []
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if not re.match(r"--?(no)?config(\.|$)", name):
            others.append(word)
            continue
        if not equals and words and not words[0].startswith("--"):
            value, equals = words.pop(0), "="
        if name.lstrip("-") == "config":
            if not value:
                raise UserError("--config is empty: name a config file, e.g. --config=quickstart")
            if spec is not None:
                raise UserError(f"--config is given twice, {spec} and {value}: give it once")
            spec = value
        else:
            overrides.append(f"--{name.lstrip('-')}{equals}{value}")
    _once(overrides, (word.partition("=")[0] for word in overrides))
    return spec, overrides, others
