r"""Pictures and sounds of Tux Paint's stamps, offline, minutes on two CPU cores.

    apt-get install tuxpaint-stamps-default
    python -m fusionjax.main --config=configs/stamps_audiovisual.py --workdir=runs/stamps_audiovisual

Which of 17 folders does a stamp belong to that was never seen in training, by its picture and its spoken description? Regions
and moments read each other. EfficientNet-Lite0 (ImageNet, from its package) is frozen and runs once; a small encoder of
log-mel frames learns from scratch. Arguments: modalities=all|image|audio, sound=description|effect|any,
pairings=default|all|none, dropout=<probability that training hides a modality>, root=<folder of stamps>, cache=<folder that
runs share>, seed=<n>, runlocal.
"""

from ml_collections import ConfigDict

from configs import common_modalities as shared
from fusionjax import config as base


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a run; the module's docstring lists what `arg` may hold."""
    options = base.parse_arg(
        arg, **shared.audiovisual_arg(), sound=("description", "effect", "any"), cache=""
    )
    c = shared.stamps(shared.trimodal(base.default(), options, task="audiovisual"), options)
    c.data.sound = options.sound
    return shared.run_local_stamps(c) if options.runlocal else c


def table() -> dict[str, str]:
    """Rows of `python -m fusionjax.table`: both together, and what each knows alone."""
    return {
        "image and sound": "modalities=all",
        "image alone": "modalities=image",
        "sound alone": "modalities=audio",
    }
