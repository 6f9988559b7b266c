"""What the command prints, and when."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from fusionjax import arguments, evaluate
from fusionjax.errors import UserError
from fusionjax.experiment import inference, reevaluation, visualization


def test_scores_are_printed_though_there_are_no_figures(monkeypatch, capsys):
    """A convolutional network has been scored, however long that took, before it has no attention to draw."""
    scorer = SimpleNamespace(scalars=lambda results: results)
    run = SimpleNamespace(task=SimpleNamespace(scorer=scorer), folder=Path("runs/a"), exported=False)
    found = SimpleNamespace(notes=(), recall=(), cautions=(), results={"test/accuracy": 0.5})

    def refuse(*_):
        raise UserError("a has no attention over patches")

    monkeypatch.setattr(inference, "load", lambda folder: run)
    monkeypatch.setattr(reevaluation, "evaluate", lambda run, splits: found)
    monkeypatch.setattr(visualization, "write", refuse)
    with pytest.raises(UserError, match="no attention"):
        evaluate.main(arguments.parse(evaluate.COMMAND, ["--workdir=runs/a", "--visualize"]))
    assert capsys.readouterr().out == "test/accuracy 0.5000\n"
