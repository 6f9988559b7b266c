r"""Plant disease classification from photographs of leaves and descriptions of all diseases: PlantVillage or your own images.

    python -m fusionjax.main --config=configs/plant_village.py --workdir=runs/plant_village
    python -m fusionjax.main --config=configs/plant_village.py:data=folder,root=Wild,descriptions=wild.json --workdir=runs/wild
    python -m fusionjax.main --config=configs/plant_village.py:data=manifest,root=my.csv,text=instance --workdir=runs/my

Needs PlantVillage in TFDS, a folder of class folders, or a manifest. PlantVillage has no captions: the text is a bank, the
descriptions of all 38 classes, the same for every image. A manifest with a column caption supports text=instance. The recipe:
d 768, 4 layers, 12 heads, dropout 0.1, AdamW 1e-4, decay 1e-2, cosine to 1e-6, clip 1.0, label smoothing 0.1, splits
70/15/15. ResNet-50 and BERT, with published weights from the Hugging Face hub, are frozen.

Arguments: data=tfds|folder|manifest, root=, image=<trunk>, weights=published|none|<file, package: or hub:, of the trunk>,
encoder=<text encoder>, descriptions=, text=bank|instance|class, head=, loss=ce|focal, balanced, train_encoders, seed=,
cache=<folder shared by runs>, runlocal, baseline=none|image|text|concat|mvpdr|mvpdr_free; with the last two also clip=<folder
or hub:owner/name> and prompts=descriptions|captions.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common
from fusionjax import config as base


def get_config(arg: str | None = None) -> ConfigDict:
    """The config of a run; the module's docstring lists what `arg` may hold."""
    options = base.parse_arg(
        arg,
        **common.fusion_arg(text="bank", encoder=common.BERT),
        data=("tfds", "folder", "manifest"),
        root="",
        image="resnet50",
        weights=common.PUBLISHED,
        descriptions="plant_village",
        loss=("ce", "focal"),
        balanced=False,
        train_encoders=False,
        cache="",
    )
    c = common.image_text(base.default(), options, descriptions=options.descriptions)
    c.data.source, c.data.root = options.data, options.root
    if options.data == "tfds":
        c.data.builder = "plant_village"
    c.data.fractions = (0.7, 0.15, 0.15)
    c.data.train_split, c.data.eval_splits = "train", ("val", "test")
    c.data.image_size = 224
    c.data.augment.crop, c.data.augment.scale = "random_resized", (0.7, 1.0)
    common.start_from(c, options, options.image, into="trunk")
    common.preprocess(c, options.image, crop=True)
    c.data.cache.enabled, c.data.cache.folder = not options.train_encoders, options.cache
    c.model.trunk, c.model.freeze_trunk, c.text.freeze = (
        options.image,
        not options.train_encoders,
        not options.train_encoders,
    )
    c.model.width, c.model.depth, c.model.heads, c.model.dropout = 768, 4, 12, 0.1
    c.text.max_tokens = 128
    c.optim.learning_rate, c.optim.final_lr, c.optim.weight_decay = 1e-4, 1e-6, 1e-2
    c.train.batch_size, c.train.epochs, c.train.best_metric = 32, 30.0, "val/accuracy"
    if options.loss == "focal":
        c.loss.focal_gamma, c.loss.focal_alpha = 2.0, 1.0
    else:
        c.loss.label_smoothing = 0.1
    c.loss.balanced = options.balanced
    c = common.mvpdr(c, options, descriptions=options.descriptions)
    if not options.runlocal:
        return c
    c.data.threads = 2
    if c.task == "mvpdr":
        c.data.cache.passes = 1
    else:
        c.data.cache = base.default().data.cache
    if not options.clip:
        common.packaged_encoders(c)
        c.data.resize, c.data.image_size = 72, 64
    if c.task == "fusion":
        c.model.width, c.model.depth, c.model.heads = 32, 1, 4
    c.train.steps = 2 if c.train.epochs else 0
    if c.task == "mvpdr" and not options.clip:
        c.mvpdr.align_steps = 10
    c.train.batch_size, c.evaluation.batch_size, c.train.best_metric = 4, 4, ""
    c.train.log_every, c.train.checkpoint_every, c.train.eval_every_epochs, c.report.examples = 1, 1, 0.0, 2
    return c


def sweep() -> dict[str, Any]:
    """Search space of `python -m fusionjax.sweep`, 25,920 points; heads that do not divide the width are rejected."""
    return {
        "optim.learning_rate": [1e-5, 3e-5, 1e-4, 3e-4, 1e-3],
        "train.batch_size": [16, 32, 64],
        "model.width": [256, 512, 768, 1024],
        "model.heads": [4, 8, 12, 16],
        "model.depth": [2, 4, 6],
        "model.dropout": [0.1, 0.2, 0.3],
        "optim.weight_decay": [1e-4, 1e-3, 1e-2],
        "fusion.head": ["concat", "adaptive", "bilinear", "attention"],
    }
