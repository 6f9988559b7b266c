"""Names stay where they belong: a task's in its record and the registry, a data set's in data/, a backbone's in models/."""

import ast
import pathlib

import pytest

from fusionjax import models, register

PACKAGE = pathlib.Path(__file__).parents[2] / "fusionjax"
MODULES = sorted(PACKAGE.rglob("*.py"))
REGISTRY = PACKAGE / "register.py"
SCHEMA = PACKAGE / "config" / "schema.py"
"""Holds the defaults, among them a data set's and a backbone's name."""

TASKS = set(register.tasks.names())
# Also what a model, a mode of fusion or an output is called: a comparison with these alone says nothing of the task.
ELSEWHERE = {"fusion", "mvpdr", "trimodal"}
# What may be named → (names, folders of the package that may name it).
NAMED = {
    "data set": (set(register.datasets.names()), ("data",)),
    "backbone": (set(models.names()), ("models",)),
}
SEARCHES = ("startswith", "endswith", "removeprefix", "find", "index", "count", "get")


def strings(node):
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def is_task(node):
    """Whether an expression is the name of a run's task: c.task, fields["task"], fields.get("task")."""
    if isinstance(node, ast.Attribute):
        return node.attr == "task"
    if isinstance(node, ast.Subscript):
        return isinstance(node.slice, ast.Constant) and node.slice.value == "task"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
        return bool(node.args) and isinstance(node.args[0], ast.Constant) and node.args[0].value == "task"
    return False


def decisions(tree):
    """Lines that decide by a task's name: a comparison, a search in it, a match statement or a table by it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            found = set().union(*map(strings, sides))
            named = any(map(is_task, sides)) and any(strings(side) for side in sides if not is_task(side))
            if named or found & (TASKS - ELSEWHERE):
                yield node.lineno
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in SEARCHES and is_task(node.func.value):
                yield node.lineno
        elif isinstance(node, ast.Match | ast.Subscript) and is_task(
            node.subject if isinstance(node, ast.Match) else node.slice
        ):
            yield node.lineno


@pytest.mark.parametrize(
    "path", [p for p in MODULES if p != REGISTRY], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_nothing_decides_by_the_name_of_a_task(path):
    assert list(decisions(ast.parse(path.read_text()))) == [], f"{path}: ask the task or its record"


@pytest.mark.parametrize("what", NAMED)
def test_only_its_own_room_names_it(what):
    names, rooms = NAMED[what]
    assert names
    for path in MODULES:
        if path in (REGISTRY, SCHEMA) or path.relative_to(PACKAGE).parts[0] in rooms:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in names, f"{path}:{node.lineno} names the {what} {node.value!r}"


@pytest.mark.parametrize(
    "line",
    [
        "c.task == 'toy'",
        "config.task in ('a', 'b')",
        "f['task'] != 'toy'",
        "f.get('task') == 'toy'",
        "name == 'reid'",
        "'reid' in names",
        "c.task.startswith('re')",
        "{'a': 1}[c.task]",
        "match c.task:\n    case 'a':\n        pass",
    ],
)
def test_what_counts_as_deciding(line):
    assert list(decisions(ast.parse(line))) == [1]


def test_what_does_not_count():
    for line in (
        "c.fusion.mode == 'fusion'",
        "c.task = 'reid'",
        "f'the task {c.task!r}'",
        "a.task == b.task",
    ):
        assert list(decisions(ast.parse(line))) == []
