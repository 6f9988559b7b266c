r"""DCAL on MSMT17: 30,248 training images (32,621 with val) of 1,041 persons, 11,659 queries, 82,161 gallery images.

    python -m fusionjax.prepare msmt17 --root=/data/MSMT17_V1                                       checks the files
    python -m fusionjax.main --config=configs/msmt17.py:root=/data/MSMT17_V1 --workdir=runs/msmt17

Needs the data set in the folder layout of its authors. V1 and V2 are distinguished by their folders; scores on V2 are lower.
Arguments: root=<folder>, ablation=full|sa_only|sa_glca|sa_pwca,
backbone=vit_base|deit_tiny|deit_small|deit_base|dinov2_small|dinov2_base|dinov2_large, weights=published|none|<file, package:
or hub:>, sie (camera embedding), stride=<pixels; patches overlap if less than 16>, rerank, flip (mirror averaging),
train=train|trainval, runlocal. Weights as in configs/market1501.py.

mAP / rank-1 in the paper (docs/reproduce.md): DeiT-T 44.9 / 68.2, DeiT-S 55.1 / 77.3, DeiT-B 62.3 / 83.1, ViT-B 64.0 / 83.1.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a run; the module's docstring lists what `arg` may hold."""
    return common.re_identification(arg, source="msmt17", cameras=15, train_splits=("train", "trainval"))
