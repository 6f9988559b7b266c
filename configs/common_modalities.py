"""Arguments and recipes that the configs of image, audio and text share."""

from ml_collections import ConfigDict

from configs import common
from configs import common_lite0 as lite0
from fusionjax.config import ArgDefault

MODALITIES = ("all", "image", "audio", "text", "image_audio", "image_text", "audio_text")


def trimodal_arg(**more: ArgDefault) -> dict[str, ArgDefault]:
    """Defaults of the argument, e.g. `configs/stamps_trimodal.py:modalities=image_text,seed=1`."""
    return dict(
        modalities=MODALITIES,
        pairings=("default", "all", "none"),
        dropout=0.3,
        root="",
        seed=0,
        runlocal=False,
        **more,
    )


def audiovisual_arg(**more: ArgDefault) -> dict[str, ArgDefault]:
    """Defaults as in `trimodal_arg`, without text."""
    return trimodal_arg(**more) | dict(modalities=("all", "image", "audio"))


def trimodal(config: ConfigDict, arg: ConfigDict, *, task: str = "trimodal") -> ConfigDict:
    """Sets the task, the modalities, the pairings of cross-attention and the optimiser.

    Args:
        config: the config to fill in.
        arg: parsed argument, see `trimodal_arg` and `audiovisual_arg`.
        task: trimodal or audiovisual.
    """
    c = config
    c.task, c.seed, c.data.root = task, arg.seed, arg.root
    c.model.name, c.model.ablation = "trimodal", "sa_only"
    kinds = ("image", "audio", "text") if task == "trimodal" else ("image", "audio")
    c.trimodal.modalities = kinds if arg.modalities == "all" else tuple(arg.modalities.split("_"))
    everyone = tuple(f"{to}_from_{of}" for to in kinds for of in kinds if to != of)
    c.trimodal.pairings = {"default": c.trimodal.pairings, "all": everyone, "none": ()}[arg.pairings]
    c.trimodal.modality_dropout = arg.dropout if len(c.trimodal.modalities) > 1 else 0.0
    if task == "trimodal":
        c.text.encoder, c.text.max_tokens, c.text.allow_empty = common.MINILM, 32, True
    c.optim.clip_norm = 1.0
    return c


def vqa(config: ConfigDict, arg: ConfigDict) -> ConfigDict:
    """Sets up visual question answering: image–text fusion with the question as the text.

    Args:
        config: the config to fill in.
        arg: parsed argument, as in `fusion_arg` without "text", with `root`.
    """
    c = config
    c.task, c.seed, c.data.root = "vqa", arg.seed, arg.root
    c.model.name, c.model.ablation = "fusion", "sa_only"
    c.fusion.mode = "fusion" if arg.baseline == "none" else arg.baseline
    c.fusion.head = "bilinear" if arg.head == "hadamard" else arg.head
    c.fusion.bilinear_form = "hadamard" if arg.head == "hadamard" else "full"
    c.text.encoder, c.text.max_tokens = arg.encoder, 32
    c.optim.clip_norm = 1.0
    return c


def stamps(config: ConfigDict, arg: ConfigDict) -> ConfigDict:
    """Sets up a run on Tux Paint's stamps, with cached features of a frozen EfficientNet-Lite0.

    Args:
        config: the config to fill in, with `trimodal.modalities` set.
        arg: parsed argument, with `cache`.
    """
    c = config
    c.data.source, c.data.fractions, c.data.eval_splits = "stamps", (0.7, 0.1, 0.2), ("val", "test")
    if c.task == "vqa" or "image" in c.trimodal.modalities:
        c.data.resize, c.data.image_size = 192, 160
    else:  # images are read in any case, so that all runs have the same examples
        c.data.resize = c.data.image_size = 32
    return lite0.multimodal(c, cache=arg.cache)


def own_encoders(image: str, encoder: str = "") -> dict[str, ArgDefault]:
    """Defaults of the arguments for encoders of your own data: image and text encoder, and whether encoders are trained."""
    text = {"encoder": encoder} if encoder else {}
    return dict(image=image, weights=common.PUBLISHED, **text, train_encoders=False, cache="")


