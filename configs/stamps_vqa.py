r"""Questions about Tux Paint's stamps, offline, minutes on two CPU cores.

    apt-get install tuxpaint-stamps-default
    python -m fusionjax.main --config=configs/stamps_vqa.py --workdir=runs/stamps_vqa

"What is this?", "is this an animal?", "which animal is it?", about pictures that were never seen in training. Questions and
answers are made from captions and folders, seeded; the answer is one of those that training has often enough.
EfficientNet-Lite0 (ImageNet) and MiniLM, from their packages, are frozen and run once; cross-attention learns on their
features. Arguments: baseline=none|image|text|concat (text: the question alone), head=, root=<folder of stamps>, cache=<folder
that runs share>, seed=<n>, runlocal.
"""

from ml_collections import ConfigDict

from configs import common
from configs import common_modalities as shared
from fusionjax import config as base


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a run; the module's docstring lists what `arg` may hold."""
    fusion = common.fusion_arg(encoder="package:all-minilm-l6-v2")
    fusion.pop("text")
    options = base.parse_arg(arg, **fusion, root="", cache="")
    c = shared.vqa(base.default(), options)
    c = shared.stamps(c, options)
    c.data.questions = "captions"
    c.train.batch_size, c.train.epochs, c.train.eval_every_epochs = 64, 10.0, 5.0
    return shared.run_local_stamps(c) if options.runlocal else c


def table() -> dict[str, str]:
    """Rows of `python -m fusionjax.table`: the picture and the question, and what each gives away alone."""
    return {
        "image and question": "baseline=none",
        "question alone": "baseline=text",
        "image alone": "baseline=image",
    }
