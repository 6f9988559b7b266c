r"""The smallest run that trains: one block of width 8 on pictures of 16 pixels. Its process, and what it leaves.

python -m fusionjax.main --config=tests/faults/smallest.py:root=<folder> --workdir=<folder>
"""

import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax

from fusionjax.experiment import inference, trainer
from fusionjax.train import checkpoint, metrics
from tests.support import tiny

ROOT = pathlib.Path(__file__).parents[2]


def get_config(arg=None):
    """Twelve steps of eight images."""
    c = tiny.get_config(arg)
    c.data.eval_splits = ("test",)
    c.data.resize, c.data.image_size = 18, 16
    c.model.name, c.model.ratio = "vit_shallow", 0.1
    c.model.depth, c.model.width, c.model.heads, c.model.mlp_ratio = 1, 8, 1, 1.0
    c.optim.ema_decay, c.train.log_every = 0.0, 4
    c.report.enabled = False
    return c


def start(data, folder, *more, steps=12, patch=""):
    """The process of a run; `patch` is Python that it executes first."""
    arguments = [f"--config=tests/faults/smallest.py:root={data},steps={steps}", f"--workdir={folder}", *more]
    program = ["-m", "fusionjax.main"]
    if patch:
        program = ["-c", f"{patch}\nfrom fusionjax import cli, main\ncli.run(main.COMMAND)"]
    return subprocess.Popen(
        [sys.executable, *program, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip


def listens(process, number):
    """Whether a process has a handler of its own for a signal."""
    found = pathlib.Path(f"/proc/{process.pid}/status").read_text().partition("SigCgt:")[2].split()[0]
    return bool(int(found, 16) >> (number - 1) & 1)


def wait_for(condition, process, seconds=120):
    """Waits until a condition holds; an error if the process ends before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def newest(folder):
    """Step of the newest checkpoint on disk; 0 for none."""
    return max((int(p.name) for p in (folder / "checkpoints").glob("*") if p.name.isdigit()), default=0)


def final(folder, config):
    """(step, state, what is saved beside it) of the newest checkpoint."""
    task = trainer.Experiment(config, folder).task
    abstract = jax.eval_shape(functools.partial(inference._state, task, config), jax.random.key(0))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), abstract)
    return checkpoint.Checkpointer(folder / "checkpoints", read_only=True).restore(target)


def leftovers(folder):
    """What a run leaves, without what depends on time: names of files, records, scores."""
    records = [{k: v for k, v in r.items() if k != "train/images_per_second"} for r in metrics.read(folder)]
    scores = json.loads((folder / "results.json").read_text())
    checkpoints = sorted(os.listdir(folder / "checkpoints"))
    return {"files": sorted(os.listdir(folder)), "checkpoints": checkpoints, "records": records} | {
        "scores": {k: v for k, v in scores.items() if k != "seconds"}
    }


ENDED = {signal.SIGTERM: (75, "terminated"), signal.SIGINT: (130, "interrupted")}
"""Signal → exit code, and the word of its line."""
