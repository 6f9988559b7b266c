"""Directives that describe the program from its own code: `program-commands` and `program-config`."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from ml_collections import ConfigDict
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from fusionjax import __main__ as program
from fusionjax import arguments, register
from fusionjax.config import schema


class Commands(SphinxDirective):
    """The help of every command."""

    def run(self) -> list[nodes.Node]:
        """See `Directive.run`."""
        found: list[nodes.Node] = []
        for name in program.MODULES:
            section = nodes.section(ids=[f"fusionjax-{name}"])
            section += nodes.title(text=f"fusionjax {name}")
            help_text = arguments.parser(program.command(name)).format_help()
            section += nodes.literal_block(help_text, help_text, language="text")
            found.append(section)
        return found


class Config(SphinxDirective):
    """A table for each section of the config: field, default, meaning."""

    def run(self) -> list[nodes.Node]:
        """See `Directive.run`."""
        found: list[nodes.Node] = []
        for name, maker in sections().items():
            section = nodes.section(ids=[f"config-{name}"])
            section += nodes.title(text=f"config.{name}" if name else "config")
            section += self._table(rows(maker(), comments(maker)))
            found.append(section)
        return found

    def _table(self, lines: list[tuple[str, str, str]]) -> nodes.table:
        table, group = nodes.table(), nodes.tgroup(cols=3)
        table += group
        for width in (3, 3, 8):
            group += nodes.colspec(colwidth=width)
        head, body = nodes.thead(), nodes.tbody()
        group += [head, body]
        head += self._row("field", "default", "meaning", plain=True)
        for line in lines:
            body += self._row(*line)
        return table

    def _row(self, *cells: str, plain: bool = False) -> nodes.row:
        row = nodes.row()
        for i, cell in enumerate(cells):
            paragraph = nodes.paragraph()
            paragraph += nodes.Text(cell) if plain or i == 2 else nodes.literal(text=cell)
            row += nodes.entry("", paragraph)
        return row


def sections() -> dict[str, Callable[[], ConfigDict]]:
    """The function that makes each section, by the section's name; those of the tasks last."""
    found: dict[str, Callable[[], ConfigDict]] = {name: getattr(schema, f"_{name}") for name in schema.CORE}
    for _, record in register.tasks.records():
        found |= record.sections
    return {"": schema.default, **found}


def rows(section: ConfigDict, meanings: dict[str, str], prefix: str = "") -> list[tuple[str, str, str]]:
    """Field, default and meaning of every field of a section."""
    found: list[tuple[str, str, str]] = []
    order = list(meanings)  # of the source; a ConfigDict's own is the alphabet
    named = sorted(section.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order))
    for name, value in named:
        if not isinstance(value, ConfigDict):
            found.append((prefix + name, repr(value), meanings.get(name, "")))
        elif prefix or name not in sections():
            inner = getattr(schema, f"_{name}", None)
            found += rows(value, comments(inner) if inner else {}, f"{prefix}{name}.")
    return found


def comments(maker: Callable[..., Any]) -> dict[str, str]:
    """The comment of each field `c.<field> = …`: at the end of its line, or above it."""
    source = textwrap.dedent(inspect.getsource(maker))
    lines, found = source.splitlines(), {}
    for names, first, last in _assignments(ast.parse(source)):
        _, mark, comment = lines[last - 1].partition("  # ")
        above: list[str] = []
        while lines[first - 2 - len(above)].strip().startswith("# "):
            above.insert(0, lines[first - 2 - len(above)].strip()[2:])
        text = " ".join([*above, comment] if mark else above).strip()
        found |= dict.fromkeys(names, text)
    return found


def _assignments(tree: ast.AST) -> Iterator[tuple[list[str], int, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            targets = [t for target in node.targets for t in getattr(target, "elts", [target])]
            names = [t.attr for t in targets if isinstance(t, ast.Attribute)]
            yield names, node.lineno, node.end_lineno or node.lineno


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the directives."""
    directives: dict[str, type[Directive]] = {"program-commands": Commands, "program-config": Config}
    for name, directive in directives.items():
        app.add_directive(name, directive)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
