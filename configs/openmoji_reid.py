r"""Re-identification on OpenMoji drawings, offline, minutes on two CPU cores.

    python -m fusionjax.main --config=configs/openmoji_reid.py --workdir=runs/openmoji_reid

Which drawings show the same emoji? An identity is a base emoji; a camera is a rendering (in colour, as black lines) and skin
tone. Test identities were never seen in training, every image of theirs is a query, and drawings of the query's own rendering
and tone are left out of its list. EfficientNet-Lite0 (ImageNet, from its PyPI package) is the trunk: its lower half is frozen
and its output is computed once, its upper half and DCAL on top of it learn. Arguments:
ablation=full|sa_only|sa_glca|sa_pwca, seed=<n>, runlocal.
"""

from ml_collections import ConfigDict

from configs import common
from fusionjax import config as base


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a run; the module's docstring lists what `arg` may hold."""
    options = base.parse_arg(arg, ablation=("full", "sa_only", "sa_glca", "sa_pwca"), seed=0, runlocal=False)
    c = common.openmoji_dcal(base.default(), options)
    c.task = "reid"
    c.data.renderings, c.data.label, c.data.per_identity = ("color", "line"), "identity", 4
    c.data.train_split, c.data.eval_splits = "train", ("test_all",)
    c.data.resize, c.data.image_size, c.data.cache.passes = 128, 128, 2
    c.model.width, c.model.dropout = 256, 0.1
    c.train.epochs, c.train.eval_every_epochs = 8.0, 4.0
    return common.run_local_openmoji(c) if options.runlocal else c
