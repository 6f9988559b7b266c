"""The encoders of contrastive learning: builds them from a config, loads published weights and exports trained ones."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fusionjax import models, pretrained
from fusionjax.config import impossible
from fusionjax.data.image.transforms import image_shape
from fusionjax.models import registry
from fusionjax.models.backbones.efficientnet import EfficientNet
from fusionjax.models.backbones.record import Family
from fusionjax.models.methods import spectral
from fusionjax.pretrained import native
from fusionjax.tasks.base.protocol import Say
from fusionjax.types import PyTree

FOLDER = "towers"
"""Below the workdir: each modality's encoder as a file."""


def create(config: ConfigDict, modalities: Sequence[tuple[str, Sequence[int]]]) -> spectral.SpectralEncoder:
    """The module of `config.model` and `config.spectral`.

    Args:
        config: of the run, validated.
        modalities: (name, indices of its channels) for each that trains.

    Raises:
        UserError: a model that is no plain image backbone, or cannot be cut.
    """
    c, s = config.model, config.spectral
    family = registry.family(c.name)
    if family.encoder is None or c.trunk:
        allowed = "a plain image model without model.trunk; python -m fusionjax.models lists the names"
        raise impossible(config, "model.trunk" if c.trunk else "model.name", allowed)
    if s.fusion == "attention" and family.encoder.tokens is None:
        raise impossible(config, "spectral.fusion", f"{c.name} has more than one feature map to query")
    if c.train_trunk_from and c.train_trunk_from not in family.cuts:
        raise impossible(config, "model.train_trunk_from", f"{c.name} is not cut: leave it empty")
    start = math.log(1 / s.temperature) if s.learned_temperature else None

    def encoder(width: int) -> nn.Module:
        return _backbone(config, family, width)

    encoder(3)  # raises now for an unknown name or field
    return spectral.SpectralEncoder(
        encoder,
        tuple((name, tuple(channels)) for name, channels in modalities),
        fusion=s.fusion,
        projection=tuple(s.projection),
        query_width=s.query_width,
        query_heads=s.query_heads,
        fixed_statistics=s.fixed_statistics,
        log_scale=start,
        dtype=jnp.dtype(config.precision).type,
    )


def frozen(module: spectral.SpectralEncoder) -> tuple[str, ...]:
    """Patterns of the parameters of a cut encoder that are not trained."""
    encoder = module.encoder(3)
    if not isinstance(encoder, spectral.Cut):
        return ()
    return (rf"^tower_\w+/({'|'.join(encoder.frozen)})/",)


def put_weights(
    config: ConfigDict,
    module: spectral.SpectralEncoder,
    variables: PyTree,
    weights: PyTree | None,
    log: Say,
) -> PyTree:
    """`variables` with pretrained weights in every encoder; unchanged where there are none.

    The first convolution repeats to as many channels as an encoder reads, scaled by 3 / C: see `pretrained.merge`.

    Args:
        config: of the run.
        module: of `create`.
        variables: its, freshly initialised.
        weights: of `model_factory.read_weights`.
        log: takes a line for every adaptation.

    Raises:
        UserError: weights that do not fit.
    """
    if weights is None:
        return variables
    family, encoder = registry.family(config.model.name), module.encoder(3)
    for tower in module.towers:
        variables = pretrained.merge(
            variables,
            weights,
            skip=config.pretrained.skip,
            into=f"tower_{tower}",
            grid=family.grids(encoder),
            antialias=family.antialias(encoder),
            log=_prefixed(tower, log),
        )
    return variables


def _prefixed(tower: str, log: Say) -> Say:
    return lambda text: log(f"{tower}: {text}")


def write(folder: Path, module: spectral.SpectralEncoder, variables: PyTree, name: str) -> list[Path]:
    """Writes the encoders as plain backbones, one file per modality, for `pretrained.source` of other runs.

    Args:
        folder: the workdir; files go to `FOLDER` below it, <modality>.safetensors. Of one encoder of several modalities'
            channels there is also all.safetensors.
        module: of `create`.
        variables: its, trained.
        name: of the backbone, as `models.create` takes it.

    Returns:
        The paths.
    """
    where = Path(folder) / FOLDER
    host = jax.tree.map(np.asarray, dict(variables))
    made = [
        native.write(where / f"{m}.safetensors", spectral.of_modality(host, module, m)[0], name)
        for m in module.names
    ]
    if module.fusion == "concat" and len(module.names) > 1:
        key = f"tower_{spectral.SHARED}"
        whole = {k: tree[key] for k, tree in host.items() if isinstance(tree, Mapping) and key in tree}
        made.append(native.write(where / "all.safetensors", whole, name))
    return made


def _backbone(config: ConfigDict, family: Family, width: int) -> nn.Module:
    c = config.model
    if family.configure is None or family.encoder is None:
        raise ValueError(f"{family.name} has no encoder without a head")
    fields = family.configure(config, image_shape=image_shape(config.data), channels=width)
    fields |= {"dtype": jnp.dtype(config.precision).type, **family.encoder.fields}
    if not c.train_trunk_from:
        return models.create(c.name, **fields)
    part = registry.trunk(c.name, cut=c.train_trunk_from, **fields)
    # Only EfficientNet can be cut.
    return spectral.Cut(cast(EfficientNet, part.module), cast(EfficientNet, part.neck))
