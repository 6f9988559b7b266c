"""Predictions of a model for a whole split."""

from collections.abc import Callable, Iterable, Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from fusionjax import interruption
from fusionjax.distributed import mesh as mesh_lib
from fusionjax.errors import UserError
from fusionjax.types import PyTree

CARRIED = ("label", "valid", "index")
"""Batch keys that are returned with the predictions."""


class NotFinite(UserError):
    """The model predicts NaN or Inf: training has diverged, and no score can be computed."""

    def __init__(self, name: str, bad: int, count: int):
        super().__init__(
            f"the output {name} of the model is not finite for {bad} of {count} examples: training has diverged. Lower "
            "config.optim.learning_rate, set config.optim.clip_norm or use --config.precision=float32, with a new --workdir"
        )


def collect(
    predict: Callable[[PyTree, dict[str, jax.Array]], Mapping[str, jax.Array]],
    variables: PyTree,
    batches: Iterable[dict[str, np.ndarray]],
    mesh: Mesh,
    *,
    output_names: tuple[str, ...] = ("probabilities/",),
) -> dict[str, np.ndarray]:
    """Collects the predictions of all examples, padding included.

    Args:
        predict: compiled, (variables, batch) → name → array with a leading batch axis.
        variables: of the model.
        batches: this process's share of each batch.
        mesh: of the devices.
        output_names: prefixes of the outputs to copy to the host; other outputs are discarded.

    Returns:
        name → (N, ...) on every process, with the keys of `CARRIED`; rows whose `valid` is 0 are padding.

    Raises:
        NotFinite: an output of an example that could be read is NaN or Inf.
        Interrupted: a signal arrived; see `fusionjax.interruption`.
    """
    parts: dict[str, list[np.ndarray]] = {}
    waiting = None
    for batch in batches:
        interruption.check()
        placed = mesh_lib.put_batch(batch, mesh)
        predicted = predict(variables, placed)
        out = {k: v for k, v in predicted.items() if k.startswith(output_names)} | {
            k: placed[k] for k in CARRIED
        }
        if waiting is not None:
            _append(
                parts, waiting
            )  # with a delay of one batch, so that the device does not wait for the copy
        waiting = out
    if waiting is not None:
        _append(parts, waiting)
    rows = {name: np.concatenate(values) for name, values in parts.items()}
    _check_finite(rows)
    return rows


def _check_finite(rows: Mapping[str, np.ndarray]) -> None:
    if not rows:
        return
    good = (rows["valid"] > 0) & (rows["index"] >= 0)
    for name in rows.keys() - set(CARRIED):
        array = rows[name][good]
        finite = np.isfinite(array.astype(np.float32) if array.dtype.itemsize < 4 else array)
        if not finite.all():
            bad = len(array) - int(finite.reshape(len(array), -1).all(1).sum())
            raise NotFinite(name, bad, len(array))


def _append(parts: dict[str, list[np.ndarray]], out: dict[str, jax.Array]) -> None:
    for name, value in mesh_lib.to_host(out).items():
        parts.setdefault(name, []).append(np.asarray(value))
