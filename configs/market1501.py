r"""DCAL on Market-1501: 12,936 training images of 751 persons, 3,368 queries, 15,913 gallery images, 6 cameras.

    python -m fusionjax.prepare market1501 --root=/data/Market-1501                                       checks the files
    python -m fusionjax.main --config=configs/market1501.py:root=/data/Market-1501 --workdir=runs/market1501

Needs the data set in the folder layout of its authors. Arguments: root=<folder>, ablation=full|sa_only|sa_glca|sa_pwca,
backbone=vit_base|deit_tiny|deit_small|deit_base|dinov2_small|dinov2_base|dinov2_large, weights=published|none|<file, package:
or hub:>, sie (camera embedding), stride=<pixels; patches overlap if less than 16>, rerank, flip (mirror averaging), runlocal.
Starts from timm's weights on the Hugging Face hub: ViT from ImageNet-21k, DeiT from ImageNet-1k, DINOv2 without labels; with
DINOv2, whose patches have 14 pixels, sides are rounded down to their multiples.

mAP / rank-1 in the paper (docs/reproduce.md): DeiT-T 79.8 / 91.8, DeiT-S 85.3 / 94.0, DeiT-B 87.2 / 94.5, ViT-B 87.5 / 94.7.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a run; the module's docstring lists what `arg` may hold."""
    return common.re_identification(arg, source="market1501", cameras=6)
