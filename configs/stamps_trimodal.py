r"""Image, text and sound of Tux Paint's stamps together, offline, minutes on two CPU cores.

    apt-get install tuxpaint-stamps-default
    python -m fusionjax.main --config=configs/stamps_trimodal.py --workdir=runs/stamps_trimodal

Which of 17 folders does a stamp belong to that was never seen in training, by its picture, its English caption and its spoken
French description? EfficientNet-Lite0 (ImageNet) and MiniLM, from their packages, are frozen and run once; a small encoder of
log-mel frames learns from scratch. The report has the accuracy with every subset of the modalities at test. Arguments:
modalities=all|image|audio|text|image_audio|image_text|audio_text (what the model reads at all), pairings=default|all|none,
dropout=<probability that training hides a modality>, root=<folder of stamps>, cache=<folder that runs share>, seed=<n>,
runlocal.
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
    """Rows of `python -m fusionjax.table`: all three together, and what each knows alone."""
    return {
        "image, sound and text": "modalities=all",
        "image alone": "modalities=image",
        "text alone": "modalities=text",
        "sound alone": "modalities=audio",
    }
