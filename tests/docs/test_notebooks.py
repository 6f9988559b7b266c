"""The notebooks of colabs/: a run from the first cell to the last in an empty folder, and that they are committed clean."""

import os
import pathlib

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))
EXECUTED = ("looking_inside",)
"""Those whose shortened form is cheap enough for every test run; it has the training and the opening of a run in it."""


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.stem in EXECUTED], ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    """Training is cut to a few steps (SMALL); a cell that fails raises with its traceback."""
    monkeypatch.setenv("SMALL", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))
    for name in ("PYTHONWARNINGS", "MPLBACKEND"):  # which pytest or another test has set
        monkeypatch.delenv(name, raising=False)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    pictures = [o for c in notebook.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    assert pictures


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    assert notebook.cells[0].source.startswith("# ") and "%pip install" in notebook.cells[1].source


def test_there_are_seven():
    assert len(NOTEBOOKS) == 7
