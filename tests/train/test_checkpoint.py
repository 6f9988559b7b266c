"""Checkpoints: an undamaged one is restored bit for bit, what is damaged is named and never used."""

import json
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.errors import UserError
from fusionjax.train import checkpoint
from fusionjax.train.checkpoint import MANIFEST, Checkpointer


@pytest.fixture(autouse=True)
def orbax_speaks_to_its_developers(recwarn):
    """Orbax and its readers warn about their own internals."""


def tree(x=0.0):
    return {"a": jnp.arange(600.0) + x, "b": {"c": jnp.full((3, 4), 2, jnp.int32)}, "none": None}


def target(value):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), value)


@pytest.fixture
def saved(tmp_path):
    """Steps 1 (best), 2 and 3."""
    keeper = Checkpointer(tmp_path / "c")
    for step, best in ((1, 0.9), (2, 0.5), (3, 0.7)):
        keeper.save(step, tree(step), {"step": step}, best)
    keeper.wait()
    yield keeper
    keeper.close()


def rewrite(folder, change):
    """Changes a manifest and its own sum with it, as whoever computes the sums anew would."""
    content = json.loads((folder / MANIFEST).read_text())
    del content["sum"]
    change(content)
    (folder / MANIFEST).write_text(json.dumps({**content, "sum": checkpoint._sum(content)}))


def test_the_newest_comes_back_bit_for_bit(saved):
    step, state, data = saved.restore(target(tree()))
    assert (step, data) == (3, {"step": 3})
    jax.tree.map(np.testing.assert_array_equal, state, tree(3))


def test_best_and_last_are_kept_also_by_a_later_process(saved):
    assert saved.best_step() == 1
    again = Checkpointer(saved.folder)
    for step in (4, 5):
        again.save(step, tree(step), {}, 0.1)
    again.wait()
    assert again.steps() == [1, 4, 5] and again.best_step() == 1
    assert again.restore(target(tree()), 1)[0] == 1
    again.close()


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", ["flip", "missing", "truncate", "manifest", "empty"])
def test_damage_is_named_and_the_one_before_is_used(saved, damage, caplog):
    folder = saved.folder / "3"
    victim = max((p for p in (folder / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    if damage == "flip":
        flip(victim)
    elif damage == "missing":
        victim.unlink()
    elif damage == "truncate":
        victim.write_bytes(victim.read_bytes()[:-7])
    elif damage == "manifest":
        (folder / MANIFEST).unlink()
    else:
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    fresh = Checkpointer(saved.folder)
    with caplog.at_level(logging.WARNING, "fusionjax"):
        step, state, _ = fresh.restore(target(tree()))
    assert step == 2
    jax.tree.map(np.testing.assert_array_equal, state, tree(2))
    if damage != "empty":  # an empty folder is no checkpoint, and is removed at once
        assert "3 is damaged" in caplog.text
    fresh.discard_after(step)
    fresh.save(3, tree(9), {})
    fresh.wait()
    assert fresh.restore(target(tree()))[0] == 3
    fresh.close()


def test_every_file_is_in_the_manifest(saved):
    folder = saved.folder / "3"
    listed = set(json.loads((folder / MANIFEST).read_text())["files"])
    have = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert have - listed == {MANIFEST, "_CHECKPOINT_METADATA", "commit_success.txt"}


def test_none_whole_is_an_error_that_says_so(saved):
    for step in saved.steps():
        (saved.folder / str(step) / MANIFEST).unlink()
    with pytest.raises(UserError, match="all checkpoints in .* are damaged"):
        saved.restore(target(tree()))


def test_another_architecture_is_named(saved):
    with pytest.raises(
        UserError,
        match=r"has another architecture: \['a'\] is float32\[600\] there and float32\[5\] in this config",
    ):
        saved.restore(target({**tree(), "a": jnp.zeros(5)}))
    with pytest.raises(UserError, match="absent there"):
        saved.restore(target({**tree(), "z": jnp.zeros(5)}))
    with pytest.raises(UserError, match="float32"):  # Orbax would cast in silence
        saved.restore(target({**tree(), "a": jnp.zeros(600, jnp.bfloat16)}))


def test_leftovers_of_a_kill_do_not_count(saved, tmp_path):
    (saved.folder / "7").mkdir()
    (saved.folder / "8.orbax-checkpoint-tmp").mkdir()
    (saved.folder / "8.orbax-checkpoint-tmp" / "half").write_bytes(b"x")
    assert Checkpointer(saved.folder).restore(target(tree()))[0] == 3


def test_no_checkpoint_is_none(tmp_path):
    assert Checkpointer(tmp_path / "new").restore(target(tree())) is None


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"files": {}}', "[" * 100_000, '{"a/b": "00"}'])
def test_a_manifest_that_lists_nothing_is_damage(saved, content, caplog):
    (saved.folder / "3" / MANIFEST).write_text(content)
    assert saved.restore(target(tree()))[0] == 2
    assert "3 is damaged" in caplog.text


def test_a_manifest_that_lists_a_part_is_damage(saved, caplog):
    def shorten(content):
        content["files"] = {k: v for k, v in content["files"].items() if k.startswith("data/")}

    rewrite(saved.folder / "3", shorten)
    flip(max((saved.folder / "3" / "state").rglob("*"), key=lambda p: p.is_file() and p.stat().st_size))
    assert saved.restore(target(tree()))[0] == 2
    assert "is not in MANIFEST" in caplog.text


def test_one_bit_of_a_manifest_is_damage(saved):
    path = saved.folder / "3" / MANIFEST
    whole = path.read_bytes()
    for at in np.random.default_rng(0).choice(len(whole), 40, replace=False):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        assert saved.restore(target(tree()))[0] == 2, whole[at - 20 : at + 20]


def test_a_checkpoint_under_the_name_of_a_later_step_is_named(saved, caplog):
    (saved.folder / "3").rename(saved.folder / "9")
    assert Checkpointer(saved.folder).restore(target(tree()))[0] == 2
    assert "it is the checkpoint of step 3 under another name" in caplog.text


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    theirs, mine = (Checkpointer(tmp_path / name, run=name) for name in ("theirs", "mine"))
    for keeper in (theirs, mine):
        keeper.save(1, tree(), {})
        keeper.wait()
    assert mine.restore(target(tree()))[0] == 1
    theirs.save(2, tree(), {})
    theirs.close()
    shutil.copytree(tmp_path / "theirs" / "2", tmp_path / "mine" / "2")
    for read_only in (False, True):
        with pytest.raises(UserError, match="2 belongs to another run than the config.json beside it"):
            Checkpointer(tmp_path / "mine", run="mine", read_only=read_only).restore(target(tree()))


def test_a_checkpoint_of_an_earlier_version_can_be_read(saved):
    """0.1 listed the files alone."""
    path = saved.folder / "3" / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text())["files"]))
    reader = Checkpointer(saved.folder, run="r", read_only=True)
    assert reader.restore(target(tree()))[0] == 3 and reader.best_step() == 1


