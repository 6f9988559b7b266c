r"""DCAL on CUB-200-2011: 200 birds, 5,994 training and 5,794 test images.

    python -m fusionjax.main --config=configs/cub.py --workdir=runs/cub                      through TFDS
    python -m fusionjax.main --config=configs/cub.py:root=/data/CUB_200_2011 --workdir=…     from the official folder

Needs the data set in TFDS or, with `root`, in its official folder. Arguments: ablation=full|sa_only|sa_glca|sa_pwca,
backbone=vit_base|deit_tiny|deit_small|deit_base|r50_vit_base|dinov2_small|dinov2_base|dinov2_large, recipe=paper|paper_x4,
weights=published|none|<file, package: or hub:>, root=<folder>, runlocal.

Starts from timm's weights on the Hugging Face hub, as the paper: ViT and R50-ViT from ImageNet-21k, DeiT from ImageNet-1k,
DINOv2 without labels; weights=none starts from scratch. Top-1 in the paper, baseline → full (docs/reproduce.md): DeiT-T 82.1
→ 84.6, DeiT-S 85.8 → 87.6, DeiT-B 88.0 → 88.8, ViT-B 90.8 → 91.4, R50-ViT-B 91.3 → 92.0."""

from typing import Any

from ml_collections import ConfigDict

from configs import common
from fusionjax.studies import search_space


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a run; the module's docstring lists what `arg` may hold."""
    return common.fine_grained(arg, source="cub", builder="caltech_birds2011")


def sweep() -> dict[str, Any]:
    """Search space of `python -m fusionjax.sweep`. CUB has no validation split: hold out a part of train (see the README)."""
    return {
        "optim.learning_rate": search_space.log(3e-6, 3e-4),
        "model.drop_path": [0.0, 0.1, 0.2],
        "model.ratio": search_space.uniform(0.05, 0.3),  # R
    }
