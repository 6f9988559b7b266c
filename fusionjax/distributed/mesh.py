"""Devices, their mesh, and where arrays live on it."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fusionjax.errors import UserError

DATA = "data"
"""The mesh axis that the batch is split over."""


def create(batch_size: int | None = None) -> Mesh:
    """One axis, `data`, over every device of every process.

    Args:
        batch_size: global batch, checked to split evenly.

    Raises:
        UserError: the devices do not divide the batch.
    """
    devices = jax.devices()
    if batch_size is not None and batch_size % len(devices):
        raise UserError(
            f"config.train.batch_size={batch_size} must be a multiple of the {len(devices)} devices"
        )
    # make_mesh gives Explicit axes by default, under which with_sharding_constraint raises.
    return jax.make_mesh((len(devices),), (DATA,), axis_types=(AxisType.Auto,), devices=devices)


def round_up(batch_size: int, mesh: Mesh) -> int:
    """The smallest batch of at least that size which the devices share evenly."""
    return -(-batch_size // mesh.size) * mesh.size


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> NamedSharding:
    """The leading axis split over the data axis."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's share of a batch, placed as its part of the global one."""
    where = sharded(mesh)
    return {
        key: jax.make_array_from_process_local_data(where, np.asarray(value)) for key, value in batch.items()
    }


def put_replicated(tree: Any, mesh: Mesh) -> Any:
    """Every leaf on every device."""
    where = replicated(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(where, np.asarray(x)), tree)


def to_host(tree: Any) -> Any:
    """Global arrays as NumPy on every process (a collective where there are several processes)."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)
