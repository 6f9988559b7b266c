r"""The quick start, DCAL on OpenMoji drawings: offline, minutes on two CPU cores.

    python -m fusionjax.main --config=configs/quickstart.py --workdir=runs/quickstart

Classifies emojis that do not occur in training into nine categories: identities are disjoint between the splits. The lower
half of an EfficientNet-Lite0 (ImageNet, from its PyPI package) is frozen, and its feature maps are cached; the upper half and
DCAL are trained. Arguments: ablation=full|sa_only|sa_glca|sa_pwca, seed=<n>, runlocal.
"""

from ml_collections import ConfigDict

from configs import common_lite0 as lite0
from fusionjax import config as base


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a run; the module's docstring lists what `arg` may hold."""
    options = base.parse_arg(arg, ablation=("full", "sa_only", "sa_glca", "sa_pwca"), seed=0, runlocal=False)
    c = lite0.dcal(base.default(), ablation=options.ablation)
    c.seed, c.data.source, c.data.fractions = options.seed, "openmoji", (0.8, 0.0, 0.2)
    # One drawing per identity: with all skin tones, three of five training images would show people.
    c.data.train_split, c.data.eval_splits = "train_base", ("test",)
    c.data.resize, c.data.image_size, c.data.cache.passes = 192, 192, 3
    c.model.width, c.model.dropout = 128, 0.2
    c.train.epochs, c.train.eval_every_epochs = 6.0, 2.0
    return lite0.run_local(c) if options.runlocal else c
