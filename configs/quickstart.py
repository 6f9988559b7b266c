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
    c.data.source, c.data.fractions = "openmoji", (0.8, 0.0, 0.2)
    # One drawing an identity: with all skin tones three of five training images would be people.
    # No validation split: nothing is chosen by a score, the last averaged weights are the result.
    c.data.train_split, c.data.eval_splits = "train_base", ("test",)
    c.data.resize, c.data.image_size = 192, 192
    c.data.augment.crop = "random_resized"
    c.data.augment.scale, c.data.augment.ratio = (0.8, 1.0), (0.9, 1.1)  # stronger crops lower accuracy here
    c.data.cache.enabled, c.data.cache.passes = True, 3
    c.model.name, c.model.ablation = "dcal_vit_shallow", arg.ablation
    c.model.trunk, c.model.trunk_features = "efficientnet_lite0", "stride32"
    c.model.train_trunk_from = "stride16"
    c.model.freeze_trunk = c.model.trunk_norm = True
    c.model.width, c.model.depth, c.model.heads, c.model.mlp_ratio = 128, 1, 8, 2.0
    c.model.drop_path, c.model.dropout, c.model.ratio = 0.1, 0.2, 0.3
    c.pretrained.source, c.pretrained.into = "package:efficientnet_lite0", "trunk"
    c.optim.no_decay = common.NO_DECAY
    c.optim.lr_rules = (("^neck/", 0.1),)
    c.optim.learning_rate, c.optim.weight_decay, c.optim.warmup_epochs = 2e-3, 0.05, 1.0
    c.optim.clip_norm, c.optim.ema_decay = 1.0, 0.99
    c.loss.label_smoothing = 0.1
    c.train.batch_size, c.train.epochs = 64, 9.0
    c.train.eval_every_epochs, c.train.log_every = 3.0, 20
    c.evaluation.probe = True
    if arg.runlocal:
        c.data.cache.passes, c.train.steps, c.train.log_every = 1, 4, 1
        c.data.resize, c.data.image_size = 64, 64
    return c
