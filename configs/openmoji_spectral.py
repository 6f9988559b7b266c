r"""Contrastive learning across two layers of OpenMoji drawings: offline, minutes on two CPU cores.

    python -m fusionjax.main --config=configs/openmoji_spectral.py --workdir=runs/openmoji_spectral
    python -m fusionjax.main --config=configs/openmoji_spectral.py:fusion=attention --workdir=runs/openmoji_attention

Matches line drawings with colour drawings. The colour layer and the line layer of an emoji stand in for two spectral
modalities; test identities do not occur in training. Each encoder starts from EfficientNet-Lite0 (ImageNet, from its PyPI
package), with the lower half frozen and the upper half trained. Arguments: fusion=separate|concat|attention,
modalities=both|color|line (color and line train on one modality: the baselines), seed=<n>, runlocal.
"""

from ml_collections import ConfigDict

from configs import common_lite0 as lite0
from fusionjax import config as base


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
    c.seed = options.seed
    c.data.source, c.data.fractions = "openmoji_pair", (0.8, 0.0, 0.2)
    c.data.modalities = (("color", (0, 1, 2)), ("line", (3, 4, 5)))
    c.data.train_split, c.data.eval_splits = "train_base", ("train_base", "test")
    c.data.resize, c.data.image_size = 96, 96
    lite0.spectral(c)
    s = c.spectral
    s.fusion, s.reference_split = options.fusion, "train_base"
    s.train_on = () if options.modalities == "both" else (options.modalities,)
    s.colour, s.intensity = ("color",), ("line",)
    c.train.epochs = 6.0
    if options.runlocal:
        c.train.steps, c.train.batch_size, c.train.log_every = 2, 8, 1
        c.data.resize, c.data.image_size = 32, 32
    return c


def table() -> dict[str, str]:
    """Rows of `python -m fusionjax.table`: the fusion strategies."""
    return {name: f"fusion={name}" for name in ("separate", "concat", "attention")}
