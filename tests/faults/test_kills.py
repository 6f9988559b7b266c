"""SIGKILL, at random moments and at chosen ones: what is left in the end equals an uninterrupted run's, bit for bit."""

import random
import signal
import time

import jax
import numpy as np
import pytest

from tests.faults import smallest
from tests.support import tiny

STEPS = 60


@pytest.fixture(autouse=True)
def libraries_warn(recwarn):
    """Orbax and Grain warn about their own internals."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.pictures(tmp_path_factory.mktemp("pictures") / "root")


def finish(data, folder):
    process = smallest.start(data, folder, steps=STEPS)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """An uninterrupted run: (its folder, the seconds that it takes once compiled)."""
    folders = [tmp_path_factory.mktemp(name) / "run" for name in ("first", "second")]
    for folder in folders:  # the second finds the programs in the compilation cache
        began = time.monotonic()
        finish(data, folder)
    return folder, time.monotonic() - began


def same(data, folder, whole):
    config = smallest.get_config(f"root={data},steps={STEPS}")
    (step, state, beside), (at, other, expected) = (smallest.final(f, config) for f in (folder, whole))
    assert step == at == STEPS and beside["iterator"] == expected["iterator"]
    jax.tree.map(np.testing.assert_array_equal, state, other)
    assert smallest.leftovers(folder) == smallest.leftovers(whole)


def test_killed_at_random_moments(data, whole, tmp_path):
    expected, seconds = whole
    moments = random.Random(0)
    killed = 0
    for _ in range(4):
        process = smallest.start(data, tmp_path, steps=STEPS)
        time.sleep(moments.uniform(0.3, 1.0) * seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    assert killed > 1
    finish(data, tmp_path)
    same(data, tmp_path, expected)


@pytest.mark.parametrize("at", ["_chosen", "_baselines", "_export"])
def test_killed_after_the_last_step(data, whole, tmp_path, at):
    """In the final evaluation, once its scores are written, and when the results are."""
    kill = "import os, signal; from fusionjax.experiment import session\n"
    kill += f"session.{at} = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)"
    process = smallest.start(data, tmp_path, steps=STEPS, patch=kill)
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL and smallest.newest(tmp_path) == STEPS
    finish(data, tmp_path)
    same(data, tmp_path, whole[0])
