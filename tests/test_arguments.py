"""Options, --config with its overrides, help, completion."""

import logging
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import absl.logging
import pytest

import fusionjax.__main__ as program
from fusionjax import arguments, compare, config, interruption, main, predict, prepare, sweep
from fusionjax.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """A command takes over warnings, threads' errors and signals, for its process; the tests' process goes on."""
    ours = logging.getLogger("fusionjax")
    handlers, propagates = list(ours.handlers), ours.propagate
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(interruption, "install", lambda: None)
    verbosity = absl.logging.get_verbosity()
    yield
    ours.handlers[:], ours.propagate = handlers, propagates
    absl.logging.set_verbosity(verbosity)


@pytest.mark.parametrize("name", program.MODULES)
def test_help_fits_a_screen_and_has_an_example(name, capsys):
    with pytest.raises(SystemExit) as left:
        program.main([name, "--help"])
    text = capsys.readouterr().out
    assert left.value.code == 0 and f"usage: fusionjax {name}" in text and f"\n  fusionjax {name}" in text
    assert len(text.splitlines()) <= 48 and max(map(len, text.splitlines())) <= 110


def test_alone_it_says_how_to_begin(capsys):
    with pytest.raises(SystemExit) as left:
        program.main([])
    assert left.value.code == 0
    assert sum(line.startswith("  fusionjax") for line in capsys.readouterr().out.splitlines()) == 3


def test_version_and_list_of_commands(capsys):
    for option in ("--version", "--help"):
        with pytest.raises(SystemExit) as left:
            program.main([option])
        assert left.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("fusionjax 0.") and all(f"\n    {name}" in text for name in program.MODULES)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "unknown command 'trian'; did you mean train?"),
        (["train", "--wrokdir=x"], "unknown option --wrokdir; did you mean --workdir?"),
        (["train", "--config=cup"], "--config=cup cannot be read: no such file; did you mean cub?"),
        (["train", "--config="], "--config is empty"),
        (["train", "x"], "unexpected argument 'x'; overrides are written --config.section.field=value"),
        (["train", "--config.seed=1"], "--config.seed=1 overrides a config, but --config is missing"),
        (["train", "--config=cub", "--config.optim.lr=1"], "config.optim.lr is not known"),
        (["train", "--config=cub", "--config.seed=x"], "config.seed='x' is of the wrong type"),
        (["train", "--import=no_such_module"], "--import=no_such_module cannot be imported"),
        (["predict", "--top=0"], "'0' is no whole number of at least 1"),
        (["predict", "--top=" + "9" * 30], "is no whole number of at least 1"),
        (["sweep", "--sampler=best"], "invalid choice: 'best'"),
        (["evaluate", "--workdir"], "expected one argument"),
    ],
)
def test_a_wrong_argument_is_one_line(argv, message, capsys):
    with pytest.raises(SystemExit) as left:
        program.main(argv)
    text = capsys.readouterr().err
    assert left.value.code == 2 and message in text and text.count("\n") == 1


def test_options_and_overrides():
    options = arguments.parse(
        main.COMMAND,
        ["--config", "quickstart", "--config.seed", "-3", "--workdir=a b", "--noconfig.report.enabled"],
    )
    assert options.workdir == "a b" and not options.check and options.given == {"workdir"}
    assert options.config.value.seed == -3 and options.config.value.report.enabled is False
    assert options.config.overrides == {"seed": -3, "report.enabled": False}
    assert options.config.spec == "quickstart" and Path(options.config.path).is_file()


def test_dashes_and_underscores_are_the_same():
    for spelling in ("--max-bad-fraction", "--max_bad_fraction"):
        assert arguments.parse(prepare.COMMAND, [f"{spelling}=0.5"]).max_bad_fraction == 0.5
    for spelling in ("--no-check-counts", "--nocheck_counts"):
        options = arguments.parse(prepare.COMMAND, ["cub", spelling])
        assert options.check_counts is False and options.given == {"source", "check_counts"}


def test_defaults_are_not_given():
    assert arguments.parse(sweep.COMMAND, []).given == frozenset()
    assert arguments.parse(compare.COMMAND, ["a", "b", "--no-group"]).group is False
    options = arguments.parse(predict.COMMAND, ["a.jpg", "--text=x", "--text=y", "b.jpg"])
    assert options.images == ["a.jpg", "b.jpg"] and options.text == ["x", "y"]


