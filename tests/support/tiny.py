r"""A config for tests: a small DCAL on a folder of small pictures, seconds on one core.

python -m fusionjax.main --config=tests/support/tiny.py:root=<folder> --workdir=<folder>
"""

import cv2
import numpy as np

from fusionjax import config as base
from tests.support.pictures import coloured

CLASSES = ("blue", "green", "red")


def get_config(arg=None):
    """Twelve steps of eight images."""
    arg = base.parse_arg(arg, root="", steps=12)
    c = base.default()
    c.data.root = arg.root
    c.data.eval_splits = ("val", "test")
    c.data.resize, c.data.image_size, c.data.threads, c.data.prefetch = 36, 32, 2, 8
    c.data.augment.crop = "random"
    c.model.name = "dcal_vit_shallow"
    c.model.width, c.model.heads, c.model.patch, c.model.ratio = 24, 3, 8, 0.3
    c.model.drop_path = c.model.dropout = 0.1
    c.optim.learning_rate, c.optim.clip_norm, c.optim.ema_decay = 3e-3, 1.0, 0.9
    c.train.batch_size, c.train.steps = 8, arg.steps
    c.train.log_every, c.train.checkpoint_every, c.train.eval_every_epochs = 3, 5, 1.0
    c.evaluation.batch_size = 8
    c.report.examples = 2
    return c


def pictures(root, *, per_class=20, seed=0):
    """Writes root/<class>/<n>.png: noise in a colour that is the class. Returns root."""
    rng = np.random.default_rng(seed)
    for k, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            cv2.imwrite(str(root / name / f"{i:03d}.png"), coloured(rng, k, (40, 48)))
    return root
