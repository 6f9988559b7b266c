"""The smallest run that a sweep can try: `tests.support.tiny`, shallower, chosen by validation images.

python -m fusionjax.sweep --config=tests/support/sweep_config.py:root=<folder> --workdir=<folder> --trials=2
"""

from fusionjax import config as base
from fusionjax.studies import search_space
from tests.support import tiny


def get_config(arg=None):
    """Four steps of eight images, evaluated twice."""
    arg = base.parse_arg(arg, root="", steps=4)
    c = tiny.get_config(f"root={arg.root},steps={arg.steps}")
    c.data.augment.crop = "random_resized"  # whose scale is searched
    c.data.eval_splits = ("val",)
    c.model.width, c.model.ablation = 12, "sa_only"
    c.train.eval_every_epochs, c.train.best_metric = 2 * 8 / 42, "val/accuracy"
    return c


def sweep():
    """A field of each kind."""
    return {
        "optim.learning_rate": search_space.log(1e-4, 1e-1),
        "model.drop_path": search_space.uniform(0.0, 0.3),
        "optim.name": ["adamw", "sgd"],
        "model.heads": search_space.integers(2, 3),
        "data.augment.scale": [(0.5, 1.0), (0.08, 1.0)],
    }
