r"""Re-identification on OpenMoji drawings: offline, minutes on two CPU cores.

    python -m fusionjax.main --config=configs/openmoji_reid.py --workdir=runs/openmoji_reid

Retrieves drawings of the same emoji. An identity is a base emoji; a camera is a rendering (colour or black lines) and a skin
tone. Test identities do not occur in training, each of their images is a query, and drawings with the rendering and tone of
the query are removed from its ranking. The trunk is EfficientNet-Lite0 (ImageNet, from its PyPI package): the lower half is
frozen and its output is cached; the upper half and DCAL are trained. Arguments: ablation=full|sa_only|sa_glca|sa_pwca,
seed=<n>, runlocal.
"""

from ml_collections import ConfigDict

from configs import common_lite0 as lite0
from fusionjax import config as base


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a run; the module's docstring lists what `arg` may hold."""
    options = base.parse_arg(arg, ablation=("full", "sa_only", "sa_glca", "sa_pwca"), seed=0, runlocal=False)
    c = lite0.dcal(base.default(), ablation=options.ablation)
    c.seed, c.data.source, c.data.fractions = options.seed, "openmoji", (0.8, 0.0, 0.2)
    c.task = "reid"
    c.data.renderings, c.data.label, c.data.per_identity = ("color", "line"), "identity", 4
    c.data.train_split, c.data.eval_splits = "train", ("test_all",)
    c.data.resize, c.data.image_size, c.data.cache.passes = 128, 128, 2
    c.model.width, c.model.dropout = 256, 0.1
    c.train.epochs, c.train.eval_every_epochs = 8.0, 4.0
    return lite0.run_local(c) if options.runlocal else c
