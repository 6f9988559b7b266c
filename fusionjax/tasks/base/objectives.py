"""Parts of the losses, shared by the tasks."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics
from ml_collections import ConfigDict

from fusionjax.config import impossible
from fusionjax.data.source import Source
from fusionjax.train import losses
from fusionjax.types import Aux


def average(values: jax.Array, valid: jax.Array) -> clu_metrics.Average:
    """Mean of the rows whose `valid` is 1, as (sum, count): values (B,), valid float32 (B,)."""
    return clu_metrics.Average(
        total=jnp.where(valid > 0, values, 0).sum(dtype=jnp.float32), count=valid.sum()
    )


def single(value: jax.Array) -> clu_metrics.Average:
    """A scalar of a whole batch, as (sum, count)."""
    return clu_metrics.Average(total=value, count=jnp.ones(()))


def combined(config: ConfigDict, by_branch: Mapping[str, jax.Array], aux: Aux) -> jax.Array:
    """The loss of all branches: weighted by uncertainty, or their sum with `loss.branch_weighting="sum"`.

    Args:
        config: of the whole run, validated.
        by_branch: branch → its loss, a scalar.
        aux: of the module, with "log_variances" where the weights are learned.
    """
    if "log_variances" not in aux or config.loss.branch_weighting == "sum":
        return jnp.asarray(sum(by_branch.values()))
    return losses.uncertainty_weighted(by_branch, aux["log_variances"])


@dataclasses.dataclass(frozen=True, eq=False)
class ExampleLoss:
    """Cross-entropy or, with `loss.focal_gamma`, the focal loss of each example; classes weighted where the config says so.

    Attributes:
        config: of the whole run, validated.
        class_weights: float32 (C,), or None. On the host: a device array that a compiled step closes over would be copied
            when it is lowered.
    """

    config: ConfigDict
    class_weights: np.ndarray | None = None

    def __call__(self, logits: jax.Array, target: jax.Array) -> jax.Array:
        """(B,) losses.

        Args:
            logits: (B, C).
            target: (B,) labels, or (B, C) shares that sum to 1.
        """
        c = self.config.loss
        weights = self.class_weights
        if c.focal_gamma:
            return losses.focal(
                logits, target, alpha=c.focal_alpha, gamma=c.focal_gamma, class_weights=weights
            )
        return losses.cross_entropy(logits, target, label_smoothing=c.label_smoothing, class_weights=weights)


def class_weights(config: ConfigDict, class_names: Sequence[str], train: Source | None) -> np.ndarray | None:
    """Factor of each class: `loss.class_weights`, or with `loss.balanced` N / (C · n_c), counted in the training split.

    Args:
        config: of the whole run.
        class_names: C names.
        train: the training split; None at inference, where no loss is computed.

    Raises:
        UserError: weights of another number of classes.
    """
    c, count = config.loss, len(class_names)
    if c.class_weights and train is not None:
        if len(c.class_weights) != count:
            raise impossible(config, "loss.class_weights", f"one number for each of {count} classes")
        return np.asarray(c.class_weights, np.float32)
    if c.balanced and train is not None:
        found = np.bincount(np.asarray(train.labels), minlength=count)
        return np.asarray(found.sum() / (count * np.maximum(found, 1)), np.float32)
    return None
