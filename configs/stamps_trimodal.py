r"""Images, texts and sounds of Tux Paint's stamps: offline, minutes on two CPU cores.

    apt-get install tuxpaint-stamps-default
    python -m fusionjax.main --config=configs/stamps_trimodal.py --workdir=runs/stamps_trimodal

Classifies stamps that do not occur in training into 17 folders, by image, English caption and spoken French description.
EfficientNet-Lite0 (ImageNet) and MiniLM, from PyPI packages, are frozen, and their features are cached; a small encoder of
log-mel frames is trained from scratch. The report has the test accuracy for every subset of the modalities. Arguments:
modalities=all|image|audio|text|image_audio|image_text|audio_text (inputs of the model), pairings=default|all|none,
dropout=<probability of dropping a modality in training>, root=<folder of stamps>, cache=<folder shared by runs>,
seed=<n>, runlocal.
"""

from ml_collections import ConfigDict

from configs import common_modalities as shared
from fusionjax import config as base


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a run; the module's docstring lists what `arg` may hold."""
    options = base.parse_arg(arg, **shared.trimodal_arg(), cache="")
    c = shared.stamps(shared.trimodal(base.default(), options), options)
    return shared.run_local_stamps(c) if options.runlocal else c


def table() -> dict[str, str]:
    """Rows of `python -m fusionjax.table`: all three modalities, and each alone."""
    return {
        "image, sound and text": "modalities=all",
        "image alone": "modalities=image",
        "text alone": "modalities=text",
        "sound alone": "modalities=audio",
    }
