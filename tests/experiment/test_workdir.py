"""A workdir belongs to one run, and to one process at a time; what is no run's is left alone."""

import json
import os
import pathlib

import pytest

from fusionjax import config as config_lib
from fusionjax.errors import UserError
from fusionjax.experiment import workdir
from fusionjax.studies import locks

FACTS = {"class_names": ["a", "b"], "examples": {"train": "x"}}


def start(folder, facts=FACTS, **train):
    c = config_lib.default()
    c.train.update(train)
    return workdir.open_for_training(folder, c, facts)


def trained(folder):
    """What a run leaves, without its arrays."""
    start(folder).close()
    (folder / "checkpoints" / "3").mkdir(parents=True)


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "results.json", "outcomes.npz", "report/right_now.png", "report/figure_mine.png", ".git/HEAD"]
)  # fmt: skip
def test_a_folder_that_is_no_run_s_is_refused_and_left_alone(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="is not empty and not the folder of a run") as e:
        start(tmp_path)
    assert name.split("/")[0] in str(e.value)
    assert sorted(tmp_path.rglob("*")) == before and path.read_text() == "mine"


@pytest.mark.parametrize("place", ["/proc/runs/x", "/dev/null/x", "/sys/x"])
def test_a_workdir_that_cannot_be_made_is_found_before_anything(place):
    """By `--check` too, which writes nothing; as root permissions say nothing."""
    with pytest.raises(UserError, match=f"--workdir={place}.*(cannot be written|is a file)"):
        workdir.check_writable(pathlib.Path(place))


def test_the_check_of_a_workdir_leaves_nothing(tmp_path):
    workdir.check_writable(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


def test_logs_of_the_run_itself_may_be_there(tmp_path):
    (tmp_path / "slurm-17.out").write_text("starting")
    (tmp_path / "train.log").write_text("starting")
    start(tmp_path).close()


def test_killed_in_the_first_moment_a_run_can_start_again(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.json.1234abcd.part").touch()
    start(tmp_path).close()
    assert sorted(os.listdir(tmp_path)) == [".lock", "config.json", "config.py"]


def test_the_config_to_edit_follows_the_run_until_it_is_edited(tmp_path):
    start(tmp_path, batch_size=2).close()
    assert "c.train.batch_size = 2\n" in (tmp_path / "config.py").read_text()
    start(tmp_path, batch_size=4).close()
    assert "c.train.batch_size = 4\n" in (tmp_path / "config.py").read_text()
    mine = (tmp_path / "config.py").read_text() + "# mine\n"
    (tmp_path / "config.py").write_text(mine)
    start(tmp_path, batch_size=8).close()
    assert (tmp_path / "config.py").read_text() == mine


def test_a_trial_that_a_sweep_has_claimed_can_start(tmp_path):
    held = locks.hold(tmp_path / "trial")
    start(tmp_path / "trial").close()
    held.close()


def test_checkpoints_without_their_config_are_not_taken_over(tmp_path):
    trained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match="holds checkpoints, but its config.json is missing: restore it"):
        start(tmp_path, batch_size=2)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize("removed", [False, True])
def test_one_process_trains_whatever_becomes_of_the_lock_s_file(tmp_path, removed):
    with start(tmp_path):
        if removed:
            (tmp_path / ".lock").unlink()
        with pytest.raises(UserError, match="is in use: another process trains there"):
            start(tmp_path)
    start(tmp_path).close()


def test_a_run_that_never_saved_may_start_with_another_config(tmp_path):
    start(tmp_path).close()
    start(tmp_path, batch_size=2).close()
    assert workdir.read(tmp_path)["config"]["train"]["batch_size"] == 2
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    with pytest.raises(
        UserError, match="belongs to a run of another config: config.train.batch_size is 2 there"
    ):
        start(tmp_path, batch_size=4)


def test_the_identity_of_a_run_is_that_of_its_config_data_and_version(tmp_path, monkeypatch):
    def identity(name, facts=FACTS, **train):
        start(tmp_path / name, facts, **train).close()
        return workdir.read(tmp_path / name)["run"]

    first = identity("a")
    assert identity("b") == first == identity("c", checkpoint_every=1, checkpoint_minutes=1.0)
    assert identity("d", {**FACTS, "command": "another"}) == first
    assert first not in (identity("e", batch_size=2), identity("f", {**FACTS, "examples": {"train": "y"}}))
    monkeypatch.setattr(workdir, "__version__", "9.9.0")
    assert identity("g") != first


def test_a_resumed_run_keeps_its_identity(tmp_path):
    """Whatever fields a later version adds to the config."""
    trained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**content, "run": "as it was"}))
    start(tmp_path).close()
    assert workdir.read(tmp_path)["run"] == "as it was"


@pytest.mark.parametrize(
    "change",
    [
        [], None, 3, "text", {"config": []}, {"config": None}, {"class_names": "ab"}, {"class_names": [1, 2]},
        {"environment": "linux"}, {"images": [1]}, {"steps": "many"}, {"run": 5}, {"tokenizer": []},
    ],
)  # fmt: skip
def test_a_config_of_the_wrong_types_is_one_line(tmp_path, change):
    start(tmp_path).close()
    path = tmp_path / "config.json"
    content = {**json.loads(path.read_text()), **change} if isinstance(change, dict) else change
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="config.json is damaged") as e:
        workdir.read(tmp_path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{", b"[" * 100_000, b""])
def test_a_config_that_does_not_parse_is_one_line(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match="config.json is damaged"):
        workdir.read(tmp_path)


def test_a_config_that_is_a_folder_is_one_line(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(UserError, match="config.json is damaged .it cannot be read|not a regular file"):
        workdir.read(tmp_path)
