"""SIGTERM and SIGINT, from the first moment of a command to its last."""

import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from fusionjax import interruption
from fusionjax.experiment import session, trainer
from fusionjax.train import metrics
from tests.faults import smallest
from tests.support import tiny


@pytest.fixture(autouse=True)
def libraries_warn(recwarn):
    """Orbax and Grain warn about their own internals."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.pictures(tmp_path_factory.mktemp("pictures") / "root")


@pytest.mark.parametrize(
    ("number", "seconds"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGTERM, 0.5), (signal.SIGINT, 2)]
)  # fmt: skip
def test_a_signal_at_start_up_is_one_line(data, tmp_path, number, seconds):
    """While the interpreter imports, reads the data or compiles: nothing is open yet."""
    process = smallest.start(data, tmp_path / "run")
    smallest.wait_for(lambda: smallest.listens(process, signal.SIGTERM), process)  # the later of both
    time.sleep(seconds)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    code, word = smallest.ENDED[number]
    assert (process.returncode, out) == (code, "")
    *said, last = err.splitlines()  # what the run says first depends on how far it came
    assert last == f"fusionjax: {word}; start the same command again to resume"
    assert not any(line.startswith(("Traceback", " ", "fusionjax")) for line in said), err


def test_a_second_interrupt_ends_at_once():
    program = "import fusionjax.interruption as i, time; i.install()\nwith i.deferred():\n  print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    process.stdout.readline()
    for _ in range(2):
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    assert process.wait(timeout=10) == 130


def test_a_library_that_swallows_the_interruption_does_not_keep_the_process(tmp_path):
    program = """
import fusionjax.interruption as i, time
i.install()
with i.raising():
    print(flush=True)
    try: time.sleep(60)
    except BaseException: time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 75


def test_an_ignored_signal_stays_ignored():
    program = "import signal, fusionjax.interruption as i; i.install(); print(repr(signal.getsignal(signal.SIGINT)))"
    command = f"trap '' INT; exec {sys.executable} -c '{program}'"
    found = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert "SIG_IGN" in found.stdout


def test_a_program_that_imports_the_package_keeps_its_handlers():
    program = "import signal, fusionjax; print(repr(signal.getsignal(signal.SIGTERM)), signal.getsignal(signal.SIGINT))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "SIG_DFL" in found.stdout and "default_int_handler" in found.stdout


def test_a_run_that_is_terminated_saves_and_says_so(data, tmp_path):
    """`kill`, as a scheduler does it, in the middle of training. Nothing after the last step is lost."""
    process = smallest.start(data, tmp_path, "--config.train.checkpoint_every=100000", steps=100_000)
    smallest.wait_for(lambda: (tmp_path / "metrics.jsonl").exists() and metrics.read(tmp_path), process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    step = smallest.newest(tmp_path)
    assert process.returncode == 75 and step >= metrics.read(tmp_path)[-1]["step"] > 0
    assert err.endswith(
        f"fusionjax: terminated; step {step} is saved, start the same command again to resume\n"
    )
    assert "Traceback" not in err


@pytest.fixture
def terminate(monkeypatch):
    """Makes this process believe that SIGTERM has arrived."""
    monkeypatch.setattr(interruption._State, "received", None)
    return lambda: monkeypatch.setattr(interruption._State, "received", signal.SIGTERM)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that nobody interrupted: (config, folder)."""
    folder, config = tmp_path_factory.mktemp("whole"), smallest.get_config(f"root={data}")
    trainer.Experiment(config, folder).train()
    return config, folder


def resumed_equals(whole, folder):
    config, expected = whole
    interruption._State.received = None
    trainer.Experiment(config, folder).train()
    (step, state, data), (at, other, beside) = (smallest.final(f, config) for f in (folder, expected))
    assert step == at and data["iterator"] == beside["iterator"]
    jax.tree.map(np.testing.assert_array_equal, state, other)
    found, want = smallest.leftovers(folder), smallest.leftovers(expected)
    assert found["records"] == want["records"], (
        "the same evaluations and the same log lines, windows included"
    )
    assert found["scores"] == want["scores"] and found["files"] == want["files"]


def test_interrupted_between_two_log_lines_a_run_resumes_as_if_nothing_had_been(whole, tmp_path, terminate):
    config, _ = whole
    with pytest.raises(interruption.Interrupted):
        trainer.Experiment(config, tmp_path).train(on_scores=lambda step, scores: terminate())
    assert smallest.newest(tmp_path) % config.train.log_every
    resumed_equals(whole, tmp_path)


def test_interrupted_in_an_evaluation_a_run_resumes_with_that_evaluation(
    whole, tmp_path, terminate, monkeypatch
):
    config, _ = whole
    predicted = session.Evaluator.__call__

    def interrupted(self, variables):
        terminate()
        return predicted(self, variables)

    with monkeypatch.context() as patch, pytest.raises(interruption.Interrupted):
        patch.setattr(session.Evaluator, "__call__", interrupted)
        trainer.Experiment(config, tmp_path).train()
    _, _, beside = smallest.final(tmp_path, config)
    assert beside["pending"] and not any("test/accuracy" in r for r in metrics.read(tmp_path))
    resumed_equals(whole, tmp_path)


def test_a_checkpoint_is_saved_by_time_too(data, tmp_path, monkeypatch):
    config = smallest.get_config(f"root={data}")
    config.train.checkpoint_every, config.train.eval_every_epochs, config.train.checkpoint_minutes = (
        1000,
        0.0,
        1e-9,
    )
    saved = []
    save = session.Saver.save
    monkeypatch.setattr(
        session.Saver, "save", lambda self, state, *a, **k: (saved.append(int(state.step)), save(self, state, *a, **k))
    )  # fmt: skip
    trainer.Experiment(config, tmp_path).train()
    assert saved == list(range(1, 13))
