"""The memory that a run needs at least, from shapes alone, against what the machine has."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from fusionjax.config.rules import value_of
from fusionjax.errors import UserError
from fusionjax.types import PyTree


class Part(NamedTuple):
    """Something that is held in memory during the whole run.

    Attributes:
        size: in bytes.
        what: a noun in the plural.
        fields: of the config that determine the size.
    """

    size: int
    what: str
    fields: tuple[str, ...]


def check_batches(config: ConfigDict, image: jax.ShapeDtypeStruct) -> None:
    """Refuses batches, and examples that are read ahead, that the machine's memory cannot hold.

    Args:
        config: of the run, validated.
        image: shape of one image as the reading threads make it.

    Raises:
        UserError: the memory that is needed and that is there, the largest part, and the fields that determine it.
    """
    _refuse(config, batch_parts(config, image), host_memory(), "this machine")


def batch_parts(config: ConfigDict, image: jax.ShapeDtypeStruct) -> list[Part]:
    """The images that are held at a time; arguments as for `check_batches`."""
    each, c = size_of(image), config
    shape = "data.image_shape" if c.data.image_shape else "data.image_size"
    numbers = {"train.batch_size": "images of a training batch", "evaluation.batch_size": "images of an evaluation batch",
               "data.prefetch": "images read ahead"}  # fmt: skip
    if c.data.cache.enabled:
        numbers = {"data.cache.batch_size": "images of a batch", "data.prefetch": numbers["data.prefetch"]}
    return [Part(value_of(c, field) * each, what, (field, shape)) for field, what in numbers.items()]


def check_state(config: ConfigDict, state: PyTree, trainable: PyTree) -> None:
    """Refuses a model whose state the device's memory cannot hold.

    Args:
        config: of the run, validated.
        state: shapes of the training state: parameters, optimiser state, averages.
        trainable: shapes of the parameters that have a gradient.

    Raises:
        UserError: as `check_batches`.
    """
    sizes = tuple(f"model.{key}" for key in ("name", "width", "depth") if config.model[key])
    parts = [Part(size_of(state), "parameters and optimiser state", sizes),
             Part(size_of(trainable), "gradients", sizes)]  # fmt: skip
    devices = jax.local_devices()
    limit = (devices[0].memory_stats() or {}).get("bytes_limit")
    if limit is None:  # the devices share the machine's memory
        parts = [part._replace(size=part.size * len(devices)) for part in parts]
        _refuse(config, parts, host_memory(), "this machine")
    else:
        _refuse(config, parts, limit, f"the device {devices[0].device_kind}")


def size_of(tree: PyTree) -> int:
    """Bytes of the arrays of a tree of shapes; of a key, of its data."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def host_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or the limit of its control group where that is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([total, *_group_limits()])


def _group_limits() -> Iterator[int]:
    root = Path("/sys/fs/cgroup")
    try:
        groups = [line.rsplit(":", 1)[1] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        groups = []
    for group in ["", *groups]:
        for name in ("memory.max", "memory/memory.limit_in_bytes"):
            try:
                text = (root / group.lstrip("/") / name).read_text().strip()
            except OSError:
                continue
            if text.isdigit():
                yield int(text)


def _refuse(config: ConfigDict, parts: list[Part], limit: int, where: str) -> None:
    need = sum(part.size for part in parts)
    if need <= limit:
        return
    most = max(parts)
    fields = ", ".join(f"config.{field}={value_of(config, field)!r}" for field in most.fields)
    raise UserError(
        f"the run needs at least {shown(need)} of memory and {where} has {shown(limit)}: {shown(most.size)} are "
        f"{most.what} ({fields})"
    )


def shown(size: int) -> str:
    """A size in bytes for a reader: "12.5 MiB" below half a GiB, "1.5 GiB" above."""
    if size < 2**29:
        return f"{size / 2**20:.1f} MiB"
    return f"{size / 2**30:,.{1 if size < 100 * 2**30 else 0}f} GiB"
