"""Which values a config may have: the rules on the fields of every run. A task's own rules stand in its record."""

import math
from collections.abc import Collection

from ml_collections import ConfigDict

from fusionjax import register
from fusionjax.config import field_types, ownership
from fusionjax.config.rules import impossible, require_one_of, require_within

ABLATIONS = {
    "sa_only": ("sa",),
    "sa_glca": ("sa", "glca"),
    "sa_pwca": ("sa", "pwca"),
    "full": ("sa", "glca", "pwca"),
}
"""Branches that train, by the name of the ablation (docs/methods/dcal.md; table 5 of the paper)."""


def validate(config: ConfigDict) -> ConfigDict:
    """Checks a whole config before anything is allocated; returns it locked.

    Raises:
        UserError: the first field that is unknown, of the wrong type, impossible or not read by the run, with what is
            allowed.
    """
    return _checked(config, all_read=True)


def check_values(config: ConfigDict) -> ConfigDict:
    """As `validate`, but a field that the run does not read may have any value of its type."""
    return _checked(config, all_read=False)


def apply_switches(config: ConfigDict, before: ConfigDict, overridden: Collection[str]) -> list[str]:
    """As `ownership.put_back`, after a check that both have every field, of its type.

    Raises:
        UserError: a field is unknown, missing or of the wrong type, or no task or data set has the name.
    """
    for given in (before, config):
        field_types.check(given)
    return ownership.put_back(config, before, overridden)


def reported_splits(config: ConfigDict) -> tuple[str, ...]:
    """Names under which the scores of `data.eval_splits` appear, e.g. the test of test/mAP."""
    return register.tasks.get(config.task).reported_splits(config)


def _checked(config: ConfigDict, *, all_read: bool) -> ConfigDict:
    field_types.check(config)
    task, source = register.tasks.get(config.task), register.datasets.get(config.data.source)
    for rule in (_optim, _data, _augment, _cache, _model, _train, _loss, _evaluation, _pretrained):
        rule(config)
    task.check(config)
    source.check(config)
    if all_read:
        ownership.check(config)
    _model_of_the_task(config)
    config.lock()
    return config


def _each_within(config: ConfigDict, keys: tuple[str, ...], low: float, high: float = math.inf) -> None:
    for key in keys:
        require_within(config, key, low, high)


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _data(config: ConfigDict) -> None:
    data = config.data
    require_one_of(config, "precision", "float32", "bfloat16")
    require_within(config, "seed", 0, 2**32 - 1)
    require_one_of(config, "data.resize_mode", "shorter", "squash")
    require_one_of(config, "data.interpolation", "bilinear", "bicubic")
    require_one_of(config, "data.label", "label", "identity")
    _each_within(config, ("data.image_size", "data.resize", "data.prefetch", "data.max_pixels"), 1)
    require_within(config, "data.threads", 1, 1024)
    _each_within(config, ("data.max_bad_fraction",), 0, 1)
    _each_within(config, ("data.per_identity",), 0)
    shape, f = data.image_shape, data.fractions
    if shape and (len(shape) != 2 or min(shape) < 1):
        raise impossible(config, "data.image_shape", "() or two whole numbers, rows and columns")
    if data.image_size > data.resize and not shape and data.augment.crop != "random_resized":
        raise impossible(config, "data.image_size", f"a crop cannot be larger than data.resize={data.resize}")
    if len(f) != 3 or min(f) < 0 or f[0] <= 0 or abs(sum(f) - 1) > 1e-6:
        raise impossible(config, "data.fractions", "three shares (train, val, test) that add up to 1")
    if not data.eval_splits:
        raise impossible(config, "data.eval_splits", "name at least one split")
    if data.per_identity and config.train.batch_size % data.per_identity:
        raise impossible(
            config, "data.per_identity", f"it must divide train.batch_size={config.train.batch_size}"
        )
    _channels(config)


def _channels(config: ConfigDict) -> None:
    data = config.data
    for key in ("mean", "std"):
        if data.modalities and not data[key]:
            continue
        if not data.modalities and len(data[key]) != 3:
            raise impossible(config, f"data.{key}", "three numbers, one per channel")
    if data.std and min(data.std) <= 0:
        count = "" if data.modalities else "three "
        raise impossible(config, "data.std", f"{count}positive numbers, one per channel")
    span = data.value_range
    if span and (len(span) != 2 or span[0] >= span[1]):
        raise impossible(config, "data.value_range", "() or two numbers, low < high")
    if data.nodata != "mean" and not _is_finite(data.nodata):
        raise impossible(config, "data.nodata", "mean, or a number such as '0'")
    for key in ("rotate", "jitter", "rand_operations", "erase") if data.modalities else ():
        if data.augment[key]:
            raise impossible(
                config, f"data.augment.{key}", "it is for RGB images; data.modalities take crop and flip only"
            )


