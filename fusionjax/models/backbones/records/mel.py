"""The small encoder of log-mel frames: without published weights, and so without a name in `fusionjax.models`."""

import jax
import jax.numpy as jnp

from fusionjax.models.backbones.mel import MelEncoder
from fusionjax.models.backbones.record import Family, Layer, LayerOrder


def layers(module: MelEncoder) -> LayerOrder:
    """Convolutions, blocks, and the last norm."""
    blocks = (Layer(f"block_{index}/.*", index + 1) for index in range(module.depth))
    return LayerOrder(
        module.depth, (Layer(r"conv_.*|proj/.*", 0), *blocks, Layer(r"norm/.*", module.depth + 1))
    )


def inputs(module: MelEncoder, size: tuple[int, int] | None = None) -> tuple[jax.ShapeDtypeStruct, ...]:
    """A hundred frames of 64 bins."""
    return (jax.ShapeDtypeStruct((1, 100, 64), jnp.float32),)


FAMILY = Family(
    name="mel",
    names=(),
    module=MelEncoder,
    build=lambda name, **fields: MelEncoder(**fields),
    layers=layers,
    inputs=inputs,
    kind="audio",
)
