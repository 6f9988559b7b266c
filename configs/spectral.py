r"""Contrastive pretraining on images of six channels, RGB and UV: SimCLR within and across the modalities.

    python -m fusionjax.main --config=configs/spectral.py:root=/data/flowers_uv --workdir=runs/spectral

Needs `root` with .npy or multi-band TIFF files (H, W, 6) of one size, optionally in folders <class>/, whose names are then
the labels of kNN and the linear probe; or a manifest. For other modalities and numbers of channels, set
--config.data.modalities="(('vis', (0, 1, 2)), ('nir', (3,)))" with --config.spectral.colour and --config.spectral.intensity.
Range, mean and standard deviation of the channels are computed once. Arguments: fusion=separate|concat|attention,
modalities=both|rgb|uv (rgb and uv train on one modality: the baselines), backbone=<any efficientnet, resnet, vit or deit>,
weights=published|none|<file, package: or hub:>, optimizer=lars|adamw, batch=<global batch size>, labels (class folders are
labels), root=<folder>, runlocal.

Chen et al., ICML 2020: ResNet-50, projection 2048 → 512 → 128 here, temperature 0.1, LARS, learning rate 0.3 · batch / 256,
weight decay 1e-6, 10 epochs of warm-up, cosine. They start from scratch (weights=none), with batches of 4,096; by default the
encoders start here from the published ImageNet weights of `backbone`, adapted to their channels.
"""

from ml_collections import ConfigDict

from configs import common
from fusionjax import config as base


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a run; the module's docstring lists what `arg` may hold."""
    options = base.parse_arg(
        arg,
        fusion=("separate", "concat", "attention"),
        modalities=("both", "rgb", "uv"),
        backbone="resnet50",
        weights=common.PUBLISHED,
        optimizer=("lars", "adamw"),
        batch=256,
        labels=False,
        root="",
        runlocal=False,
    )
    c = base.default()
    c.task = "spectral"
    c.data.source, c.data.root = "multispectral", options.root
    c.data.modalities = (("rgb", (0, 1, 2)), ("uv", (3, 4, 5)))
    c.data.augment.crop, c.data.augment.flip = "none", 0.0
    c.data.resize, c.data.resize_mode, c.data.image_size = 224, "squash", 224
    c.model.name = options.backbone
    common.start_from(c, options, options.backbone)
    c.data.mean = (
        c.data.std
    ) = ()  # computed from the training split, since these channels have no published values
    s = c.spectral
    s.fusion = options.fusion
    s.train_on = () if options.modalities == "both" else (options.modalities,)
    if options.labels or options.modalities != "both":  # one modality has no retrieval: score its classes
        c.data.eval_splits, s.reference_split = ("train", "test"), "train"
    c.optim.name, c.optim.learning_rate, c.optim.weight_decay = "lars", 0.3 * options.batch / 256, 1e-6
    if options.optimizer == "adamw":
        c.optim.name, c.optim.learning_rate, c.optim.weight_decay = "adamw", 1e-3 * options.batch / 256, 0.05
    c.train.batch_size, c.train.epochs, c.optim.warmup_epochs = options.batch, 100.0, 10.0
    c.train.eval_every_epochs, c.train.checkpoint_every, c.train.log_every = 10.0, 500, 20
    c.evaluation.batch_size = 128
    c.precision = "bfloat16"
    if options.runlocal:
        c.model.name, c.pretrained.source = "vit_shallow", ""
        c.data.resize, c.data.image_size = 32, 32
        c.train.batch_size, c.train.steps, c.evaluation.batch_size, c.optim.warmup_epochs = 4, 2, 4, 0.0
        c.train.log_every, c.train.checkpoint_every, c.train.eval_every_epochs = 1, 1, 0.0
        c.precision = "float32"
    return c
