r"""A config for tests: small encoders on a folder of images of six channels, seconds on one core.

python -m fusionjax.main --config=tests/support/tiny_spectral.py:root=<folder> --workdir=<folder>
"""

import numpy as np

from fusionjax import config as base

CLASSES = ("coarse", "fine")


def get_config(arg=None):
    """Twelve steps of eight images."""
    arg = base.parse_arg(
        arg,
        root="",
        steps=12,
        fusion=("separate", "concat", "attention"),
        modalities=("both", "rgb", "uv"),
        seed=0,
    )
    c = base.default()
    c.task, c.seed = "spectral", arg.seed
    c.data.source, c.data.root = "multispectral", arg.root
    c.data.modalities = (("rgb", (0, 1, 2)), ("uv", (3, 4, 5)))
    c.data.mean = c.data.std = ()
    c.data.fractions, c.data.eval_splits = (0.6, 0.0, 0.4), ("train", "test")
    c.data.augment.crop, c.data.augment.flip = "none", 0.0
    c.data.resize, c.data.image_size, c.data.threads, c.data.prefetch = 16, 16, 2, 8
    c.model.name, c.model.width, c.model.heads, c.model.patch, c.model.depth = "vit_shallow", 24, 3, 4, 1
    s = c.spectral
    s.fusion, s.reference_split, s.projection = arg.fusion, "train", (16, 8)
    s.train_on = () if arg.modalities == "both" else (arg.modalities,)
    s.query_width, s.query_heads, s.neighbours, s.permutations = 8, 2, 3, 19
    s.crop_area, s.blur_sigma = (0.6, 1.0), (0.1, 1.0)
    c.optim.learning_rate, c.optim.clip_norm = 3e-3, 1.0
    c.train.batch_size, c.train.steps = 8, arg.steps
    c.train.log_every, c.train.checkpoint_every, c.train.eval_every_epochs = 4, 5, 0.0
    c.evaluation.batch_size = 8
    c.report.enabled = False
    return c


def images(root, *, per_class=20, dtype=np.float32, seed=0):
    """Writes root/<class>/<n>.npy, (20, 24, 6): a pattern, its scale the class, in UV inverted and darker. Returns root."""
    rng = np.random.default_rng(seed)
    for name, cell in zip(CLASSES, (4, 2), strict=True):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            pattern = np.kron(rng.uniform(size=(20 // cell, 24 // cell, 3)), np.ones((cell, cell, 1)))
            image = np.concatenate([pattern, 0.3 - 0.2 * pattern], -1) + 0.02 * rng.normal(size=(20, 24, 6))
            scale = 1000 if dtype == np.float32 else 255
            image = (scale * np.clip(image, 0, 1)).astype(dtype)
            np.save(root / name / f"{i:03d}.npy", image)
    return root