def _augment(config: ConfigDict) -> None:
    augment = config.data.augment
    require_one_of(config, "data.augment.crop", "random", "random_resized", "none")
    require_one_of(config, "data.augment.erase_fill", "mean", "noise")
    require_within(config, "data.augment.rand_magnitude", 0, 10)
    _each_within(config, ("data.augment.flip", "data.augment.erase", "data.augment.jitter"), 0, 1)
    _each_within(config, ("data.augment.rotate", "data.augment.pad", "data.augment.rand_operations"), 0)
    for key in ("scale", "ratio"):
        pair = augment[key]
        if len(pair) != 2 or not 0 < pair[0] <= pair[1]:
            raise impossible(config, f"data.augment.{key}", "two numbers, 0 < low <= high")
    if augment.scale[1] > 1:
        raise impossible(config, "data.augment.scale", "shares of the area, at most 1")


def _cache(config: ConfigDict) -> None:
    _each_within(config, ("data.cache.passes", "data.cache.batch_size"), 1)
    if not config.data.cache.enabled or register.tasks.get(config.task).frozen_trunk(config):
        return
    if config.model.frozen_blocks:
        if config.loss.cutmix:
            raise impossible(
                config,
                "loss.cutmix",
                "cached tokens have no regions to cut: set data.cache.enabled=False, or 0",
            )
        return
    if not config.model.trunk:
        raise impossible(
            config,
            "data.cache.enabled",
            "only the outputs of a frozen model.trunk, or of model.frozen_blocks, are cached",
        )
    if not config.model.freeze_trunk:
        raise impossible(
            config,
            "data.cache.enabled",
            "it needs a trunk that does not train: set model.freeze_trunk=True",
        )


def _model(config: ConfigDict) -> None:
    c = config.model
    require_one_of(config, "model.ablation", *ABLATIONS)
    require_one_of(config, "model.glca_input", "last", "penultimate")
    require_one_of(config, "model.partner_stream", "pwca", "sa")
    require_one_of(config, "model.trunk_features", "", "head", "stride32", "stride16")
    require_one_of(config, "model.train_trunk_from", "", "stride16")
    require_within(config, "model.ratio", 0, 1, open_low=True)
    _each_within(config, ("model.drop_path", "model.dropout"), 0, 0.999)
    sizes = ("stride", "cameras", "width", "depth", "heads", "patch", "mlp_ratio", "frozen_blocks")
    _each_within(config, tuple(f"model.{key}" for key in sizes), 0)
    require_within(config, "model.depth", 0, 1024)  # its blocks may be traced one by one
    if max((depth for stage in c.crossvit.depth for depth in stage), default=0) > 1024:
        raise impossible(config, "model.crossvit.depth", "at most 1024 blocks in a row")
    if c.width and c.heads and c.width % c.heads:
        raise impossible(config, "model.heads", f"it must divide model.width={c.width}")
    if c.cameras and ("camera" not in config.data.carry or config.data.cache.enabled):
        raise impossible(
            config, "model.cameras", "it needs data.carry=('camera',) and data.cache.enabled=False"
        )


def _model_of_the_task(config: ConfigDict) -> None:
    name, builds = config.model.name, register.tasks.get(config.task).builds
    if builds and name not in builds:
        raise impossible(
            config, "model.name", f"the task {config.task} builds {' or '.join(map(repr, builds))}"
        )
    builders = [task for task, record in register.tasks.records() if name in record.builds]
    if builders and not builds:
        raise impossible(config, "model.name", f"it is built by a task of its own: set task={builders[0]!r}")


def _loss(config: ConfigDict) -> None:
    c = config.loss
    require_one_of(config, "loss.metric", "triplet", "circle")
    require_one_of(config, "loss.branch_weighting", "uncertainty", "sum")
    require_within(config, "loss.label_smoothing", 0, 1)
    require_within(config, "loss.focal_alpha", 0, open_low=True)
    numbers = ("focal_gamma", "pair_group", "mixup", "cutmix", "identity_weight", "metric_weight", "margin",
               "center_weight")  # fmt: skip
    _each_within(config, tuple(f"loss.{key}" for key in numbers), 0)
    if c.focal_gamma and c.label_smoothing:
        raise impossible(
            config, "loss.focal_gamma", "the focal loss has no label smoothing: set loss.label_smoothing=0"
        )
    if min(c.class_weights, default=0) < 0:
        raise impossible(config, "loss.class_weights", "numbers of at least 0, one per class")
    if c.class_weights and c.balanced:
        raise impossible(config, "loss.balanced", "loss.class_weights are given already")
    _groups(config)


