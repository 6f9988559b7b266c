"""Prefixes that the names of a state dict share; the choice of a state dict is tested with the reader of torch files."""

import jax
import numpy as np
import pytest

from fusionjax import pretrained
from fusionjax.errors import UserError
from tests.pretrained.test_sources import shallow


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "base.", "module.model.", "module.backbone.vit."])
def test_a_prefix_that_all_names_share_is_removed_and_said(prefix):
    tensors, lines = shallow(), []
    want = pretrained.convert("vit_shallow", tensors, log=lines.append)
    assert lines == []
    got = pretrained.convert("vit_shallow", {f"{prefix}{k}": v for k, v in tensors.items()}, log=lines.append)
    assert jax.tree.all(jax.tree.map(np.array_equal, got, want))
    assert lines == [f"the prefix {prefix} is removed from {len(tensors)} of {len(tensors)} names"]


def test_a_prefix_of_all_names_but_those_of_the_head():
    tensors, lines = shallow(), []
    want = pretrained.convert("vit_shallow", tensors)
    mixed = {k if k.startswith("head.") else f"backbone.{k}": v for k, v in tensors.items()}
    for outer in ("", "module."):
        named = {f"{outer}{k}": v for k, v in mixed.items()}
        got = pretrained.convert("vit_shallow", named, log=lines.append)
        assert jax.tree.all(jax.tree.map(np.array_equal, got, want))
    # The head of another task, as self-supervised training has it beside the backbone.
    headless = {f"backbone.{k}": v for k, v in tensors.items() if not k.startswith("head.")}
    lines.clear()
    got = pretrained.convert(
        "vit_shallow", {**headless, "head.mlp.0.weight": np.ones((4, 4))}, log=lines.append
    )
    assert "head" not in got["params"]
    assert lines[-1] == "1 tensors beside it are ignored: head.mlp.0.weight"


def test_a_prefix_of_another_model_s_names_changes_nothing():
    with pytest.raises(UserError, match="not one name is this model's: the weights are of another"):
        pretrained.convert("vit_shallow", {"module.a.weight": np.ones(3), "module.b.weight": np.ones(3)})
    with pytest.raises(UserError, match="left over: other.weight"):
        pretrained.convert("vit_shallow", {**shallow(), "other.weight": np.ones(3)})
