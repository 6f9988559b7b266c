"""The images of a batch as arguments of a module, on the device."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from fusionjax.data.loading.auxiliary import Auxiliary
from fusionjax.data.loading.stream import Example
from fusionjax.data.source import Source
from fusionjax.tasks.base import multispectral_inputs
from fusionjax.tasks.base.protocol import Batch, Say, Variables, silent
from fusionjax.types import PyTree


def normalise(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """uint8 (B, h, w, C) → float32, (x / 255 − mean) / std. On the device: the host then sends a quarter of the bytes."""
    scale = 1 / (255 * jnp.asarray(std, jnp.float32))
    return images.astype(jnp.float32) * scale - jnp.asarray(mean, jnp.float32) / jnp.asarray(std, jnp.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class ImageInputs:
    """See `protocol.Inputs`: images, or the cached features of a frozen trunk, and the camera where the model reads it.

    Attributes:
        config: of the whole run, validated.
    """

    config: ConfigDict

    @property
    def reads_text(self) -> bool:
        """See `Inputs`."""
        return False

    @property
    def reads_sound(self) -> bool:
        """See `Inputs`."""
        return False

    def example_arguments(self) -> dict[str, jax.Array]:
        """Arguments of `module.init` other than the images."""
        return {"camera": jnp.zeros((1,), jnp.int32)} if self.config.model.cameras else {}

    def padding_example(self) -> Example:
        """See `Inputs.padding_example`."""
        return {}

    def prepare(
        self,
        split: str,
        source: Source,
        variables: Variables,
        *,
        folder: Path | None = None,
        say: Say = silent,
    ) -> Auxiliary | None:
        """See `Inputs.prepare`."""
        return None

    def from_user(
        self,
        variables: Variables,
        *,
        texts: Sequence[str] | None = None,
        sounds: Sequence[str | Path | None] | None = None,
    ) -> Auxiliary | None:
        """See `Inputs.from_user`."""
        return None

    def arguments(
        self, batch: Batch, variables: Mapping[str, PyTree] = MappingProxyType({})
    ) -> dict[str, Any]:
        """See `Inputs.arguments`."""
        carried = {"camera": batch["camera"]} if self.config.model.cameras else {}
        if "features" in batch:
            return {"features": batch["features"].astype(jnp.dtype(self.config.precision)), **carried}
        known = variables.get(multispectral_inputs.COLLECTION)
        if known is not None:
            unit = multispectral_inputs.unit(known, batch["image"])
            return {"images": multispectral_inputs.normalise(known, unit), **carried}
        return {"images": normalise(batch["image"], self.config.data.mean, self.config.data.std), **carried}

    def fingerprint(self) -> dict[str, Any]:
        """See `Inputs.fingerprint`."""
        return {}

    def warnings(self) -> list[str]:
        """See `Inputs.warnings`."""
        return []