def _groups(config: ConfigDict) -> None:
    c = config.loss
    group, micro = c.pair_group, config.train.batch_size // config.optim.accumulate
    pairs = "pwca" in ABLATIONS[config.model.ablation] and ownership.has_branches(config)
    if not (pairs or c.mixup or c.cutmix):
        return
    if micro < 2:
        raise impossible(
            config, "train.batch_size", "PWCA and mixing pair images: a micro-batch needs at least 2"
        )
    if group and (group < 2 or micro % group):
        raise impossible(
            config,
            "loss.pair_group",
            f"at least 2, and a divisor of the micro-batch {micro}; 0 for a device's share",
        )


def _optim(config: ConfigDict) -> None:
    require_one_of(config, "optim.name", "adamw", "adam", "sgd", "lars")
    require_one_of(config, "optim.schedule", "cosine", "constant")
    require_within(config, "optim.accumulate", 1)
    for key in ("optim.learning_rate", "optim.eps", "optim.trust_coefficient"):
        require_within(config, key, 0, open_low=True)
    _each_within(config, ("optim.weight_decay", "optim.final_lr", "optim.clip_norm"), 0)
    require_within(config, "optim.warmup_epochs", 0, 2**31 - 1)
    require_within(config, "optim.layer_decay", 0, 1, open_low=True)
    shares = ("optim.ema_decay", "optim.b1", "optim.b2", "optim.momentum")
    _each_within(config, shares, 0, 0.999999)
    for rule in config.optim.lr_rules:
        if [type(part) for part in rule] not in ([str, float], [str, int]) or rule[1] < 0:
            raise impossible(config, "optim.lr_rules", "a tuple of (pattern, factor)")


TRACKERS = ("wandb", "mlflow", "trackio")
"""Experiment trackers; see `fusionjax.train.trackers`."""


def _train(config: ConfigDict) -> None:
    c = config.train
    _each_within(config, ("train.batch_size", "train.log_every", "train.checkpoint_every"), 1)
    _each_within(config, ("train.epochs", "train.steps", "train.eval_every_epochs"), 0, 2**31 - 1)
    _each_within(config, ("train.checkpoint_minutes", "train.skip_nonfinite"), 0, 2**31 - 1)
    if not set(c.trackers) <= set(TRACKERS) or len(set(c.trackers)) < len(c.trackers):
        raise impossible(config, "train.trackers", f"a tuple of {', '.join(TRACKERS)}, each once")
    if c.trackers and not c.tracker_project:
        raise impossible(config, "train.tracker_project", "the trackers file the run under it")
    if c.epochs == 0 and c.steps == 0 and not register.tasks.get(config.task).training_free:
        raise impossible(config, "train.epochs", "set train.epochs or train.steps")
    if c.batch_size % config.optim.accumulate:
        raise impossible(
            config,
            "train.batch_size",
            f"it must be a multiple of optim.accumulate={config.optim.accumulate}",
        )
    split, _, metric = c.best_metric.partition("/")
    if c.best_metric and (split not in reported_splits(config) or not metric):
        names = ", ".join(reported_splits(config))
        raise impossible(
            config,
            "train.best_metric",
            f"it is <split>/<metric>, and a split of data.eval_splits={config.data.eval_splits} is reported as {names}",
        )


def _evaluation(config: ConfigDict) -> None:
    require_one_of(config, "evaluation.metric", "cosine", "euclidean")
    require_one_of(config, "evaluation.average_precision", "step", "trapezoid")
    require_within(config, "evaluation.rerank_lambda", 0, 1)
    numbers = ("evaluation.batch_size", "evaluation.rerank_k1", "evaluation.rerank_k2")
    _each_within(config, numbers, 1)
    require_within(config, "report.examples", 0)


def _pretrained(config: ConfigDict) -> None:
    require_one_of(config, "pretrained.into", "", "trunk")
    if config.pretrained.into == "trunk" and not config.model.trunk:
        raise impossible(config, "pretrained.into", "model.trunk names no trunk")
