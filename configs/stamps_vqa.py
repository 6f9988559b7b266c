r"""Visual question answering on Tux Paint's stamps: offline, minutes on two CPU cores.

    apt-get install tuxpaint-stamps-default
    python -m fusionjax.main --config=configs/stamps_vqa.py --workdir=runs/stamps_vqa

Answers "What is this?", "is this an animal?" and "which animal is it?" for images that do not occur in training. Questions
and answers are generated from captions and folders with a fixed seed; the vocabulary has the answers that are frequent enough
in training. EfficientNet-Lite0 (ImageNet) and MiniLM, from PyPI packages, are frozen, and their features are cached;
cross-attention is trained on the features. Arguments: baseline=none|image|text|concat (text: only the question), head=,
root=<folder of stamps>, cache=<folder shared by runs>, seed=<n>, runlocal.
"""

from ml_collections import ConfigDict

from configs import common
from configs import common_modalities as shared
from fusionjax import config as base


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a run; the module's docstring lists what `arg` may hold."""
    fusion = common.fusion_arg(encoder=common.MINILM)
    fusion.pop("text")
    options = base.parse_arg(arg, **fusion, root="", cache="")
    c = shared.vqa(base.default(), options)
    c = shared.stamps(c, options)
    c.data.questions = "captions"
    c.train.batch_size, c.train.epochs, c.train.eval_every_epochs = 64, 10.0, 5.0
    return shared.run_local_stamps(c) if options.runlocal else c


def table() -> dict[str, str]:
    """Rows of `python -m fusionjax.table`: image and question, and each alone."""
    return {
        "image and question": "baseline=none",
        "question alone": "baseline=text",
        "image alone": "baseline=image",
    }
