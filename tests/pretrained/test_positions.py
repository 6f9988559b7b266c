"""Position embeddings of other grids than that of a model's name."""

import jax
import numpy as np
import pytest

from fusionjax import pretrained
from fusionjax.errors import UserError
from fusionjax.models import create
from fusionjax.pretrained.convert import abstract
from tests.pretrained.test_sources import shallow


def timm_vit(cells=196):
    """A shallow ViT under timm's names."""
    tensors = shallow()
    tensors["pos_embed"] = np.random.default_rng(1).standard_normal((1, 1 + cells, 256)).astype(np.float32)
    return tensors


@pytest.mark.parametrize(("cells", "grid"), [(784, (28, 28)), (128, (16, 8)), (196, (14, 14))])
def test_positions_of_the_run_s_own_grid_are_loaded_as_they_are(cells, grid):
    tensors, lines = timm_vit(cells), []
    weights = pretrained.convert("vit_shallow", tensors)
    model = create("vit_shallow", num_classes=3, image_size=(16 * grid[0], 16 * grid[1]))
    fresh = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract(model))
    merged = pretrained.merge(fresh, weights, grid=grid, log=lines.append)
    np.testing.assert_array_equal(merged["params"]["pos_embed"], tensors["pos_embed"])
    assert lines == []


def test_positions_of_another_grid_are_resampled_and_said():
    lines = []
    model = create("vit_shallow", num_classes=3)
    fresh = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract(model))
    weights = pretrained.convert("vit_shallow", timm_vit(784))
    pretrained.merge(fresh, weights, grid=(14, 14), log=lines.append)
    assert lines == ["pos_embed: resampled from 784 to 14×14 cells"]
    with pytest.raises(
        UserError, match="128 cells after 1 prefix tokens: no 11×11 grid; a table that is not square fits"
    ):
        pretrained.merge(fresh, pretrained.convert("vit_shallow", timm_vit(128)), grid=(14, 14))
    with pytest.raises(UserError, match=r"1 of a wrong shape: pos_embed \(1, 197, 255\)"):
        pretrained.convert("vit_shallow", {**timm_vit(), "pos_embed": np.ones((1, 197, 255), np.float32)})