def test_what_follows_two_dashes_is_an_operand():
    words = ["--workdir=x", "--", "-v.png", "--csv", "--workdir=y"]
    options = arguments.parse(predict.COMMAND, words)
    assert options.images == ["-v.png", "--csv", "--workdir=y"]
    assert options.workdir == "x" and not options.csv and not options.verbose
    assert arguments.parse(predict.COMMAND, ["a.png", "--workdir=x", "b.png", "--", "-c.png"]).images == [
        "a.png",
        "b.png",
        "-c.png",
    ]


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        (main, ["--config=cub", "--config=cars"], "--config is given twice, cub and cars"),
        (main, ["--config=cub", "--workdir=a", "--workdir", "b"], "--workdir is given 2 times"),
        (
            main,
            ["--config=cub", "--config.seed=1", "--config.seed=2"],
            "--config.seed is given 2 times: give it once",
        ),
        (predict, ["--workdir=a", "--top=1", "--top=2", "x.png"], "--top is given 2 times"),
    ],
)
def test_what_is_given_twice_is_refused(command, words, message):
    """The last one would win in silence."""
    with pytest.raises(UserError, match=message):
        arguments.parse(command.COMMAND, words)
    assert arguments.parse(predict.COMMAND, ["--text=a", "--text=b", "x.png"]).text == ["a", "b"]


def test_values_keep_their_dashes():
    assert arguments.parse(main.COMMAND, ["--workdir=my-runs/--x-y"]).workdir == "my-runs/--x-y"


def test_a_packaged_config_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for spec in ("cub", "configs/cub.py", "cub.py", "cub:backbone=deit_tiny"):
        path, _, argument = arguments.config_path(spec).partition(":")
        assert Path(path) == arguments.config_folder() / "cub.py" and argument == spec.partition(":")[2]
    (tmp_path / "cub.py").write_text("")  # one's own file comes first
    assert arguments.config_path("cub.py") == "cub.py"


def test_a_config_of_ones_own_may_build_on_a_packaged_one(tmp_path):
    """In a process of its own, since imports stay."""
    (tmp_path / "mine.py").write_text(
        "from configs import quickstart\n\ndef get_config():\n    return quickstart.get_config('runlocal')\n"
    )
    program = "from fusionjax import arguments; arguments.read_config('quickstart', []); " \
              "print(arguments.read_config('mine.py', ['--config.seed=5']).value.seed)"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "5\n", done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_completion_is_a_script(tmp_path, capsys):
    with pytest.raises(SystemExit):
        program.main(["completion", "bash"])
    script = tmp_path / "fusionjax"
    script.write_text(capsys.readouterr().out)
    subprocess.run(["bash", "-n", script], check=True)
    assert "--max_bad_fraction" in script.read_text()


def test_an_override_that_turns_a_switch_off_takes_its_fields_along(caplog):
    asked = arguments.read_config("crossvit:root=x", ["--config.data.augment.erase=0"])
    assert asked.value.data.augment.erase_fill == "mean", "the default; the file sets 'noise'"
    assert "nothing reads data.augment.erase_fill: at the default again" in caplog.text
    config.validate(asked.value)
    assert asked.overrides == {"data.augment.erase": 0}
    both = ["--config.data.augment.erase=0", "--config.data.augment.erase_fill=noise"]
    with pytest.raises(UserError, match="erase_fill='noise' is not read by this run"):
        config.validate(arguments.read_config("crossvit:root=x", both).value)


def test_a_whole_part_is_turned_off_by_one_override():
    asked = arguments.read_config("quickstart:runlocal", ["--config.data.cache.enabled=False"])
    assert not config.validate(asked.value).evaluation.probe, "it measures cached features"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (main, ["--workdir=~/x"]),
        (prepare, ["folder", "--root=~/x"]),
        (compare, ["~/x"]),
        (sweep, ["--workdir", "~/x"]),
    ],
)
def test_the_home_folder_is_not_a_folder_called_tilde(command, words, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    options = vars(arguments.parse(command.COMMAND, words))
    assert "/home/me/x" in (options.get("workdir"), options.get("root"), *options.get("runs", ()))
