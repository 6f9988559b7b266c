"""Checkpoints: an undamaged one is restored bit for bit, what is damaged is named and never used."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusionjax.errors import UserError
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
    listed = set(json.loads((folder / MANIFEST).read_text()))
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
