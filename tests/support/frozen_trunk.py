"""Weights for the frozen trunk of a test's config: a frozen trunk without weights is refused."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from fusionjax.models import create, registry
from fusionjax.pretrained import native

SHALLOW = "vit_shallow"


def start(c: ConfigDict, folder: Path, fields: dict[str, Any], seed: int = 0) -> ConfigDict:
    """Sets `c.pretrained` for `c.model.trunk`, or for the trunk in `fields`; nothing without a trunk.

    vit_shallow starts from a file in `folder` with its random initial values of a seed, any other from its published weights.
    """
    trunk = fields.get("model__trunk", c.model.trunk)
    if trunk:
        c.pretrained.source, c.pretrained.into = source(trunk, Path(folder), seed), "trunk"
    return c


def source(trunk: str, folder: Path, seed: int = 0) -> str:
    """The weights of a trunk, as for `pretrained.source`; those of vit_shallow are written into `folder`."""
    if trunk != SHALLOW:
        return registry.weights(trunk)
    path = folder / f"{trunk}{seed or ''}.safetensors"
    if not path.exists():
        module = create(trunk)
        (image,) = registry.family(trunk).inputs(module, None)
        native.write(path, jax.jit(module.init)(jax.random.key(seed), jnp.zeros(image.shape)), trunk)
    return str(path)
