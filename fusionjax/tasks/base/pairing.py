"""Whether the devices' shares of a batch can be paired or mixed."""

import flax.linen as nn
from ml_collections import ConfigDict

from fusionjax.config import impossible


def pairs_images(config: ConfigDict, module: nn.Module) -> bool:
    """Whether training brings images of a batch together: PWCA, mixup or CutMix."""
    return "pwca" in getattr(module, "branches", ()) or bool(config.loss.mixup or config.loss.cutmix)


def check_devices(config: ConfigDict, module: nn.Module, shards: int) -> None:
    """A UserError where a device's share of a micro-batch is too small to pair.

    Args:
        config: of the whole run.
        module: of the task.
        shards: devices.
    """
    share = config.train.batch_size // config.optim.accumulate // shards
    if pairs_images(config, module) and not config.loss.pair_group and share < 2:
        alone = f"a device has {share} image of a micro-batch and nothing to pair it with; set 2"
        raise impossible(config, "loss.pair_group", alone)


def check_identities(config: ConfigDict, module: nn.Module, shards: int) -> None:
    """A UserError where a device's share of a micro-batch does not hold whole identities, or only one and pairs; as
    `check_devices`."""
    share, k = config.train.batch_size // config.optim.accumulate // shards, config.data.per_identity
    if share % k:
        alone = f"a device's {share} images of a micro-batch do not hold whole identities of {k}; use fewer devices"
        raise impossible(config, "data.per_identity", alone)
    if pairs_images(config, module) and not config.loss.pair_group and share < 2 * k:
        alone = f"a device has one identity of a micro-batch and none to pair it with; set {2 * k}"
        raise impossible(config, "loss.pair_group", alone)
    check_devices(config, module, shards)
