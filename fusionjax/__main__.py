"""The command `fusionjax`, and `python -m fusionjax`: one subcommand for each command module."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

import fusionjax
from fusionjax import arguments, cli
from fusionjax.arguments import Command
from fusionjax.errors import UserError

MODULES = {
    "train": "main",
    "evaluate": "evaluate",
    "predict": "predict",
    "visualize": "visualize",
    "export": "export",
    "inspect": "inspect",
    "prepare": "prepare",
    "compare": "compare",
    "table": "table",
    "sweep": "sweep",
    "models": "models.__main__",
    "completion": "__main__",
}
"""The module of each subcommand."""

_BEGIN = """\
fusionjax trains, evaluates and explains attention models that fuse two or more views. To begin:

  fusionjax train --config=quickstart --workdir=runs/quickstart     train on packaged drawings, write a report
  fusionjax predict --workdir=runs/quickstart photo.jpg             ask the trained model about an image
  fusionjax --help                                                  list all commands"""


def command(name: str) -> Command:
    """Returns a subcommand.

    Raises:
        UserError: there is none of that name.
    """
    if name == "completion":
        return COMPLETION
    if name == "models":
        listing = importlib.import_module("fusionjax.models.__main__")
        return Command(
            name, listing.SUMMARY, listing.add, lambda options: listing.main(options.parts), listing.EXAMPLES
        )
    if name not in MODULES:
        hint = arguments.suggestion(name, MODULES)
        raise UserError(f"unknown command {name!r}{hint or '; it is one of ' + ', '.join(MODULES)}")
    found: Command = importlib.import_module(f"fusionjax.{MODULES[name]}").COMMAND
    return found


def whole() -> argparse.ArgumentParser:
    """Returns one parser of all commands, for the list of commands and for completion in a shell."""
    made = argparse.ArgumentParser(
        prog="fusionjax",
        description="Attention models that fuse two or more views: train, evaluate, explain.",
        epilog="fusionjax <command> --help describes a command.",
        formatter_class=arguments.Help,
    )
    made.add_argument("--version", action="version", version=f"fusionjax {fusionjax.__version__}")
    subcommands = made.add_subparsers(title="commands", metavar="<command>", dest="command")
    for name in MODULES:
        one = command(name)
        subcommands.add_parser(
            name, parents=[arguments.parser(one)], help=one.summary, description=one.summary, add_help=False
        )
    return made


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a subcommand; without any, says how to begin."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0].startswith("-"):
        sys.exit(cli.printed(lambda: _overview(words)))
    try:
        chosen = command(words[0])
    except UserError as e:
        cli.fail(str(e))
    cli.run(chosen, words[1:])


def _overview(words: Sequence[str]) -> int:
    if words:
        whole().parse_args(words[:1])
    print(_BEGIN)
    return 0


def _completion_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=["bash", "zsh", "tcsh"], help="the shell")


def _complete(options: argparse.Namespace) -> None:
    import shtab

    parser = whole()
    for subparser in parser._subparsers._group_actions[0].choices.values():  # type: ignore[union-attr]
        for action in subparser._actions:
            kind = {"DIR": shtab.DIRECTORY, "RUN": shtab.DIRECTORY}.get(str(action.metavar))
            kind = shtab.FILE if action.metavar in ("FILE", "PATH", "IMAGE") else kind
            if kind is not None:
                action.complete = kind
    print(shtab.complete(parser, options.shell))


COMPLETION = Command(
    "completion",
    "Prints a script that completes fusionjax's commands in a shell.",
    _completion_options,
    _complete,
    ("fusionjax completion bash > ~/.local/share/bash-completion/completions/fusionjax",),
)

if __name__ == "__main__":
    main()
