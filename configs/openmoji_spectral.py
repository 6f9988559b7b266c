r"""Contrastive learning across two layers of OpenMoji drawings: offline, minutes on two CPU cores.

    python -m fusionjax.main --config=configs/openmoji_spectral.py --workdir=runs/openmoji_spectral
    python -m fusionjax.main --config=configs/openmoji_spectral.py:fusion=attention --workdir=runs/openmoji_attention

Matches line drawings with colour drawings. The colour layer and the line layer of an emoji stand in for two spectral
modalities; test identities do not occur in training. Each encoder starts from EfficientNet-Lite0 (ImageNet, from its PyPI
package), with the lower half frozen and the upper half trained. Arguments: fusion=separate|concat|attention,
modalities=both|color|line (color and line train on one modality: the baselines), seed=<n>, runlocal.
"""

from ml_collections import ConfigDict

from configs import common
from fusionjax import config as base
from fusionjax.models import registry


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a run; the module's docstring lists what `arg` may hold."""
    options = base.parse_arg(
        arg,
        fusion=("separate", "concat", "attention"),
        modalities=("both", "color", "line"),
        seed=0,
        runlocal=False,
    )
    c = base.default()
    c.task, c.seed = "spectral", options.seed
    c.data.source, c.data.fractions = "openmoji_pair", (0.8, 0.0, 0.2)
    c.data.modalities = (("color", (0, 1, 2)), ("line", (3, 4, 5)))
    c.data.train_split, c.data.eval_splits = "train_base", ("train_base", "test")
    c.data.resize, c.data.image_size = 96, 96
    c.data.augment.crop, c.data.augment.flip = "none", 0.0
    c.model.name, c.model.train_trunk_from = "tf_efficientnet_lite0", "stride16"
    common.preprocess(c, c.model.name)
    c.pretrained.source = registry.weights(c.model.name)
    s = c.spectral
    s.fusion, s.fixed_statistics, s.reference_split = options.fusion, True, "train_base"
    s.train_on = () if options.modalities == "both" else (options.modalities,)
    s.colour, s.intensity = ("color",), ("line",)
    s.crop_area = (0.4, 1.0)
    c.optim.name, c.optim.learning_rate, c.optim.lr_rules = "adamw", 1e-3, (("^tower_", 0.3),)
    c.optim.weight_decay, c.optim.clip_norm = 0.05, 1.0
    c.optim.warmup_epochs, c.optim.ema_decay = 1.0, 0.95
    c.train.batch_size, c.train.epochs, c.train.log_every = 128, 6.0, 10
    c.train.eval_every_epochs = 0.0
    c.evaluation.batch_size, c.evaluation.probe = 128, True
    if options.runlocal:
        c.train.steps, c.train.batch_size, c.train.log_every = 2, 8, 1
        c.data.resize, c.data.image_size = 32, 32
    return c


def table() -> dict[str, str]:
    """Rows of `python -m fusionjax.table`: the fusion strategies."""
    return {name: f"fusion={name}" for name in ("separate", "concat", "attention")}