def test_one_bit_of_a_score_neither_stops_nor_counts(saved, caplog):
    for path in (saved.folder / "1" / "data").rglob("*"):
        if path.is_file():
            flip(path)
    fresh = Checkpointer(saved.folder)
    assert fresh.best_step() == 3 and fresh.restore(target(tree()))[0] == 3
    assert "1 is damaged" in caplog.text


def test_of_equal_scores_the_last_is_the_best_whatever_is_saved_between(tmp_path):
    keeper = Checkpointer(tmp_path / "c")
    for step, best in ((1, 0.9), (2, None), (3, 0.9), (4, 0.1), (5, None), (6, None)):
        keeper.save(step, tree(step), {}, best)
    keeper.wait()
    assert keeper.best_step() == 3 and keeper.steps() == [3, 5, 6]


def test_what_a_killed_process_did_not_remove_is_removed(saved):
    shutil.copytree(saved.folder / "2", saved.folder / "0")
    rewrite(saved.folder / "0", lambda content: content.update(step=0))
    again = Checkpointer(saved.folder)
    assert again.steps() == [0, 1, 2, 3]
    again.close()
    assert Checkpointer(saved.folder, read_only=True).steps() == [1, 2, 3]


@pytest.mark.parametrize("kind", ["file", "dangling", "circular"])
def test_a_folder_that_is_none_is_one_line(tmp_path, kind):
    path = tmp_path / "checkpoints"
    path.write_text("x") if kind == "file" else path.symlink_to("away" if kind == "dangling" else path)
    with pytest.raises(
        UserError, match="checkpoints is to be the folder of the checkpoints and cannot be used"
    ):
        Checkpointer(path)


def test_what_is_no_checkpoint_is_none(saved):
    (saved.folder / "7").write_text("a file")
    (saved.folder / "8").symlink_to("8")
    assert Checkpointer(saved.folder).restore(target(tree()))[0] == 3
