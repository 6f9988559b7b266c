r"""DCAL on Stanford Cars: 196 models, 8,144 training and 8,041 test images.

    python -m fusionjax.main --config=configs/cars.py --workdir=runs/cars                      through TFDS
    python -m fusionjax.main --config=configs/cars.py:root=/data/stanford_cars --workdir=…     from the official folder

Needs the data set in TFDS or, with `root`, in its official folder. Arguments: ablation=full|sa_only|sa_glca|sa_pwca,
backbone=vit_base|deit_tiny|deit_small|deit_base|r50_vit_base|dinov2_small|dinov2_base|dinov2_large, recipe=paper|paper_x4,
weights=published|none|<file, package: or hub:>, root=<folder>, runlocal. Starts from the weights named in configs/cub.py.

Top-1 in the paper, baseline → full (docs/reproduce.md): DeiT-T 87.2 → 89.4, DeiT-S 90.7 → 92.3, DeiT-B 92.9 → 93.8, ViT-B
92.5 → 93.4, R50-ViT-B 94.0 → 95.3.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a run; the module's docstring lists what `arg` may hold."""
    return common.fine_grained(arg, source="cars", builder="cars196")
