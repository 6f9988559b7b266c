r"""DCAL on FGVC-Aircraft: 100 variants, 6,667 training (trainval) and 3,333 test images.

    python -m fusionjax.main --config=configs/aircraft.py:root=/data/fgvc-aircraft-2013b --workdir=runs/aircraft

Needs the official folder of the data set as `root`, since it is not in TFDS. Arguments and weights: as for configs/cub.py.

Top-1 in the paper, baseline → full (docs/reproduce.md): DeiT-T 84.7 → 87.4, DeiT-S 88.1 → 90.0, DeiT-B 90.3 → 92.6, ViT-B
90.0 → 91.5, R50-ViT-B 92.4 → 93.3.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a run; the module's docstring lists what `arg` may hold."""
    return common.fine_grained(arg, source="aircraft", train_split="trainval")
