r"""Pictures and sounds of Tux Paint's stamps, offline, minutes on two CPU cores.

    apt-get install tuxpaint-stamps-default
    python -m fusionjax.main --config=configs/stamps_audiovisual.py --workdir=runs/stamps_audiovisual

Which of 17 folders does a stamp belong to that was never seen in training, by its picture and its spoken description? Regions
and moments read each other. EfficientNet-Lite0 (ImageNet, from its package) is frozen and runs once; a small encoder of
log-mel frames learns from scratch. Arguments: modalities=all|image|audio, sound=description|effect|any,
pairings=default|all|none, dropout=<probability that training hides a modality>, root=<folder of stamps>, cache=<folder that
runs share>, seed=<n>, runlocal.
"""

from configs import common_modalities as shared
from fusionjax import config as base


def get_config(arg=None):
    """The run; see the module's text."""
    arg = base.parse_arg(arg, **shared.audiovisual_arg(), sound=("description", "effect", "any"), cache="")
    c = shared.stamps(shared.trimodal(base.default(), arg, task="audiovisual"), arg)
    c.data.sound = arg.sound
    return shared.run_local_stamps(c) if arg.runlocal else c


def table():
    """Rows of `python -m fusionjax.table`: both together, and what each knows alone."""
    return {
        "image and sound": "modalities=all",
        "image alone": "modalities=image",
        "sound alone": "modalities=audio",
    }
