"""The lower part of a vision transformer, frozen: its tokens, and how attention has mixed them so far, can be cached."""

from typing import Any

import jax.numpy as jnp

from fusionjax.models.attention import attention
from fusionjax.models.backbones.vit import ViT
from fusionjax.models.rollout import matrix_from_qk
from fusionjax.types import Array


class LowerBlocks(ViT):
    """The embedding and the lowest blocks of a `ViT`, in evaluation mode. It has the attributes of `ViT`, and:

    Attributes:
        rollout: also return the rollout of its blocks.
    """

    rollout: bool = False

    def __call__(
        self,
        images: Array | None = None,
        *,
        features: Array | None = None,
        camera: Array | None = None,
        train: bool = False,
        capture: tuple[str, ...] = (),
    ) -> tuple[Array, dict[str, Any]]:
        """Returns the tokens, and beside each its row of the rollout.

        Args:
            images: (B, h, w, 3) normalised.
            features, camera, train, capture: of `ViT`; not used.

        Returns:
            (B, N, 1, D), or (B, N, 1, D + N) with `rollout`: after the D channels of token i the row i of S̄_K ⋯ S̄_1, over
            all N tokens, registers included; and aux without entries.
        """
        x = self.embed(images, None, train=False)
        wanted = ("qk",) if self.rollout else ()
        x, seen = self.encode(x, attend=attention, train=False, capture=wanted)
        if self.rollout:
            rows = matrix_from_qk(seen["queries"], seen["keys"])
            x = jnp.concatenate([x, rows.astype(x.dtype)], axis=-1)
        return x[:, :, None], {}
