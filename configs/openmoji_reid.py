r"""Re-identification on OpenMoji drawings, offline, minutes on two CPU cores.

    python -m fusionjax.main --config=configs/openmoji_reid.py --workdir=runs/openmoji_reid

Which drawings show the same emoji? An identity is a base emoji; a camera is a rendering (in colour, as black lines) and skin
tone. Test identities were never seen in training, every image of theirs is a query, and drawings of the query's own rendering
and tone are left out of its list. EfficientNet-Lite0 (ImageNet, from its PyPI package) is the trunk: its lower half is frozen
and its output is computed once, its upper half and DCAL on top of it learn. Arguments:
ablation=full|sa_only|sa_glca|sa_pwca, seed=<n>, runlocal.
"""

from configs import common
from fusionjax import config as base


def get_config(arg=None):
    """The run; see the module's text."""
    arg = base.parse_arg(arg, ablation=("full", "sa_only", "sa_glca", "sa_pwca"), seed=0, runlocal=False)
    c = base.default()
    c.task, c.seed = "reid", arg.seed
    c.data.source, c.data.fractions = "openmoji", (0.8, 0.0, 0.2)
    c.data.renderings, c.data.label, c.data.per_identity = ("color", "line"), "identity", 4
    c.data.train_split, c.data.eval_splits = "train", ("test_all",)
    c.data.resize, c.data.image_size = 128, 128
    c.data.mean = c.data.std = (0.5, 0.5, 0.5)  # what these weights were trained with
    c.data.augment.crop = "random_resized"
    c.data.augment.scale, c.data.augment.ratio = (0.8, 1.0), (0.9, 1.1)
    c.data.cache.enabled, c.data.cache.passes = True, 2
    c.model.name, c.model.ablation = "dcal_vit_shallow", arg.ablation
    c.model.trunk, c.model.trunk_features = "efficientnet_lite0", "stride32"
    c.model.train_trunk_from = "stride16"
    c.model.freeze_trunk = c.model.trunk_norm = True
    c.model.width, c.model.depth, c.model.heads, c.model.mlp_ratio = 256, 1, 8, 2.0
    c.model.drop_path, c.model.dropout, c.model.ratio = 0.1, 0.1, 0.3
    c.pretrained.source, c.pretrained.into = "package:efficientnet_lite0", "trunk"
    c.optim.no_decay = common.NO_DECAY
    c.optim.lr_rules = (("^neck/", 0.1),)
    c.optim.learning_rate, c.optim.weight_decay, c.optim.warmup_epochs = 2e-3, 0.05, 1.0
    c.optim.clip_norm, c.optim.ema_decay = 1.0, 0.99
    c.loss.label_smoothing = 0.1
    c.train.batch_size, c.train.epochs = 64, 8.0
    c.train.eval_every_epochs, c.train.log_every = 4.0, 20
    c.evaluation.probe = True
    if arg.runlocal:
        c.data.cache.passes, c.train.steps, c.train.log_every = 1, 4, 1
        c.data.resize, c.data.image_size = 64, 64
    return c
