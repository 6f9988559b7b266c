"""Pixels of images with any number of channels, as stored → 0 … 1 → normalised; on the device.

Their range, mean and standard deviation are variables of the model, in the collection "pixels", so a checkpoint holds them.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fusionjax.config import impossible
from fusionjax.data.image.transforms import channels
from fusionjax.data.loading import pipeline
from fusionjax.data.multispectral import channels as channels_lib
from fusionjax.data.multispectral import statistics
from fusionjax.data.multispectral.channels import ChannelMap, channel_map
from fusionjax.data.source import Source
from fusionjax.types import PyTree

COLLECTION = "pixels"
Pixels = Mapping[str, jax.Array]


def channels_of(config: ConfigDict) -> ChannelMap | None:
    """The channel map of `config.data`; None for RGB images.

    Raises:
        UserError: as `channel_map`; `data.mean` or `data.std` of another number of channels.
    """
    data = config.data
    if not data.modalities:
        return None
    found = channel_map(data.modalities, data.channels)
    for key in ("mean", "std"):
        if data[key] and len(data[key]) != found.count:
            raise impossible(
                config, f"data.{key}", f"{found.count} numbers, one a channel; () to measure them in training"
            )
    return found


def required_channels(config: ConfigDict) -> ChannelMap:
    """As `channels_of`, for a task on multispectral images alone; a UserError for RGB images."""
    found = channels_of(config)
    if found is None:
        raise impossible(config, "data.modalities", "name the modalities and their channels")
    return found


def check(config: ConfigDict, sources: Iterable[Source]) -> None:
    """A UserError where the sources' channels are not those that the config names."""
    named = channels_of(config)
    if named is None:
        return
    for source in sources:
        found = channels_lib.of(source)
        if found.count != named.count or found.modalities != named.modalities:
            raise impossible(
                config,
                "data.modalities",
                f"the channels of {source.name} are {found.modalities} of {found.count}",
            )


@dataclasses.dataclass(frozen=True, eq=False)
class PixelStatistics:
    """Range, mean and standard deviation of the channels as variables of a run; see `image_model.Collection`.

    Attributes:
        config: of the whole run, validated.
    """

    config: ConfigDict
    name: str = COLLECTION

    def fresh(self) -> dict[str, np.ndarray]:
        """See `Collection.fresh`."""
        return unknown(channels(self.config.data))

    def from_params(self, params: PyTree) -> None:
        """See `Collection.from_params`."""
        return None

    def from_data(
        self, source: Source, *, steps: int, folder: Path, say: Callable[[str], None]
    ) -> dict[str, np.ndarray]:
        """See `Collection.from_data`."""
        return measure(self.config, source, folder=folder, say=say)


def unknown(count: int) -> dict[str, np.ndarray]:
    """The collection before `measure`: it leaves pixels unchanged."""
    zeros, ones = np.zeros(count, np.float32), np.ones(count, np.float32)
    return {"low": zeros, "high": ones, "mean": zeros, "std": ones}


def measure(
    config: ConfigDict, source: Source, *, folder: Path, say: Callable[[str], None]
) -> dict[str, np.ndarray]:
    """The collection of a training split.

    Pixels `low` and `high` become 0 and 1: `data.value_range`, or 0 and 255 of uint8, or the least and the greatest value of
    the modality in training (a channel of no modality has its own). `data.mean` and `data.std`, else those of training, are
    of pixels on that scale. The statistics are computed only where they are needed, and kept in `folder`.

    Args:
        config: of the run.
        source: the training split.
        folder: cache folder.
        say: takes a line of progress.

    Returns:
        "low", "high", "mean", "std": (C,) float32.

    Raises:
        UserError: as `statistics.channel_statistics`.
    """
    data, named = config.data, required_channels(config)
    limits = tuple(data.value_range) or ((0, 255) if pipeline.dtype_of(source) == np.uint8 else ())
    if limits and data.mean and data.std:
        low, high = (np.full(named.count, v, np.float64) for v in limits)
        return _collection(low, _span(low, high), np.asarray(data.mean), np.asarray(data.std))
    found = statistics.channel_statistics(
        source, folder, max_bad_fraction=data.max_bad_fraction, threads=data.threads
    )
    if limits:
        low, high = (np.full(named.count, v, np.float64) for v in limits)
    else:
        low, high = np.asarray(found.minimum), np.asarray(found.maximum)
        for _, members in named.modalities:
            rows = list(members)
            low[rows], high[rows] = low[rows].min(), high[rows].max()
    span = _span(low, high)
    made = _collection(
        low,
        span,
        np.asarray(data.mean) if data.mean else (np.asarray(found.mean) - low) / span,
        np.asarray(data.std) if data.std else np.asarray(found.std) / span,
    )
    say(
        f"channel statistics of {found.images} training images: mean {_shown(made['mean'])}, standard deviation "
        f"{_shown(made['std'])}"
    )
    return made


def _span(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The width of each channel's range; 1 for a constant channel."""
    return np.where(high > low, high - low, 1)


def _collection(
    low: np.ndarray, span: np.ndarray, mean: np.ndarray, std: np.ndarray
) -> dict[str, np.ndarray]:
    found = {"low": low, "high": low + span, "mean": mean, "std": np.where(std > 0, std, 1)}
    return {name: value.astype(np.float32) for name, value in found.items()}


def unit(pixels: Pixels, images: jax.Array) -> jax.Array:
    """(B, h, w, C) as stored → float32, 0 … 1; values outside the range are clipped."""
    low, high = pixels["low"], pixels["high"]
    return jnp.clip((images.astype(jnp.float32) - low) / (high - low), 0, 1)


def normalise(pixels: Pixels, images: jax.Array) -> jax.Array:
    """(B, h, w, C) in 0 … 1 → (x − mean) / standard deviation."""
    return (images - pixels["mean"]) / pixels["std"]


def _shown(values: np.ndarray) -> str:
    return " ".join(f"{v:.3f}" for v in values)
