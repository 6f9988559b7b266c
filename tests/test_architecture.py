"""The plan of the house, held by tests: dependencies point down, files stay small, entry points start."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "fusionjax"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Lower may not import higher; rooms of the same height may, along `BESIDE` only.
HEIGHT = {"errors": 0, "_version": 0, "types": 0, "rules": 1, "mesh": 1, "config": 2, "models": 3, "data": 3, "pretrained": 4,
          "train": 4, "evaluation": 4, "interpret": 4, "tasks": 5, "workdir": 5, "feeds": 5, "judge": 6, "reporting": 6,
          "experiment": 7, "run": 7, "cli": 7, "main": 8, "evaluate": 8, "predict": 8, "prepare": 8,
          "compare": 8, "tabling": 8, "table": 9, "sweeping": 3, "config_spectral": 1,
          "finished": 6, "comparing": 7, "leaderboard": 5, "trials": 8, "sweep": 9}  # fmt: skip
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


def test_every_command_is_thin_and_starts():
    for command in ("main", "evaluate", "predict", "prepare", "compare", "sweep", "table"):
        assert len((PACKAGE / f"{command}.py").read_text().splitlines()) < 100
        done = subprocess.run(
            [sys.executable, "-m", f"fusionjax.{command}"], capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 2 and "is missing" in done.stderr and done.stderr.count("\n") == 1, (
            done.stderr
        )


def test_import_is_cheap():
    program = "import time; t = time.perf_counter(); import fusionjax; assert time.perf_counter() - t < 1; import sys; " \
              "assert 'jax' not in sys.modules and 'tensorflow' not in sys.modules"  # fmt: skip
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
