r"""Images and sounds of Tux Paint's stamps: offline, minutes on two CPU cores.

    apt-get install tuxpaint-stamps-default
    python -m fusionjax.main --config=configs/stamps_audiovisual.py --workdir=runs/stamps_audiovisual

Classifies stamps that do not occur in training into 17 folders, by image and spoken description. Image regions and audio
tokens attend to each other. EfficientNet-Lite0 (ImageNet, from its PyPI package) is frozen, and its features are cached; a
small encoder of log-mel frames is trained from scratch. Arguments: modalities=all|image|audio, sound=description|effect|any,
pairings=default|all|none, dropout=<probability of dropping a modality in training>, root=<folder of stamps>, cache=<folder
shared by runs>, seed=<n>, runlocal.
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
    """Rows of `python -m fusionjax.table`: both modalities, and each alone."""
    return {
        "image and sound": "modalities=all",
        "image alone": "modalities=image",
        "sound alone": "modalities=audio",
    }
