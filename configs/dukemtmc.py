r"""DCAL on DukeMTMC-reID: 16,522 training images of 702 persons, 2,228 queries, 17,661 gallery images, 8 cameras.

    python -m fusionjax.prepare dukemtmc --root=/data/DukeMTMC-reID                                       checks the files
    python -m fusionjax.main --config=configs/dukemtmc.py:root=/data/DukeMTMC-reID --workdir=runs/dukemtmc

Needs a copy of the data set: its authors have retracted it, and it is never downloaded. Arguments: root=<folder>,
ablation=full|sa_only|sa_glca|sa_pwca, backbone=vit_base|deit_tiny|deit_small|deit_base|dinov2_small|dinov2_base|dinov2_large,
weights=published|none|<file, package: or hub:>, sie (camera embedding), stride=<pixels; patches overlap if less than 16>,
rerank, flip (mirror averaging), runlocal. Weights as in configs/market1501.py.

mAP / rank-1 in the paper (docs/reproduce.md): DeiT-T 71.7 / 84.9, DeiT-S 77.4 / 87.9, DeiT-B 80.2 / 89.6, ViT-B 80.1 / 89.0.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a run; the module's docstring lists what `arg` may hold."""
    return common.re_identification(arg, source="dukemtmc", cameras=8)
