"""All losses in one import: `from fusionjax import losses`, then `losses.triplet(embeddings, ids)`.

Pure functions in float32. Classification losses return one value per example, metric losses one value per anchor and which
anchors count, contrastive losses a scalar.

>>> import jax.numpy as jnp
>>> float(cross_entropy(jnp.zeros((1, 2)), jnp.array([0])).round(4)[0])
0.6931
"""

from fusionjax.train.contrastive import info_nce, nt_xent
from fusionjax.train.losses import cross_entropy, focal, masked_mean, uncertainty_weighted
from fusionjax.train.metric_losses import center, circle, triplet

__all__ = (
    "center",
    "circle",
    "cross_entropy",
    "focal",
    "info_nce",
    "masked_mean",
    "nt_xent",
    "triplet",
    "uncertainty_weighted",
)
