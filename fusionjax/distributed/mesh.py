"""The device mesh, and the placement of arrays on it."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fusionjax.errors import UserError
from fusionjax.types import PyTree

DATA = "data"
"""The mesh axis that the batch is split over."""


def create(batch_size: int | None = None) -> Mesh:
    """A mesh with one axis, `data`, over all devices of all processes.

    Args:
        batch_size: examples of the global batch, checked to be a multiple of the number of devices; None for no check.

    Returns:
        Mesh of shape (devices,), with an Auto axis.

    Raises:
        UserError: the batch size is not a multiple of the number of devices.
    """
    devices = jax.devices()
    if batch_size is not None and batch_size % len(devices):
        raise UserError(
            f"config.train.batch_size={batch_size} must be a multiple of the {len(devices)} devices"
        )
    # make_mesh gives Explicit axes by default, under which with_sharding_constraint raises.
    return jax.make_mesh((len(devices),), (DATA,), axis_types=(AxisType.Auto,), devices=devices)


def round_up(batch_size: int, mesh: Mesh) -> int:
    """The smallest multiple of the number of devices that is at least `batch_size`."""
    return -(-batch_size // mesh.size) * mesh.size


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding that keeps the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> NamedSharding:
    """The sharding that splits the leading axis over the mesh axis `data`."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Places this process's examples of a batch as its part of the global batch.

    Args:
        batch: name → (B / process count, ...), the examples of this process.
        mesh: from `create`.

    Returns:
        name → global array (B, ...), its leading axis split over all devices.
    """
    where = sharded(mesh)
    return {
        key: jax.make_array_from_process_local_data(where, np.asarray(value)) for key, value in batch.items()
    }


def put_replicated(tree: PyTree, mesh: Mesh) -> PyTree:
    """Copies every leaf of a tree to every device; all processes must pass the same values."""
    where = replicated(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(where, np.asarray(x)), tree)


def to_host(tree: PyTree) -> PyTree:
    """The leaves of a tree as whole NumPy arrays in every process; a collective if there are several processes."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)
