"""The smallest run that a sweep can try: `tests.tiny`, shallower, chosen by validation images.

python -m fusionjax.sweep --config=tests/sweep_config.py:root=<folder> --workdir=<folder> --trials=2
"""

from fusionjax import config as base
from fusionjax import sweeping
from tests import tiny


def get_config(arg=None):
    """Four steps of eight images, evaluated twice."""
    arg = base.parse_arg(arg, root="", steps=4)
    c = tiny.get_config(f"root={arg.root},steps={arg.steps}")
    c.data.eval_splits = ("val",)
    c.model.width, c.model.ablation = 12, "sa_only"
    c.train.eval_every_epochs, c.train.best_metric = 2 * 8 / 42, "val/accuracy"
    return c


def sweep():
    """A field of each kind."""
    return {
        "optim.learning_rate": sweeping.log(1e-4, 1e-1),
        "model.drop_path": sweeping.uniform(0.0, 0.3),
        "optim.name": ["adamw", "sgd"],
        "model.heads": sweeping.integers(2, 3),
        "data.augment.scale": [(0.5, 1.0), (0.08, 1.0)],
    }
