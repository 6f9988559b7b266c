r"""The quick start: DCAL on OpenMoji drawings, offline, minutes on two CPU cores.

    python -m fusionjax.main --config=configs/quickstart.py --workdir=runs/quickstart

Which of nine categories does an emoji belong to that was never seen in training? Identities are disjoint between the splits.
An ImageNet EfficientNet-Lite0 (from its PyPI package) is the frozen trunk; its feature maps are computed once, and DCAL
learns on top. Arguments: ablation=full|sa_only|sa_glca|sa_pwca, seed=<n>, runlocal.
"""

from configs import common
from fusionjax import config as base


def get_config(arg=None):
    """The run; see the module's text."""
    arg = base.parse_arg(arg, ablation=("full", "sa_only", "sa_glca", "sa_pwca"), seed=0, runlocal=False)
    c = base.default()
    c.seed = arg.seed
    c.data.source, c.data.fractions = "openmoji", (0.7, 0.1, 0.2)
    c.data.eval_splits = ("val", "test")
    c.data.resize, c.data.image_size = 224, 224
    c.data.augment.crop, c.data.augment.scale = "random_resized", (0.5, 1.0)
    c.data.augment.rotate, c.data.augment.jitter = 10.0, 0.2
    c.data.cache.enabled, c.data.cache.passes = True, 4
    c.model.name, c.model.trunk, c.model.ablation = "dcal_vit_shallow", "efficientnet_lite0", arg.ablation
    c.model.freeze_trunk = True
    c.model.drop_path, c.model.dropout, c.model.ratio = 0.1, 0.2, 0.3
    c.pretrained.source, c.pretrained.into = "package:efficientnet_lite0", "trunk"
    c.optim.freeze, c.optim.no_decay = ("^trunk/",), common.NO_DECAY
    c.optim.learning_rate, c.optim.weight_decay, c.optim.warmup_epochs = 5e-4, 0.05, 1.0
    c.optim.clip_norm, c.optim.ema_decay = 1.0, 0.99
    c.loss.label_smoothing = 0.1
    c.train.batch_size, c.train.epochs = 64, 12.0
    c.train.eval_every_epochs, c.train.log_every = 1.0, 20
    c.evaluation.probe = True
    if arg.runlocal:
        c.data.cache.passes, c.train.steps, c.train.log_every = 1, 4, 1
        c.data.resize, c.data.image_size = 64, 64
    return c
