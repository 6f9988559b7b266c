"""What the command makes of its options."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from fusionjax import arguments, export, visualize
from fusionjax.errors import UserError
from fusionjax.experiment import faithfulness, inference, visualization
from fusionjax.interpret import views


def run(monkeypatch, *words):
    """The arguments that the command gives to `visualization.write`."""
    given = {}
    monkeypatch.setattr(
        inference, "load", lambda name: SimpleNamespace(folder=Path(name), exported=name.startswith("hub:"))
    )

    def write(runs, kinds, folder, **options):
        given.update(runs=[r.folder.name for r in runs], kinds=kinds, folder=str(folder), **options)
        return [folder / "a.png"]

    monkeypatch.setattr(visualization, "write", write)
    visualize.COMMAND.main(arguments.parse(visualize.COMMAND, words))
    return given


def test_options_reach_the_figures(monkeypatch, capsys):
    given = run(
        monkeypatch,
        "--workdir=runs/a",
        "--images",
        "x.png",
        "y.png",
        "--kind=rollout,heads",
        "--paper",
        "--width=3.4",
    )
    assert given["kinds"] == ["", "rollout", "heads"] and given["images"] == ["x.png", "y.png"]
    assert given["folder"] == "runs/a/figures" and given["width"] == 3.4 and given["limit"] == 16
    assert capsys.readouterr().out == "runs/a/figures/a.png\n"
    given = run(
        monkeypatch, "--workdir=hub:a/b", "--compare=runs/c", "--wrong=3", "--format=pdf,svg", "--class=label"
    )
    assert given["runs"] == ["b", "c"] and given["kinds"] == [""] and given["folder"] == "figures"
    assert given["wrong"] == 3 and given["formats"] == ["pdf", "svg"] and given["target"] == "label"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--workdir is missing"),
        (["--workdir=r", "--images", "a.png", "--wrong=2"], "--images and --wrong both choose what is drawn"),
        (["--workdir=r", "--images", "a.png", "--class=label"], "the true class of an image is not known"),
        (
            ["--workdir=r", "--text=a bird"],
            "--text is of --images: examples of a run's own data bring theirs",
        ),
        (["--workdir=r", "--width=nan"], "'nan' is no number of inches from 1 to 60"),
        (["--workdir=r", "--right=-1"], "'-1' is no whole number of at least 0"),
        (["--workdir=r", "--kinds=rollout"], "unknown option --kinds; did you mean --kind"),
    ],
)
def test_a_mistake_is_one_line(monkeypatch, words, message):
    with pytest.raises(UserError, match=message):
        run(monkeypatch, *words)


def test_figures_are_printed_though_they_cannot_be_measured(monkeypatch, capsys):
    def refuse(run, split):
        raise UserError("not measured")

    monkeypatch.setattr(faithfulness, "measure", refuse)
    with pytest.raises(UserError, match="not measured"):
        run(monkeypatch, "--workdir=runs/a", "--split=test", "--faithfulness")
    assert capsys.readouterr().out == "runs/a/figures/a.png\n"


def test_a_run_of_somebody_else_is_drawn_elsewhere(monkeypatch, tmp_path):
    """Its folder cannot be written: said before anything is computed."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=f"{tmp_path} cannot be written: name another folder by --out"):
        run(monkeypatch, f"--workdir={tmp_path}")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--hub=.*file cannot be a folder"):
        export.main(arguments.parse(export.COMMAND, ["--workdir=r", f"--hub={tmp_path / 'file'}"]))


def test_the_help_names_every_kind():
    assert visualize.KINDS.split(", ") == list(views.KINDS)
