"""A model over a whole split."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from jax.sharding import Mesh

from fusionjax.distributed import mesh as mesh_lib

CARRIED = ("label", "valid", "index")
"""Batch keys that travel with the predictions."""


def collect(
    predict: Callable[[Any, dict[str, Any]], dict[str, Any]],
    variables: Any,
    batches: Iterable[dict[str, np.ndarray]],
    mesh: Mesh,
    *,
    keep: tuple[str, ...] = ("probabilities/",),
) -> dict[str, np.ndarray]:
    """Predictions of every example, padding included.

    Args:
        predict: compiled, (variables, batch) → dict of arrays with a leading batch axis.
        variables: of the model.
        batches: this process's share of each batch.
        mesh: of the devices.
        keep: prefixes of the outputs to bring to the host; the rest stays where it is.

    Returns:
        name → (N, ...) on every process, with the keys of `CARRIED`; rows whose `valid` is 0 are padding.
    """
    parts: dict[str, list[np.ndarray]] = {}
    waiting = None
    for batch in batches:
        placed = mesh_lib.put_batch(batch, mesh)
        out = predict(variables, placed)
        out = {k: v for k, v in out.items() if k.startswith(keep)} | {k: placed[k] for k in CARRIED}
        if waiting is not None:
            _append(parts, waiting)  # one late, so that the device does not wait for the copy
        waiting = out
    if waiting is not None:
        _append(parts, waiting)
    return {name: np.concatenate(values) for name, values in parts.items()}


def _append(parts: dict[str, list[np.ndarray]], out: dict[str, Any]) -> None:
    for name, value in mesh_lib.to_host(out).items():
        parts.setdefault(name, []).append(np.asarray(value))
