"""The plan of the house, held by tests: dependencies point down, files stay small, entry points start."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "fusionjax"
MODULES = sorted(PACKAGE.rglob("*.py"))

# A floor may import the floors below it; packages on the same floor may not import each other, except along `BESIDE`.
FLOORS = (
    {"errors", "types", "records", "files", "vectors", "interruption", "_version"},
    {"register", "distributed", "disk_cache", "progress"},
    {"config"},
    {"models", "data"},
    {"pretrained", "train", "evaluation", "interpret"},
    {"losses"},
    {"tasks"},
    {"experiment"},
    {"studies"},
    {"arguments"},
    {"cli", "api"},
    {"main", "evaluate", "predict", "visualize", "export", "inspect", "prepare", "compare", "sweep", "table"},
    {"__main__"},
)
HEIGHT = {package: height for height, floor in enumerate(FLOORS) for package in floor}
BESIDE = {("interpret", "evaluation")}


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(
    "path", [p for p in MODULES if p.parent != PACKAGE or p.name != "__init__.py"], ids=str
)
def test_dependencies_point_down(path):
    here = room(path)
    for name in imports(path):
        assert not name.startswith("configs"), f"{path} imports a config"
        assert not name.startswith(("tensorflow.", "torch")) and name != "tensorflow", (
            f"{path} imports {name}"
        )
        if not name.startswith("fusionjax."):
            continue
        there = name.split(".")[1]
        if there in HEIGHT and there != here:
            assert HEIGHT[there] < HEIGHT[here] or (here, there) in BESIDE, (
                f"{path}: {here} may not import {there}"
            )


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_files_stay_small(path):
    assert len(path.read_text().splitlines()) <= 400


LONG = {
    (
        "evaluation/reid.py",
        "_rank",
    ): "one pass over blocks of queries; its parts would share all of its arrays",
    ("studies/comparison.py", "compare"): "fills one dataclass, a field per statement",
    ("train/step.py", "make"): "three closures, each short, that a compiled step is made of",
}
"""Functions of more than 60 lines, without their docstring, and why."""


def statements(function):
    """Lines of a function without its docstring."""
    own = function.end_lineno - function.lineno + 1
    first = function.body[0]
    return own - (first.end_lineno - first.lineno + 1 if ast.get_docstring(function) else 0)


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_functions_stay_short(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.FunctionDef)
            and (path.relative_to(PACKAGE).as_posix(), node.name) not in LONG
        ):
            assert statements(node) <= 60, f"{path}:{node.lineno} {node.name}"


def test_every_command_is_thin_and_starts():
    for command in (
        "main",
        "evaluate",
        "predict",
        "visualize",
        "export",
        "prepare",
        "compare",
        "sweep",
        "table",
    ):
        assert len((PACKAGE / f"{command}.py").read_text().splitlines()) < 140  # most of them declare options
        done = subprocess.run(
            [sys.executable, "-m", f"fusionjax.{command}"], capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 2 and "is missing" in done.stderr and done.stderr.count("\n") == 1, (
            done.stderr
        )


def test_import_is_cheap():
    program = "import time; t = time.perf_counter(); import fusionjax; assert time.perf_counter() - t < 1; import sys; " \
              "from fusionjax import __main__ as program; program.whole().format_help(); import fusionjax.models; " \
              "assert not {'jax', 'flax', 'tensorflow'} & set(sys.modules), 'the list of commands needs none'"  # fmt: skip
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_records_of_tasks_and_data_sets_are_light():
    program = "import sys; import fusionjax.config; from fusionjax import register; config = fusionjax.config.default(); " \
              "list(register.tasks.records()); list(register.datasets.records()); " \
              "assert not {'jax', 'flax', 'tensorflow'} & set(sys.modules)"  # fmt: skip
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
