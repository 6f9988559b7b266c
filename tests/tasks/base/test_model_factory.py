"""Models and weights that the tasks share."""

import jax
import numpy as np
import pytest

from configs import openmoji_reid
from fusionjax import config as config_lib
from fusionjax import tasks
from fusionjax.errors import UserError
from fusionjax.tasks.base import model_factory
from fusionjax.tasks.base.protocol import Facts


def test_skipped_parameters_of_a_trunk_in_two_parts():
    c = openmoji_reid.get_config("runlocal")
    with c.unlocked():
        c.pretrained.skip = ("stem/.*",)
    task = tasks.create(config_lib.validate(c), Facts(("0", "1")))
    fresh = jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(task.model.init, jax.random.key(0))
    )
    merged = task.model.load_pretrained(fresh, model_factory.read_weights(c))
    assert not any(np.any(x) for x in jax.tree.leaves(merged["params"]["trunk"]["stem"]))
    assert any(np.any(x) for x in jax.tree.leaves(merged["params"]["neck"]))
    with c.unlocked():
        c.pretrained.skip = ("sttem/.*",)
    with pytest.raises(UserError, match="sttem"):
        task.model.load_pretrained(fresh, model_factory.read_weights(c))
