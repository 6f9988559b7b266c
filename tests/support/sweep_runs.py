"""What the tests of sweeps share: a run that computes nothing, and the driver around it."""

import csv
import math
import pathlib

from fusionjax.studies import search, search_space
from tests.support import sweep_config

SPEC = {"optim.learning_rate": search_space.log(1e-4, 1e-1), "model.heads": [2, 3]}


def config(**fields):
    c = sweep_config.get_config()
    with c.unlocked():
        for name, value in fields.items():
            section, _, field = name.partition("__")
            c[section][field] = value
    return c


class Run:
    """Four steps, an evaluation each; goes on where it stopped. `at(run, step)` may raise."""

    steps, steps_per_epoch = 4, 1.0
    at = staticmethod(lambda run, step: None)
    value = staticmethod(lambda c: -abs(math.log10(c.optim.learning_rate) + 2))

    def __init__(self, c, folder):
        self.config, self.folder = c, pathlib.Path(folder)

    def train(self, on_scores):
        path = self.folder / "step"
        start = int(path.read_text()) if path.exists() else 0
        for step in range(start + 1, self.steps + 1):
            type(self).at(self, step)
            path.write_text(str(step))
            if step % self.steps_per_epoch == 0:
                on_scores(step, {"val/accuracy": type(self).value(self.config), "val/nll": 1.0})
        return {"val/accuracy": type(self).value(self.config), "step": self.steps, "seconds": 0.5}


def faked(monkeypatch):
    """A class of such runs in place of real ones, which a test may change."""
    made = type("Fake", (Run,), {})
    monkeypatch.setattr(search, "prepare", made)
    return made


def sweep(folder, spec=SPEC, *, work=True, base=None, **options):
    every = config(train__eval_every_epochs=1.0) if base is None else base
    made = search.Sweep(every, spec, folder, **{"trials": 6, "sampler": "random", **options})
    made.open()
    if work:
        made.work()
    return made


def found(made):
    """Trial number → parameters."""
    return {row["trial"]: row["parameters"] for row in made.rows()}


def board(folder):
    """Rows of leaderboard.csv, by column."""
    return list(csv.DictReader((folder / "leaderboard.csv").read_text().splitlines()))