HEARING: dict[str, ArgDefault] = dict(
    hearing=("wav2vec2_base", "mel"), hearing_weights=common.PUBLISHED, seconds=5.0, partial=False
)
"""Defaults of the arguments for audio of your own data."""


def hearing(config: ConfigDict, arg: ConfigDict) -> ConfigDict:
    """Sets the audio encoder: Wav2Vec2 with published weights, or a small encoder trained from scratch.

    Args:
        config: the config from `own_data`.
        arg: parsed argument, with the names in `HEARING`.
    """
    c = config
    c.audio.seconds = arg.seconds
    if "audio" in c.trimodal.modalities and arg.hearing != "mel":
        c.audio.encoder, c.audio.freeze = arg.hearing, not arg.train_encoders
        c.audio.source = common.source_of(arg.hearing_weights, arg.hearing)
    if arg.partial:
        c.data.carry = ("has_image",)
    c.train.best_metric = "val/accuracy"
    return c


def own_data(config: ConfigDict, arg: ConfigDict) -> ConfigDict:
    """Sets up a run on a manifest with several modalities: encoders, AdamW 1e-4 and selection on validation.

    Args:
        config: the config from `trimodal` or `vqa`.
        arg: parsed argument, with the names in `own_encoders`.
    """
    c = config
    c.data.source, c.data.fractions, c.data.eval_splits = "manifest", (0.7, 0.15, 0.15), ("val", "test")
    c.data.resize, c.data.image_size = 256, 224
    c.data.augment.crop, c.data.augment.scale = "random_resized", (0.7, 1.0)
    if c.task == "vqa" or "image" in c.trimodal.modalities:
        c.model.trunk, c.model.freeze_trunk = arg.image, not arg.train_encoders
        c.data.cache.enabled, c.data.cache.folder = not arg.train_encoders, arg.cache
        common.start_from(c, arg, arg.image, into="trunk")
    common.preprocess(c, arg.image, crop=True)
    if "encoder" in arg:
        c.text.encoder, c.text.freeze, c.text.max_tokens = arg.encoder, not arg.train_encoders, 64
    c.model.dropout = 0.1
    c.optim.learning_rate, c.optim.final_lr, c.optim.weight_decay, c.optim.warmup_epochs = (
        1e-4,
        1e-6,
        1e-2,
        1.0,
    )
    c.loss.label_smoothing = 0.1
    c.train.batch_size, c.train.epochs = 32, 30.0
    return c


def run_local_manifest(c: ConfigDict) -> ConfigDict:
    """Shortens a run on a manifest to two steps with small encoders that pip installs; that of sounds starts from scratch."""
    c.data.cache.enabled, c.data.cache.folder, c.data.threads = False, "", 2
    common.packaged_encoders(c)
    c.data.resize, c.data.image_size = 72, 64
    c.model.width, c.model.heads = 32, 4
    if c.task != "vqa":
        c.trimodal.hidden = 32
        c.audio.encoder, c.audio.source, c.audio.freeze, c.audio.seconds = "mel", "", False, 1.0
    c.optim.warmup_epochs, c.train.best_metric = 0.0, ""
    c.train.batch_size, c.train.steps, c.evaluation.batch_size = 4, 2, 4
    c.train.log_every, c.train.checkpoint_every, c.train.eval_every_epochs, c.report.examples = 1, 1, 0.0, 2
    return c


def run_local_stamps(c: ConfigDict) -> ConfigDict:
    """Shortens a run on stamps to four steps on small images."""
    c.data.check_counts = False
    if c.data.cache.enabled:
        c.data.cache.passes = 1
    c.data.resize = c.data.image_size = 64
    c.train.steps, c.train.log_every, c.train.batch_size, c.evaluation.batch_size = 4, 1, 8, 8
    c.report.examples = 2
    return c
