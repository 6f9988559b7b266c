r"""CrossViT with the recipe of its paper, on ImageNet (TFDS), a folder of class folders, or OpenMoji.

    python -m fusionjax.main --config=configs/crossvit.py --workdir=runs/crossvit                          ImageNet (TFDS)
    python -m fusionjax.main --config=configs/crossvit.py:root=/data/flowers --workdir=runs/flowers        <class>/<image>
    python -m fusionjax.main --config=configs/crossvit.py:small --workdir=runs/crossvit_small              OpenMoji, minutes

Arguments: model=<any name of `python -m fusionjax.models crossvit`>, root=<folder>, weights=default|published|none|<file or
hub:owner/name>, batch=<global batch size>, small (a short offline run on OpenMoji), runlocal. On ImageNet the model is
trained from scratch, as in the paper, since the published weights were trained on it; on a folder of your own it starts from
them. TFDS needs the two archives of imagenet2012, which image-net.org provides to registered users; --config.data.root sets
its data_dir.

Chen, Fan & Panda, ICCV 2021, section 4.1: 300 epochs, 30 of them warm-up, batches of 4,096, AdamW, learning rate 0.004,
weight decay 0.05, cosine; RandAugment, mixup 0.8, CutMix 1.0, random erasing, drop path 0.1, and the settings of DeiT where
the paper states none (label smoothing 0.1, erasing 0.25 with noise). The learning rate is 5e-4 / 512 × `batch`. The repeated
augmentation of the paper (three views of each image in a batch) is not implemented.
"""

from ml_collections import ConfigDict

from configs import common
from fusionjax import config as base
from fusionjax.errors import UserError
from fusionjax.models.backbones import crossvit


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a run; the module's docstring lists what `arg` may hold."""
    names = ("crossvit_small_240", *(name for name in crossvit.NAMES if name != "crossvit_small_240"))
    spec: dict[str, base.ArgDefault] = dict(
        model=names, root="", weights="default", batch=4096, small=False, runlocal=False
    )
    options = base.parse_arg(arg, **spec)
    if options.small and dict(options, small=False, runlocal=False) != dict(base.parse_arg("", **spec)):
        raise UserError("config argument small is a run of its own: leave out model, root, weights and batch")
    c = base.default()
    c.model.name, c.model.ablation, c.model.drop_path = options.model, "sa_only", 0.1
    c.data.source = "folder" if options.root else "tfds"
    c.data.root, c.data.builder = options.root, "" if options.root else "imagenet2012"
    c.data.eval_splits = ("test",) if options.root else ("val",)
    large = options.model.endswith("_408")
    c.data.image_size, c.data.resize = (408, 408) if large else (240, 274)
    if options.weights == "default":
        options.weights = common.PUBLISHED if options.root else common.NONE
    common.start_from(c, options, options.model)
    c.data.augment.crop, c.data.augment.rand_operations = "random_resized", 2
    c.data.augment.erase, c.data.augment.erase_fill = 0.25, "noise"
    c.loss.label_smoothing, c.loss.mixup, c.loss.cutmix = 0.1, 0.8, 1.0
    c.optim.name, c.optim.weight_decay = "adamw", 0.05
    c.train.batch_size, c.train.epochs, c.optim.warmup_epochs = options.batch, 300.0, 30.0
    c.optim.learning_rate, c.optim.final_lr = 5e-4 / 512 * options.batch, 1e-5
    c.train.checkpoint_every, c.train.eval_every_epochs, c.train.log_every = 1000, 10.0, 100
    c.evaluation.batch_size = min(options.batch, 512)
    c.precision = "bfloat16"
    if options.small:
        _small(c)
    if options.runlocal:
        common.run_local(c, name="crossvit_9_240", image_size=48)
        c.model.crossvit.img_size = (48, 48)
    return c


def _small(c: ConfigDict) -> None:
    """Adapts the recipe to 3,000 drawings and two CPU cores: 0.9 M parameters, weaker augmentation, 20 epochs."""
    c.model.name = "crossvit_9_240"
    m = c.model.crossvit
    m.img_size, m.patch_size, m.embed_dim, m.num_heads = (96, 96), (8, 12), (64, 128), (4, 4)
    m.depth, m.mlp_ratio = ((1, 2, 0), (1, 2, 0)), (2.0, 2.0, 1.0)
    c.data.source, c.data.builder, c.data.fractions = "openmoji", "", (0.8, 0.0, 0.2)
    c.data.eval_splits, c.data.image_size, c.data.resize = ("test",), 96, 96
    c.data.augment.scale, c.data.augment.rand_magnitude = (0.5, 1.0), 5.0
    c.train.batch_size, c.train.epochs, c.optim.warmup_epochs = 64, 20.0, 4.0
    c.optim.learning_rate, c.optim.clip_norm = 1e-3, 1.0
    c.evaluation.batch_size, c.precision = 64, "float32"
    c.train.eval_every_epochs, c.train.log_every = 10.0, 50
