r"""DCAL on CUB-200-2011: 200 birds, 5,994 training and 5,794 test images.

    python -m fusionjax.main --config=configs/cub.py --workdir=runs/cub                      through TFDS
    python -m fusionjax.main --config=configs/cub.py:root=/data/CUB_200_2011 --workdir=…     from the official folder

Needs the data set in TFDS or, with `root`, in its official folder. Arguments: ablation=full|sa_only|sa_glca|sa_pwca,
backbone=vit_base|deit_tiny|deit_small|deit_base|r50_vit_base, recipe=paper|paper_x4, weights=<file>, root=<folder>, runlocal.

Top-1 in the paper, baseline → full, with pretrained weights: DeiT-T 82.1 → 84.6, DeiT-S 85.8 → 87.6,
DeiT-B 88.0 → 88.8, ViT-B 90.8 → 91.4, R50-ViT-B 91.3 → 92.0.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common
from fusionjax import config as base
from fusionjax.studies import search_space


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a run; the module's docstring lists what `arg` may hold."""
    options = base.parse_arg(arg, **common.fine_grained_arg())
    c = common.fine_grained(base.default(), options)
    c.data.source = "cub" if options.root else "tfds"
    c.data.root, c.data.builder = options.root, "" if options.root else "caltech_birds2011"
    return common.run_local(c) if options.runlocal else c


def sweep() -> dict[str, Any]:
    """Search space of `python -m fusionjax.sweep`. CUB has no validation split: hold out a part of train (see the README)."""
    return {
        "optim.learning_rate": search_space.log(3e-6, 3e-4),
        "model.drop_path": [0.0, 0.1, 0.2],
        "model.ratio": search_space.uniform(0.05, 0.3),  # R
    }
