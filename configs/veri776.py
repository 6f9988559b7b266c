r"""DCAL on VeRi-776: 37,778 training images of 576 vehicles, 1,678 queries, 11,579 gallery images, 20 cameras.

    python -m fusionjax.prepare veri776 --root=/data/VeRi                                       checks the files
    python -m fusionjax.main --config=configs/veri776.py:root=/data/VeRi --workdir=runs/veri776

Needs the data set in the folder layout of its authors. Arguments: root=<folder>, ablation=full|sa_only|sa_glca|sa_pwca,
backbone=vit_base|deit_tiny|deit_small|deit_base|dinov2_small|dinov2_base|dinov2_large, weights=published|none|<file, package:
or hub:>, sie (camera embedding), stride=<pixels; patches overlap if less than 16>, rerank, flip (mirror averaging), runlocal.
Starts from timm's weights on the Hugging Face hub: ViT from ImageNet-21k, DeiT from ImageNet-1k, DINOv2 without labels; with
DINOv2, whose patches have 14 pixels, sides are rounded down to their multiples.

mAP / rank-1 in the paper (docs/reproduce.md): DeiT-T 74.1 / 94.7, DeiT-S 78.1 / 95.9, DeiT-B 80.0 / 96.5, ViT-B 80.2 / 96.9.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a run; the module's docstring lists what `arg` may hold."""
    return common.re_identification(arg, source="veri776", cameras=20, image_shape=(256, 256))
